"""T7: a follower whose log is gone from the others gets the state by page transfer."""

from __future__ import annotations

import time

import lastgood
import uvloop

from benchmarks.harness import MIB, Report, fill, local_cluster
from cluster.local import LocalCluster, NotReady
from cluster.probe import wait_until

# A journal that is gone long before the space is full, so that replaying it is no way back.
SETTINGS = {"journal_bytes_max": 16 * MIB, "checkpoint_bytes": 8 * MIB}
TIMEOUT_S = 120.0


def run(report: Report, folder: str | None, *, full: bool) -> None:
    total = (1024 if full else 128) * MIB
    with local_cluster(folder, settings=SETTINGS) as cluster:
        leader = cluster.leader()
        follower = next(node_id for node_id in cluster.ids if node_id != leader)
        cluster.stop([follower])
        others = [node.http for node in cluster.nodes if node.id != follower]
        index = uvloop.run(_fill(others, total))
        name = f"install_{total // MIB}MiB"
        took, transferring = _back(cluster, follower, index)
        report.add(f"{name}_ready_after_start", [took], "s")
        incoming = uvloop.run(_transfers(cluster.node(follower).http))
        if not incoming:
            report.note("the follower replayed the log: nothing was transferred")
            return
        moved = sum(one.done_bytes for one in incoming) / 1e6
        report.add(f"{name}_rate", [moved / transferring], "MB/s")
        report.add(f"{name}_rate_with_process_start", [moved / took], "MB/s")
        report.add(f"{name}_sent_twice", [sum(one.resent_bytes for one in incoming)], "B")


async def _fill(endpoints: list[str], total: int) -> int:
    """Fills a space; the log index that the follower has to reach."""
    async with lastgood.connect(endpoints) as store:
        room = await store.space("content", create=True)
        await fill(room, total)
        return (await store.cluster()).commit_index


def _back(cluster: LocalCluster, follower: str, index: int) -> tuple[float, float]:
    """Seconds from the start of the process until it is ready and has applied `index`, and of that with a transfer."""
    started = time.perf_counter()
    cluster.restart(follower)
    url = cluster.node(follower).http
    seen: list[float] = []

    def there() -> bool:
        applied, transferring = uvloop.run(_state(url))
        if transferring:
            seen.append(time.perf_counter())
        return applied >= index

    if not wait_until(there, timeout_s=TIMEOUT_S, clock=time.monotonic, sleep=time.sleep):
        raise NotReady(f"{follower} did not reach index {index} within {TIMEOUT_S:.0f} s")
    end = time.perf_counter()
    cluster.wait_ready(node_ids=[follower])
    return time.perf_counter() - started, end - (seen[0] if seen else started)


async def _state(url: str) -> tuple[int, bool]:
    """Its own applied index (0 while it does not answer or installs), and whether a transfer has begun."""
    timing = lastgood.Timing(timeout_s=1.0, unreachable_s=0.05, connect_s=0.3)
    async with lastgood.connect(url, timing=timing) as store:
        begun = False
        try:
            begun = bool(await store.transfers())
            room = await store.space_info("content", stale=True)
            got = await lastgood.Space(store, room).read_version(0, 1, stale=True)
        except lastgood.LastgoodError:
            return 0, begun
        return got.index or 0, begun


async def _transfers(url: str) -> list[lastgood.Transfer]:
    async with lastgood.connect(url) as store:
        return [one for one in await store.transfers() if one.direction == "in"]
