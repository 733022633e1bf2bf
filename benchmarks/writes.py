"""T1, T2: durable writes of 256 B and linearizable reads, pipelined by one process and over separate connections."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable
from typing import Any

import lastgood
import uvloop

from benchmarks.harness import PAGE, VALUE_BYTES, Report, local_cluster, timed

SLOTS = 1024


def run(report: Report, folder: str | None, *, full: bool) -> None:
    with local_cluster(folder) as cluster:
        uvloop.run(_pipelined(report, cluster.endpoints))
        uvloop.run(_separate(report, cluster.endpoints, 64))
        uvloop.run(_reads(report, cluster.endpoints))


async def _pipelined(report: Report, endpoints: list[str]) -> None:
    value = os.urandom(VALUE_BYTES)
    async with lastgood.connect(endpoints) as store:
        room = await store.space("writes", create=True)

        def write(worker: int, number: int) -> Awaitable[Any]:
            return room.write((worker * 31 + number) % SLOTS * PAGE, value)

        await timed(0.5, 16, write)  # pages exist, the client is at the leader
        for in_flight in (1, 16, 64, 256):
            measured = [await timed(report.seconds, in_flight, write) for _ in range(report.runs)]
            report.rate(f"writes_{VALUE_BYTES}B_{in_flight}_in_flight", measured)


async def _separate(report: Report, endpoints: list[str], count: int) -> None:
    """Each of `count` clients has a connection and a session of its own, and one write in flight."""
    value = os.urandom(VALUE_BYTES)
    stores = [await lastgood.connect(endpoints) for _ in range(count)]
    try:
        rooms = [await store.space("writes", create=True) for store in stores]

        def write(worker: int, number: int) -> Awaitable[Any]:
            return rooms[worker].write((worker * 31 + number) % SLOTS * PAGE, value)

        await timed(0.5, count, write)
        measured = [await timed(report.seconds, count, write) for _ in range(report.runs)]
        report.rate(f"writes_{VALUE_BYTES}B_{count}_connections", measured)
    finally:
        await asyncio.gather(*(store.close() for store in stores))


async def _reads(report: Report, endpoints: list[str]) -> None:
    async with lastgood.connect(endpoints) as store:
        room = await store.space("reads", create=True)
        await room.write(0, os.urandom(64 * PAGE))

        def read(worker: int, number: int) -> Awaitable[Any]:
            return room.read_version((worker + number) % 64 * PAGE, VALUE_BYTES)

        for in_flight in (1, 64):
            measured = [await timed(report.seconds, in_flight, read) for _ in range(report.runs)]
            report.rate(f"linearizable_reads_{VALUE_BYTES}B_{in_flight}_in_flight", measured)
