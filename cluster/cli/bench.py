"""`lastgood bench`: what this cluster does, measured from one client process."""

from __future__ import annotations

import asyncio
import os
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import Final

import click
import lastgood

from cluster.cli.client import Client, client_options

_VALUE_BYTES: Final = 256
_PAGE: Final = 4096
_IN_FLIGHT: Final = (1, 16, 64, 256)


@dataclass(frozen=True)
class Figure:
    """One measured value."""

    name: str
    value: float
    unit: str

    def text(self) -> str:
        return f"{self.name}: {self.value:.6g} {self.unit}"


@click.command(epilog="\b\nExample:\n  lastgood bench --seconds 5\n  lastgood bench --only writes,reads --json")
@click.option("--seconds", type=click.FloatRange(0.2, 600), default=3.0, show_default=True, help="For each measure.")
@click.option("--only", default=None, metavar="NAME,…", help="Of writes, reads, snapshots, rollback.")
@click.option("--pages", type=click.IntRange(16), default=4096, show_default=True, help="Size of the rollback's space.")
@client_options
def bench(client: Client, seconds: float, only: str | None, pages: int) -> None:
    """Measure writes, linearizable reads, snapshots and rollback, in spaces of its own that are deleted afterwards.

    Prints a line `name: value unit` each; with --json a document each.
    """
    measures: dict[str, Callable[[Client, lastgood.Store, float, int], Awaitable[None]]] = {
        "writes": _writes,
        "reads": _reads,
        "snapshots": _snapshots,
        "rollback": _rollback,
    }
    names = [name.strip() for name in only.split(",")] if only else list(measures)
    unknown = [name for name in names if name not in measures]
    if unknown:
        raise click.UsageError(f"there is no measure {', '.join(unknown)}; choose from {', '.join(measures)}")

    async def work(store: lastgood.Store) -> None:
        for name in names:
            await measures[name](client, store, seconds, pages)

    client.run(work, fast_loop=True)


def _print(client: Client, figure: Figure) -> None:
    client.out.line(figure, figure.text())


async def _timed(
    seconds: float, in_flight: int, start: Callable[[int], Awaitable[object]]
) -> tuple[float, list[float]]:
    """Keeps `in_flight` calls going for so long; rate a second and every call's seconds. A failure ends it."""
    times: list[float] = []
    clock = time.perf_counter
    numbers = iter(range(1 << 62))
    begun = clock()
    end = begun + seconds

    async def worker(numbers: Iterator[int]) -> None:
        while (before := clock()) < end:
            await start(next(numbers))
            times.append(clock() - before)

    await asyncio.gather(*(worker(numbers) for _ in range(in_flight)))
    return len(times) / (clock() - begun), times


def _quantile(times: list[float], q: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] * 1000 if ordered else float("nan")


def _report(client: Client, name: str, rate: float, times: list[float]) -> None:
    _print(client, Figure(f"{name}_per_s", rate, "1/s"))
    _print(client, Figure(f"{name}_p50", _quantile(times, 0.5), "ms"))
    _print(client, Figure(f"{name}_p99", _quantile(times, 0.99), "ms"))


async def _own_space(store: lastgood.Store, what: str) -> lastgood.Space:
    return await store.space(f"bench-{what}-{secrets.token_hex(4)}", create=True)


async def _writes(client: Client, store: lastgood.Store, seconds: float, pages: int) -> None:
    room = await _own_space(store, "writes")
    value = os.urandom(_VALUE_BYTES)
    try:
        await room.write(0, value)
        for in_flight in _IN_FLIGHT:
            rate, times = await _timed(seconds, in_flight, lambda n: room.write(n % 1024 * _PAGE, value))
            _report(client, f"writes_{_VALUE_BYTES}B_{in_flight}_in_flight", rate, times)
    finally:
        await room.delete()


async def _reads(client: Client, store: lastgood.Store, seconds: float, pages: int) -> None:
    room = await _own_space(store, "reads")
    try:
        await room.write(0, os.urandom(64 * _PAGE))
        for in_flight in (1, 64):
            rate, times = await _timed(seconds, in_flight, lambda n: room.read_version(n % 64 * _PAGE, _VALUE_BYTES))
            _report(client, f"linearizable_reads_{_VALUE_BYTES}B_{in_flight}_in_flight", rate, times)
    finally:
        await room.delete()


async def _snapshots(client: Client, store: lastgood.Store, seconds: float, pages: int) -> None:
    room = await _own_space(store, "snapshots")
    try:
        await room.write(0, os.urandom(256 * _PAGE))
        await room.snapshot()

        async def touch_and_take(number: int) -> None:
            room.write(number % 256 * _PAGE, number.to_bytes(8, "big"))
            await room.snapshot(kind="incremental")

        rate, times = await _timed(seconds, 64, touch_and_take)
        _report(client, "snapshots_1_page_64_in_flight", rate, times)
    finally:
        await room.delete()


async def _rollback(client: Client, store: lastgood.Store, seconds: float, pages: int) -> None:
    """15 % of the pages are changed before each rollback."""
    room = await _own_space(store, "rollback")
    piece = os.urandom(1 << 20)
    try:
        await asyncio.gather(*(room.write(at, piece) for at in range(0, pages * _PAGE, len(piece))))
        good = await room.snapshot("good", pin=True)
        took: list[float] = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(took) < 3:
            changed = range(0, pages, 7)
            for first in range(0, len(changed), 256):
                part = changed[first : first + 256]
                await room.tx([(page * _PAGE, os.urandom(64)) for page in part])
            before = time.perf_counter()
            await room.rollback(good)
            took.append(time.perf_counter() - before)
        _print(client, Figure(f"rollback_{pages}_pages_15pct_p50", statistics.median(took) * 1000, "ms"))
        _print(client, Figure(f"rollback_{pages}_pages_15pct_p99", _quantile(took, 0.99), "ms"))
        await room.unpin(good)
    finally:
        await room.delete()
