"""A follower that lags until it must install, and whose install is cut again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from chaos.arena import Arena
from chaos.scenarios.base import SMALL, Scenario

MIB = 1 << 20
FILL_BYTES = 16 * MIB  # several journals of SMALL
RATE = 8 * MIB  # bytes/s towards the follower, so that there is time to cut in the middle
CUT_AT = (0.1, 0.5, 0.9)
CUT_S = (1.6, 2.4)  # longer than the silence after which a receiver dials again
INSTALL_WAIT_S = 60.0
TWICE_BYTES_MAX = MIB


async def incoming(arena: Arena, node_id: str, known: set[str]) -> dict[str, Any] | None:
    """The newest incoming transfer of this node that is not among `known`, None if there is none."""
    rows = [row for row in await arena.transfers(node_id) if row["direction"] == "in" and row["id"] not in known]
    return max(rows, key=lambda row: row["started"]) if rows else None


async def install_with_cuts(
    arena: Arena, victim: str, known: set[str], cut_at: Sequence[float]
) -> tuple[dict[str, Any] | None, int]:
    """Waits for an install of `victim` and cuts it off at each share of the bytes. Returns the last look at the
    transfer (None if none began) and how many cuts were made."""
    row, cuts, waiting = None, 0, list(cut_at)
    deadline = time.monotonic() + INSTALL_WAIT_S
    while time.monotonic() < deadline:
        row = await incoming(arena, victim, known) or row
        if row is not None and row["state"] in ("done", "failed"):
            return row, cuts
        if waiting and row is not None and row["total_bytes"] and row["done_bytes"] >= waiting[0] * row["total_bytes"]:
            share = waiting.pop(0)
            arena.say(f"cut at {share:.0%}: {row['done_bytes']:,} of {row['total_bytes']:,} bytes have arrived")
            await arena.isolate(victim)
            arena.faults += 1
            cuts += 1
            await asyncio.sleep(arena.rng.uniform(*CUT_S))
            row = await incoming(arena, victim, known) or row
            await arena.heal()
            healed = time.monotonic()
            moved = await _moves_on(arena, victim, known, row["done_bytes"])
            arena.say(
                f"healed, bytes flow again after {moved - healed:.2f} s" if moved else "healed, but nothing flows"
            )
            if moved is None:
                arena.fail(f"the install of {victim} did not go on after the heal")
        await asyncio.sleep(0.01)
    return row, cuts


async def _moves_on(arena: Arena, victim: str, known: set[str], done_bytes: int) -> float | None:
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        row = await incoming(arena, victim, known)
        if row is not None and (row["done_bytes"] > done_bytes or row["state"] == "done"):
            return time.monotonic()
        await asyncio.sleep(0.01)
    return None


async def transfer_cut(arena: Arena) -> None:
    """A follower is away until the log that it needs is gone; its install is cut at 10, 50 and 90 %."""
    total_twice = total_cuts = total_bytes = 0
    while arena.time_left() > 0 or total_cuts == 0:
        victim = arena.rng.choice(await arena.followers())
        known = {row["id"] for row in await arena.transfers(victim)}
        arena.say(f"cut off the follower {victim} until the log that it needs is gone")
        await arena.isolate(victim)
        arena.faults += 1
        await arena.fill(FILL_BYTES)
        for other in arena.ids:
            if other != victim:
                await arena.shape(other, victim, rate=RATE, listener="bulk")
        await arena.heal()
        arena.say("healed")
        row, cuts = await install_with_cuts(arena, victim, known, CUT_AT)
        await asyncio.to_thread(arena.fabric.clear)
        if row is None or row["state"] != "done":
            arena.fail(f"no finished install of {victim}: {row}")
            return
        arena.say(
            f"installed {row['total_bytes']:,} bytes, {row['resent_bytes']:,} of them twice, {row['resumes']} resumes"
        )
        total_twice, total_cuts = total_twice + row["resent_bytes"], total_cuts + cuts
        total_bytes += row["total_bytes"]
        if row["resent_bytes"] > cuts * TWICE_BYTES_MAX:
            arena.fail(f"{row['resent_bytes']:,} bytes sent twice after {cuts} cuts, at most 1 MiB a cut is allowed")
        if row["resumes"] < cuts:
            arena.fail(f"{cuts} cuts, but only {row['resumes']} resumes: some cut was not felt")
        if cuts < len(CUT_AT):
            arena.fail(f"only {cuts} of {len(CUT_AT)} cuts fell into the install")
        await arena.pause_between(0.5, 1.0)
    arena.notes["installs"] = f"{total_bytes:,} bytes, {total_cuts} cuts, {total_twice:,} bytes sent twice"


SCENARIOS = (
    Scenario("transfer-cut", "cuts an install at 10, 50 and 90 %", transfer_cut, {**SMALL, "heap_step_bytes": 8 << 20}),
)
