"""Faults of the network: the leader or a follower cut off, one direction lost, links that come and go."""

from __future__ import annotations

import asyncio

from chaos.arena import Arena
from chaos.scenarios.base import PADDED, SMALL, Scenario

CUT_S = (1.5, 3.0)  # longer than an election takes
HEALED_S = (1.0, 2.0)
FLAP_S = 0.2


async def partition_leader(arena: Arena) -> None:
    """The leader alone on its side: the others elect, and the old one may neither acknowledge nor serve reads."""
    while arena.time_left() > 0:
        old = await arena.leader()
        arena.say(f"cut off the leader {old}")
        await arena.isolate(old)
        arena.faults += 1
        new = await arena.new_leader(besides=(old,))
        if new is None:
            arena.fail(f"no new leader while {old} was cut off")
        else:
            arena.say(f"{new} leads")
        await arena.pause_between(*CUT_S)
        await arena.heal()
        arena.say("healed")
        await arena.pause_between(*HEALED_S)


async def partition_follower(arena: Arena) -> None:
    """A follower alone: nobody may notice but itself, and its return may depose nobody."""
    while arena.time_left() > 0:
        leader = await arena.leader()
        victim = arena.rng.choice([node_id for node_id in arena.ids if node_id != leader])
        before = await arena.view(leader)
        arena.say(f"cut off the follower {victim} ({leader} leads)")
        await arena.isolate(victim)
        arena.faults += 1
        await arena.pause_between(*CUT_S)
        await arena.heal()
        arena.say("healed")
        await arena.pause_between(*HEALED_S)
        after = await arena.view(leader)
        if before and after and after.get("leader") != before.get("leader"):
            arena.say(f"leadership moved from {before.get('leader')} to {after.get('leader')} (not an error by itself)")


async def one_way(arena: Arena) -> None:
    """One node hears but is not heard, or is heard but does not hear; leaders and followers in turn."""
    while arena.time_left() > 0:
        leader = await arena.leader()
        victim = leader if arena.faults % 2 == 0 else arena.rng.choice(await arena.followers())
        others = [node_id for node_id in arena.ids if node_id != victim]
        deaf = arena.rng.random() < 0.5
        role = "leader" if victim == leader else "follower"
        arena.say(f"the {role} {victim} {'hears nobody' if deaf else 'is heard by nobody'}")
        for other in others:
            await (arena.cut(other, victim) if deaf else arena.cut(victim, other))
        arena.faults += 1
        await arena.pause_between(*CUT_S)
        await arena.heal()
        arena.say("healed")
        await arena.pause_between(*HEALED_S)


async def flapping(arena: Arena) -> None:
    """Links that are cut and healed every 200 ms, with resets: to the leader, and between all."""
    while arena.time_left() > 0:
        victim = await arena.leader()
        rounds = arena.rng.randint(6, 12)
        arena.say(f"links flap around {victim}, {rounds} times")
        for number in range(rounds):
            if arena.rng.random() < 0.3:
                one, other = arena.rng.sample(arena.ids, 2)
                await asyncio.to_thread(arena.fabric.reset, one, other)
            await arena.isolate(victim if number % 2 == 0 else arena.rng.choice(arena.ids))
            await arena.pause_between(FLAP_S, FLAP_S)
            await arena.heal()
            await arena.pause_between(FLAP_S, FLAP_S)
            arena.faults += 1
        arena.say("calm")
        await arena.pause_between(*HEALED_S)


SCENARIOS = (
    Scenario("partition-leader", "cuts the leader off from all others", partition_leader, SMALL, PADDED),
    Scenario("partition-follower", "cuts a follower off from all others", partition_follower, SMALL, PADDED),
    Scenario("one-way", "cuts one direction only", one_way, SMALL, PADDED),
    Scenario("flapping", "cuts and heals every 200 ms, with resets", flapping, SMALL, PADDED, gap_s_max=15.0),
)
