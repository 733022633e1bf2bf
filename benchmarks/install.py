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
        took = _back(cluster, follower, index)
        name = f"install_{total // MIB}MiB"
        report.add(f"{name}_ready_after_start", [took], "s")
        transfers = uvloop.run(_transfers(cluster.node(follower).http))
        incoming = [one for one in transfers if one.direction == "in"]
        if not incoming:
            report.note("the follower replayed the log: nothing was transferred")
            return
        report.add(f"{name}_rate_with_process_start", [sum(one.done_bytes for one in incoming) / 1e6 / took], "MB/s")
        rates = [one.rate_bytes_per_s / 1e6 for one in incoming if one.rate_bytes_per_s]
        report.add(f"{name}_rate_of_the_transfer", rates, "MB/s")
        report.add(f"{name}_sent_twice", [sum(one.resent_bytes for one in incoming)], "B")


async def _fill(endpoints: list[str], total: int) -> int:
    """Fills a space; the log index that the follower has to reach."""
    async with lastgood.connect(endpoints) as store:
        room = await store.space("content", create=True)
        await fill(room, total)
        return (await store.cluster()).commit_index


def _back(cluster: LocalCluster, follower: str, index: int) -> float:
    """Seconds from the start of the process until it is ready and has applied `index`."""
    started = time.perf_counter()
    cluster.restart(follower)
    url = cluster.node(follower).http

    def there() -> bool:
        return uvloop.run(_applied(url)) >= index

    if not wait_until(there, timeout_s=TIMEOUT_S, clock=time.monotonic, sleep=time.sleep):
        raise NotReady(f"{follower} did not reach index {index} within {TIMEOUT_S:.0f} s")
    cluster.wait_ready(node_ids=[follower])
    return time.perf_counter() - started


async def _applied(url: str) -> int:
    """Its own applied index, 0 while it does not answer or installs."""
    timing = lastgood.Timing(timeout_s=1.0, unreachable_s=0.1, connect_s=0.3)
    async with lastgood.connect(url, timing=timing) as store:
        try:
            got = await (await store.space("content")).read_version(0, 1, stale=True)
        except lastgood.LastgoodError:
            return 0
        return got.index or 0


async def _transfers(url: str) -> list[lastgood.Transfer]:
    async with lastgood.connect(url) as store:
        return await store.transfers()
