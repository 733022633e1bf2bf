"""Faults of processes: SIGKILL, SIGSTOP, and all at once."""

from __future__ import annotations

import asyncio
import time

from chaos.arena import Arena
from chaos.scenarios.base import PADDED, SMALL, Scenario

DOWN_S = (0.3, 1.5)
PAUSED_S = (2.0, 4.0)  # several election timeouts
STORM_S = (0.05, 1.5)
CALM_S = (1.5, 2.5)


async def kill_leader(arena: Arena) -> None:
    """SIGKILL to the leader; it comes back with what its disk has."""
    waits: list[float] = []
    while arena.time_left() > 0:
        old = await arena.leader()
        arena.say(f"SIGKILL to the leader {old}")
        killed_at = time.monotonic()
        await arena.kill(old)
        arena.faults += 1
        new = await arena.new_leader(besides=(old,))
        if new is None:
            arena.fail(f"no new leader after {old} was killed")
        else:
            waits.append(time.monotonic() - killed_at)
            arena.say(f"{new} leads after {waits[-1]:.2f} s")
        await arena.pause_between(*DOWN_S)
        await arena.restart(old)
        arena.say(f"{old} started again")
        await arena.pause_between(*CALM_S)
    if waits:
        arena.notes["leader after SIGKILL"] = f"p50 {sorted(waits)[len(waits) // 2]:.2f} s, max {max(waits):.2f} s"


async def pause_leader(arena: Arena) -> None:
    """SIGSTOP to the leader for longer than an election: it wakes up believing that it leads."""
    waits: list[float] = []
    while arena.time_left() > 0:
        old = await arena.leader()
        arena.say(f"SIGSTOP to the leader {old}")
        stopped_at = time.monotonic()
        await arena.pause(old)
        arena.faults += 1
        new = await arena.new_leader(besides=(old,))
        if new is None:
            arena.fail(f"no new leader while {old} was paused")
        else:
            waits.append(time.monotonic() - stopped_at)
            arena.say(f"{new} leads after {waits[-1]:.2f} s")
        await arena.pause_between(*PAUSED_S)
        await arena.resume(old)
        arena.say(f"SIGCONT to {old}")
        await arena.pause_between(*CALM_S)
    if waits:
        arena.notes["leader after SIGSTOP"] = f"p50 {sorted(waits)[len(waits) // 2]:.2f} s, max {max(waits):.2f} s"


async def kill_all(arena: Arena) -> None:
    """SIGKILL to every node at once: what was acknowledged has to be on the disks, not in some process."""
    while arena.time_left() > 0:
        arena.say("SIGKILL to all nodes")
        await asyncio.gather(*(arena.kill(node_id) for node_id in arena.ids))
        arena.faults += 1
        await asyncio.gather(*(arena.restart(node_id) for node_id in arena.ids))
        arena.say(f"all started again; {await arena.leader()} leads")
        await arena.pause_between(*CALM_S)


async def kill_storm(arena: Arena) -> None:
    """SIGKILL to any node at any moment: while it starts, recovers, installs, or is the last one."""
    while arena.time_left() > 0:
        victim = arena.rng.choice(arena.ids)
        await arena.kill(victim)
        arena.faults += 1
        if arena.rng.random() < 0.8:
            await arena.restart(victim)
        await arena.pause_between(*STORM_S)
        if arena.rng.random() < 0.3:
            for node_id in arena.ids:
                await arena.restart(node_id)
        if arena.faults % 10 == 0:
            arena.say(f"{arena.faults} kills so far; all start")
            for node_id in arena.ids:
                await arena.restart(node_id)
            await arena.leader()
            await arena.pause_between(*CALM_S)


SCENARIOS = (
    Scenario("kill-leader", "SIGKILL to the leader, which starts again", kill_leader, SMALL, PADDED),
    Scenario("pause-leader", "SIGSTOP to the leader, longer than an election", pause_leader, SMALL, PADDED),
    Scenario("kill-storm", "SIGKILL to any node at any moment", kill_storm, SMALL, PADDED, gap_s_max=None),
    Scenario("kill-all", "SIGKILL to all nodes at once", kill_all, SMALL, PADDED, gap_s_max=None),
)
