"""Everything at random, one or two faults at a time, never more than a minority of nodes down."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from chaos.arena import Arena
from chaos.scenarios.base import PADDED, SMALL, Scenario

FAULT_S = (0.2, 2.5)
CALM_S = (0.0, 1.2)
DELAY_MS = (5, 80)
RATE = (200_000, 2_000_000)

Undo = Callable[[], Awaitable[None]]


async def mixed(arena: Arena) -> None:
    """Kills, pauses, cuts, one-way cuts, delays, slow links and resets; now and then a second one on top."""
    while arena.time_left() > 0:
        minority = (len(arena.ids) - 1) // 2
        victims = arena.rng.sample(arena.ids, arena.rng.randint(1, minority))
        undo = [await _one(arena, victim) for victim in victims]
        if arena.rng.random() < 0.3:
            await arena.pause_between(0.05, 0.5)
            undo.append(await _network(arena))
        await arena.pause_between(*FAULT_S)
        for act in reversed(undo):
            await act()
        arena.say("undone")
        await arena.pause_between(*CALM_S)


async def _one(arena: Arena, victim: str) -> Undo:
    """A fault of one node; returns what ends it."""
    arena.faults += 1
    kind = arena.rng.choice(("kill", "kill", "pause", "isolate", "deaf", "mute"))
    arena.say(f"{kind} {victim}")
    if kind == "kill":
        await arena.kill(victim)

        async def undo() -> None:
            await arena.restart(victim)

    elif kind == "pause":
        await arena.pause(victim)

        async def undo() -> None:
            await arena.resume(victim)

    else:
        for other in arena.ids:
            if other != victim and kind in ("isolate", "deaf"):
                await arena.cut(other, victim)
            if other != victim and kind in ("isolate", "mute"):
                await arena.cut(victim, other)
        undo = arena.heal
    return undo


async def _network(arena: Arena) -> Undo:
    """Slowness or resets somewhere."""
    arena.faults += 1
    one, other = arena.rng.sample(arena.ids, 2)
    kind = arena.rng.choice(("delay", "rate", "reset"))
    arena.say(f"{kind} {one} {other}")
    if kind == "reset":
        await asyncio.to_thread(arena.fabric.reset, one, other)
    elif kind == "delay":
        await arena.shape(one, other, delay_ms=arena.rng.uniform(*DELAY_MS), listener="all")
    else:
        await arena.shape(one, other, rate=arena.rng.randint(*RATE), listener="all")

    async def undo() -> None:
        await arena.shape(one, other, listener="all")

    return undo


async def calm(arena: Arena) -> None:
    """No fault at all: what this finds, every other scenario would blame on its faults."""
    while arena.time_left() > 0:
        await arena.pause_between(1.0, 1.0)


SCENARIOS = (
    Scenario("calm", "no fault at all, to compare with", calm, SMALL, PADDED, gap_s_max=5.0, hurts=False),
    Scenario("mixed", "kills, pauses, cuts and slow links at random", mixed, SMALL, PADDED, gap_s_max=20.0),
)
