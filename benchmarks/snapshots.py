"""T3, T5: replicated snapshots of one touched page; how long writes wait for the snapshot of a large space."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

import lastgood
import uvloop

from benchmarks.harness import MIB, PAGE, Report, fill, local_cluster, quantile, timed, touch


def run(report: Report, folder: str | None, *, full: bool) -> None:
    with local_cluster(folder) as cluster:
        uvloop.run(_many(report, cluster.endpoints))
        uvloop.run(_large(report, cluster.endpoints, (1024 if full else 128) * MIB))


async def _many(report: Report, endpoints: list[str]) -> None:
    """64 in flight; each touches one page and takes an incremental snapshot of it."""
    async with lastgood.connect(endpoints) as store:
        rooms = [await store.space(f"many-{number}", create=True) for number in range(64)]
        await asyncio.gather(*(room.write(0, os.urandom(16 * PAGE)) for room in rooms))
        await asyncio.gather(*(room.snapshot() for room in rooms))

        async def touch_and_take(worker: int, number: int) -> Any:
            room = rooms[worker]
            touched = room.write(number % 16 * PAGE, number.to_bytes(8, "big"))
            await room.snapshot(kind="incremental")
            await touched

        measured = [await timed(report.seconds, 64, touch_and_take) for _ in range(report.runs)]
        report.rate("snapshots_of_1_page_64_in_flight", measured)


async def _large(report: Report, endpoints: list[str], total: int) -> None:
    """1 % of the pages are dirty; one writer goes on while the snapshot is taken."""
    name = f"{total // MIB}MiB_1pct_dirty"
    async with lastgood.connect(endpoints) as store:
        room = await store.space("large", create=True)
        await fill(room, total)
        await room.snapshot()
        waits: list[float] = []
        takes: list[float] = []
        usual: list[float] = []
        for round_number in range(max(5, report.runs)):
            await touch(room, list(range(round_number % 100, total // PAGE, 100)))
            usual += (await timed(0.3, 1, lambda worker, number: room.write(number % 64 * PAGE, b"x" * 256)))[1]
            before = time.perf_counter()
            taking = asyncio.ensure_future(room.snapshot())
            longest = 0.0
            while not taking.done():
                asked = time.perf_counter()
                await room.write(0, b"x" * 256)
                longest = max(longest, time.perf_counter() - asked)
            await taking
            takes.append((time.perf_counter() - before) * 1000)
            waits.append(longest * 1000)
        report.add(f"snapshot_{name}_acknowledged", takes, "ms")
        report.add(f"snapshot_{name}_longest_write_meanwhile", waits, "ms")
        report.add(f"snapshot_{name}_write_p50_without", [quantile(usual, 0.5) * 1000], "ms")
        await room.delete()
