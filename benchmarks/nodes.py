"""T10, T13: a new leader after SIGKILL, and a killed node's way back."""

from __future__ import annotations

import asyncio
import os
import time

import lastgood
import uvloop

from benchmarks.harness import MIB, Report, fill, local_cluster
from cluster.local import LocalCluster, NotReady


def run(report: Report, folder: str | None, *, full: bool) -> None:
    with local_cluster(folder) as cluster:
        uvloop.run(_prepare(cluster.endpoints, (1024 if full else 128) * MIB))
        kills = [_kill_leader(cluster) for _ in range(max(3, report.runs))]
        report.add("first_write_after_leader_sigkill", [first for first, _ in kills], "s")
        report.add("killed_node_ready_again", [ready for _, ready in kills], "s")


async def _prepare(endpoints: list[str], total: int) -> None:
    async with lastgood.connect(endpoints) as store:
        await fill(await store.space("content", create=True), total)


def _kill_leader(cluster: LocalCluster) -> tuple[float, float]:
    """Seconds from the kill to the next acknowledged write, and from the restart to readiness."""
    leader = cluster.leader()
    if leader is None:
        raise NotReady("no leader is known")
    first = uvloop.run(_first_write(cluster, leader))
    before = time.perf_counter()
    cluster.restart(leader)
    cluster.wait_ready(node_ids=[leader])
    return first, time.perf_counter() - before


async def _first_write(cluster: LocalCluster, leader: str) -> float:
    """A client that was busy with the leader goes on elsewhere by itself."""
    others = [node.http for node in cluster.nodes if node.id != leader]
    async with lastgood.connect([cluster.node(leader).http, *others]) as store:
        room = await store.space("probe", create=True)
        for number in range(100):
            await room.write(0, b"%d" % number)
        pid = cluster.pid_of(leader)
        if pid is None:
            raise NotReady(f"{leader} does not run")
        killed = time.perf_counter()
        os.kill(pid, 9)
        await room.write(0, os.urandom(8))
        took = time.perf_counter() - killed
    await asyncio.to_thread(cluster.kill, leader)  # waits until it is gone
    return took
