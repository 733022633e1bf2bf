"""T6: rollback of a space with 15 % of its pages changed, and back over 10,000 transactions."""

from __future__ import annotations

import asyncio
import random
import time

import lastgood
import uvloop

from benchmarks.harness import MIB, PAGE, Report, fill, local_cluster, quantile, touch

TRANSACTIONS = 10_000
SETTLE_S = 1.0  # followers apply, and threads hash the snapshot that so many changes made due: not what is measured


def run(report: Report, folder: str | None, *, full: bool) -> None:
    with local_cluster(folder) as cluster:
        uvloop.run(_to_snapshot(report, cluster.endpoints, (1024 if full else 128) * MIB))
        uvloop.run(_to_lvc(report, cluster.endpoints))


async def _to_snapshot(report: Report, endpoints: list[str], total: int) -> None:
    chance = random.Random(1)
    pages = total // PAGE
    async with lastgood.connect(endpoints) as store:
        room = await store.space("rollback", create=True)
        await fill(room, total)
        good = await room.snapshot("good", pin=True)
        took: list[float] = []
        for _ in range(max(5, report.runs)):
            await touch(room, sorted(chance.sample(range(pages), pages * 15 // 100)))
            await asyncio.sleep(SETTLE_S)
            before = time.perf_counter()
            done = await room.rollback(good)
            took.append((time.perf_counter() - before) * 1000)
            if not done.verified:
                report.note("a rollback was not verified")
        name = f"rollback_{total // MIB}MiB_15pct_changed"
        report.add(name, took, "ms")
        report.add(f"{name}_p99", [quantile(took, 0.99)], "ms")
        await room.unpin(good)
        await room.delete()


async def _to_lvc(report: Report, endpoints: list[str]) -> None:
    """10,000 small writes, in their order, then all of them taken back."""
    async with lastgood.connect(endpoints) as store:
        room = await store.space("to-lvc", create=True)
        took: list[float] = []
        for _ in range(report.runs):
            start = (await room.write(0, b"start")).lvc
            for at in range(0, TRANSACTIONS, 500):
                await asyncio.gather(*(room.write((at + n) % 4096 * PAGE, b"y" * 64) for n in range(500)))
            await asyncio.sleep(SETTLE_S)
            before = time.perf_counter()
            await room.rollback(lvc=start)
            took.append((time.perf_counter() - before) * 1000)
        report.add(f"rollback_to_lvc_{TRANSACTIONS}_back", took, "ms")
        await room.delete()
