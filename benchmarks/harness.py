"""What all benchmarks share: a local cluster on the disk, medians of several runs, lines `name: value unit`."""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lastgood

from cluster.local import LocalCluster

VALUE_BYTES = 256
PAGE = 4096
MIB = 1 << 20


@dataclass
class Report:
    """Prints figures as they come and keeps them for comparisons. `runs` repetitions of `seconds` each."""

    seconds: float
    runs: int
    figures: dict[str, float] = field(default_factory=dict)

    def add(self, name: str, values: list[float], unit: str) -> None:
        """The median of `values`; with more than one, their range in brackets."""
        if not values:
            self.note(f"{name}: nothing was measured")
            return
        middle = statistics.median(values)
        self.figures[name] = middle
        spread = f"  [{min(values):.6g} … {max(values):.6g}]" if len(values) > 1 else ""
        print(f"{name}: {middle:.6g} {unit}{spread}", flush=True)

    def rate(self, name: str, measured: list[tuple[float, list[float]]]) -> None:
        """Rates with the median and the 99th percentile of each run's latencies (given in seconds)."""
        self.add(f"{name}_per_s", [rate for rate, _ in measured], "1/s")
        self.add(f"{name}_p50", [quantile(times, 0.5) * 1000 for _, times in measured], "ms")
        self.add(f"{name}_p99", [quantile(times, 0.99) * 1000 for _, times in measured], "ms")

    def note(self, text: str) -> None:
        print(f"# {text}", flush=True)


def quantile(times: list[float], q: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))] if ordered else float("nan")


async def timed(
    seconds: float, in_flight: int, start: Callable[[int, int], Awaitable[Any]]
) -> tuple[float, list[float]]:
    """Keeps `in_flight` workers calling `start(worker, number)`; rate a second, and every call's seconds."""
    times: list[float] = []
    clock = time.perf_counter
    begun = clock()
    end = begun + seconds

    async def work(worker: int) -> None:
        number = 0
        while (before := clock()) < end:
            await start(worker, number)
            times.append(clock() - before)
            number += 1

    await asyncio.gather(*(work(worker) for worker in range(in_flight)))
    return len(times) / (clock() - begun), times


@contextmanager
def local_cluster(folder: str | None, *, settings: dict[str, Any] | None = None) -> Iterator[LocalCluster]:
    """A fresh three-node cluster under `folder` (default: a temporary folder), gone afterwards."""
    root = Path(tempfile.mkdtemp(prefix="lastgood-bench-", dir=folder))
    cluster = LocalCluster.create(root / "cluster", settings=settings)
    try:
        cluster.start()
        cluster.wait_ready()
        yield cluster
    finally:
        cluster.stop()
        shutil.rmtree(root, ignore_errors=True)


def machine(report: Report) -> None:
    """Says what the figures were measured on."""
    load = os.getloadavg()[0]
    report.note(f"{os.cpu_count()} cores, load {load:.1f}, Python {sys.version.split()[0]}, {time.strftime('%F %T')}")
    if load > 0.5 * (os.cpu_count() or 1):
        report.note("others are using this machine: compare ratios of one run, not absolute figures")


async def fill(space: lastgood.Space, total_bytes: int) -> None:
    """Makes every page of the space hold something, 16 MiB on their way."""
    gate = asyncio.Semaphore(16)

    async def one(offset: int) -> None:
        async with gate:
            await space.write(offset, os.urandom(min(MIB, total_bytes - offset)))  # no two pages alike

    await asyncio.gather(*(one(offset) for offset in range(0, total_bytes, MIB)))


async def touch(space: lastgood.Space, pages: list[int]) -> None:
    """Changes 64 bytes of each page, 512 pages a transaction."""
    parts = [pages[at : at + 512] for at in range(0, len(pages), 512)]
    await asyncio.gather(*(space.tx([(page * PAGE, os.urandom(64)) for page in part]) for part in parts))
