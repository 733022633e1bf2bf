"""The demo's second half: a follower that must install, a transfer that is cut, a leader that is killed."""

from __future__ import annotations

import asyncio
import itertools
import time
from struct import Struct

import lastgood

from chaos.demo.stage import Shown, Stage
from chaos.scenarios.transfer import incoming, install_with_cuts

MIB = 1 << 20
BULK_RATE = 6 * MIB
AWAY_BYTES = 24 * MIB  # three journals of the demo's settings
CHUNK = 256 * 1024
TWICE_BYTES_MAX = MIB
LEDGER_ROW = Struct(">QQ")
WRITERS = 64
WRITES_S = 1.0


async def lagging_follower(stage: Stage, shown: Shown) -> None:
    """A follower is away until the log that it needs is gone; its install is cut in the middle and goes on."""
    arena = stage.arena
    victim = arena.rng.choice(await arena.followers())
    others = [node_id for node_id in arena.ids if node_id != victim]
    known = {row["id"] for row in await arena.transfers(victim)}
    await arena.isolate(victim)
    away = await stage.store.space("away", create=True)
    window: set[asyncio.Future[lastgood.Written]] = set()
    for number in range(AWAY_BYTES // CHUNK):
        window.add(asyncio.ensure_future(away.write(number * CHUNK, arena.rng.randbytes(CHUNK))))
        if len(window) >= 8:
            done, window = await asyncio.wait(window, return_when=asyncio.FIRST_COMPLETED)
            for write in done:
                write.result()
    await asyncio.gather(*window)
    for other in others:
        await arena.shape(other, victim, rate=BULK_RATE, listener="bulk")
    before = sum(stage.fabric.sent(other, victim, "bulk") for other in others)
    healed = time.monotonic()
    await arena.heal()
    row, cuts = await install_with_cuts(arena, victim, known, (0.5,))
    took = time.monotonic() - healed
    await asyncio.to_thread(stage.fabric.clear)
    carried = sum(stage.fabric.sent(other, victim, "bulk") for other in others) - before
    row = await incoming(arena, victim, known) or row
    shown.checks.append(("it had to install", row is not None))
    if row is None:
        return
    shown.said = (
        f"{victim} was away for {AWAY_BYTES // MIB} MiB of writes, installed {row['total_bytes']:,} bytes "
        f"in {took:.1f} s at {BULK_RATE // MIB} MiB/s, cut at half: {row['resent_bytes']:,} bytes sent twice, "
        f"{row['resumes']} resume; the proxy carried {carried:,}"
    )
    shown.checks.append(("the install finished", row["state"] == "done"))
    shown.checks.append(("the cut fell into it, and it went on", cuts == 1 and row["resumes"] >= 1))
    shown.checks.append(("at most 1 MiB was sent twice", row["resent_bytes"] <= TWICE_BYTES_MAX * cuts))
    shown.checks += [(text, False) for text in arena.failures]


async def killed_leader(stage: Stage, shown: Shown) -> None:
    """SIGKILL to the leader while 64 writers write: every acknowledged write is there afterwards."""
    arena = stage.arena
    ledger = await stage.store.space("ledger", create=True)
    acknowledged: dict[int, int] = {}
    times: list[float] = []
    stop = asyncio.Event()
    numbers = iter(range(1_000_000))

    async def writer() -> None:
        while not stop.is_set():
            slot = next(numbers)
            await ledger.write(slot * LEDGER_ROW.size, LEDGER_ROW.pack(slot, slot ^ 0x5EED))
            acknowledged[slot] = slot ^ 0x5EED
            times.append(time.monotonic())

    writers = [asyncio.ensure_future(writer()) for _ in range(WRITERS)]
    await asyncio.sleep(WRITES_S)
    old = await arena.leader()
    killed_at = time.monotonic()
    await arena.kill(old)
    new = await arena.new_leader(besides=(old,))
    elected = time.monotonic() - killed_at
    await asyncio.sleep(WRITES_S)
    stop.set()
    results = await asyncio.gather(*writers, return_exceptions=True)
    errors = [result for result in results if isinstance(result, BaseException)]
    gap = max((b - a for a, b in itertools.pairwise(times)), default=0.0)
    raw = await ledger.read()
    missing = sum(
        1
        for slot, value in acknowledged.items()
        if raw[slot * LEDGER_ROW.size : (slot + 1) * LEDGER_ROW.size] != LEDGER_ROW.pack(slot, value)
    )
    await arena.restart(old)
    await asyncio.to_thread(stage.cluster.wait_ready, timeout_s=30.0)
    shown.said = (
        f"{old} killed under {WRITERS} writers, {new} led after {elected:.2f} s; {len(acknowledged):,} writes "
        f"acknowledged, {missing} missing, longest wait {gap:.2f} s, {len(errors)} errors; {old} is back"
    )
    shown.checks.append(("no acknowledged write is missing", missing == 0))
    shown.checks.append(("writes went on under the new leader", bool(times) and times[-1] > killed_at + elected))
    shown.checks.append((f"no writer saw an error {errors[:1]}", not errors))


async def equal_roots(stage: Stage, shown: Shown) -> None:
    """One consistent cut over all spaces; every node has computed the same roots from its own bytes."""
    cut = await stage.store.snapshot_many(prefix="", label="end")
    roots: dict[str, set[str]] = {}
    for snapshot in cut.snapshots:
        for node_id in stage.cluster.ids:
            path = f"/v1/spaces/{snapshot.space}/snapshots/{snapshot.id}?consistency=stale"
            root = (await stage.get(node_id, path))["root"]
            roots.setdefault(snapshot.space, set()).add(root)
            shown.checks.append((f"{node_id} knows the root of {snapshot.space}", bool(root)))
    for space, found in roots.items():
        shown.checks.append((f"all nodes have one root of {space}: {found}", len(found) == 1))
    text = ", ".join(f"{space} {min(found)[:12]}" for space, found in sorted(roots.items()) if found)
    shown.said = (
        f"{len(roots)} spaces at log index {cut.index}, the same roots on {len(stage.cluster.ids)} nodes: {text}"
    )
