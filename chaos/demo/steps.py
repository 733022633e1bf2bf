"""The demo's first half: a real file is imported, changed by real work, damaged, and brought back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import lastgood

from chaos.demo.source import FileSource, SqliteSource, sha256
from chaos.demo.stage import Shown, Stage

SPACE = "library"
SEED = 20
CHANGES_MAX = 400
CHANGES_PER_SNAPSHOT = 4
TX_BYTES_MAX = 1 << 20  # what travels as one piece


def make_source(original: Path | None) -> object:
    """The step that makes the file: a SQLite database, or a copy of `original`."""

    async def act(stage: Stage, shown: Shown) -> None:
        if original is None:
            stage.source = await asyncio.to_thread(lambda: SqliteSource(stage.folder, seed=SEED))
        else:
            stage.source = await asyncio.to_thread(lambda: FileSource(stage.folder, original, seed=SEED))
        size = stage.source.path.stat().st_size
        sound, text = await asyncio.to_thread(stage.source.sound, stage.source.path)
        shown.checks.append((f"the file is sound: {text}", sound))
        shown.said = f"{stage.source.what}, {size / 1e6:.1f} MB"

    return act


def file_of(stage: Stage) -> tuple[SqliteSource | FileSource, lastgood.Space]:
    """Source and space; RuntimeError when an earlier step did not get that far."""
    if stage.source is None or stage.space is None:
        raise RuntimeError("an earlier step failed")
    return stage.source, stage.space  # type: ignore[return-value]


async def import_file(stage: Stage, shown: Shown) -> None:
    """The file becomes the bytes of a space, durable on a majority."""
    if stage.source is None:
        raise RuntimeError("an earlier step failed")
    stage.space = await stage.store.space(SPACE, create=True, policy=lastgood.Policy(dirty_pages_min=1))
    started = time.monotonic()
    done = await stage.space.import_file(stage.source.path)
    took = time.monotonic() - started
    stage.good_sha256 = sha256(stage.source.path)
    pieces = -(-done.bytes // TX_BYTES_MAX)
    rate = done.bytes / took / 1e6
    shown.said = f"{done.bytes:,} bytes in {pieces} transactions, on disk on two of three nodes, {rate:.0f} MB/s"
    info = await stage.store.space_info(SPACE)
    shown.checks.append(("the space has the file's size", info.size == stage.source.path.stat().st_size))


async def baseline(stage: Stage, shown: Shown) -> None:
    """A full snapshot, from which the automatic rules count; every node verifies every page of it."""
    source, space = file_of(stage)
    snapshot = await space.snapshot(label="baseline", kind="full", pin=True)
    stage.baseline_lvc = snapshot.lvc
    shown.said = f"snapshot {snapshot.id} ({snapshot.kind}), {snapshot.pages:,} pages, root {short(snapshot.root)}"
    shown.checks.append(("it is a full one", snapshot.kind == "full"))
    copy = stage.folder / "baseline.out"
    await space.export_file(copy, snapshot=snapshot)
    shown.checks.append(("it holds the file bit for bit", sha256(copy) == sha256(source.path)))
    copy.unlink()


async def work(stage: Stage, shown: Shown) -> None:
    """The service works: each change is one durable transaction, with incremental snapshots in between, until so much
    has changed that the cluster makes a hybrid one by itself."""
    source, space = file_of(stage)
    kinds: dict[str, int] = {}
    changes = sent = 0
    slowest = 0.0
    hybrid: lastgood.Snapshot | None = None
    while hybrid is None and changes < CHANGES_MAX:
        writes = await asyncio.to_thread(source.change, changes)
        changes += 1
        started = time.monotonic()
        await space.tx(writes, size=source.path.stat().st_size, tx_id=f"change-{changes}")
        slowest = max(slowest, time.monotonic() - started)
        sent += sum(len(chunk) for _, chunk in writes)
        if changes % CHANGES_PER_SNAPSHOT == 0:
            snapshot = await space.snapshot(label=f"change-{changes}")
            kinds[snapshot.kind] = kinds.get(snapshot.kind, 0) + 1
            hybrid = await _hybrid_since(space, stage.baseline_lvc)
    stage.good_sha256 = sha256(source.path)
    stage.good = await space.snapshot(label="last-good", pin=True)
    names = "SQL UPDATEs" if isinstance(source, SqliteSource) else "seeded changes"
    taken = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
    shown.said = (
        f"{changes} {names}, {sent / 1e6:.1f} MB of changed pages, slowest commit {slowest * 1e3:.1f} ms; {taken}"
    )
    if hybrid is not None:
        shown.said += (
            f"; then snapshot {hybrid.id} came as hybrid ({hybrid.reason}, {hybrid.dirty_pages:,} dirty pages)"
        )
    shown.checks.append(("incremental snapshots were taken", kinds.get("incremental", 0) > 0))
    shown.checks.append(("the cluster made a hybrid one", hybrid is not None))


async def _hybrid_since(space: lastgood.Space, lvc: int) -> lastgood.Snapshot | None:
    """The newest hybrid snapshot after that LVC; the import has made some before."""
    async for snapshot in space.snapshots():
        if snapshot.lvc <= lvc:
            return None
        if snapshot.kind == "hybrid":
            return snapshot
    return None


async def hot_update(stage: Stage, shown: Shown) -> None:
    """A bad update writes garbage, durably and on all nodes: replication does not help against that."""
    source, space = file_of(stage)
    writes = source.damage()
    await space.tx(writes, tx_id="hot-update")
    copy = stage.folder / "damaged.out"
    await space.export_file(copy)
    sound, text = await asyncio.to_thread(source.sound, copy)
    differs = sha256(copy) != stage.good_sha256
    copy.unlink()
    shown.said = f"{len(writes)} ranges of garbage, replicated like any write; now {text}"
    shown.checks.append(("the live state is damaged", differs))
    if isinstance(source, SqliteSource):
        shown.checks.append(("SQLite sees it", not sound))


async def roll_back(stage: Stage, shown: Shown) -> None:
    """One command brings the last good state back on every node."""
    source, space = file_of(stage)
    started = time.monotonic()
    done = await space.rollback("last-good", reason="the hot update damaged the file")
    took = (time.monotonic() - started) * 1e3
    copy = stage.folder / "restored.out"
    await space.export_file(copy)
    digest = sha256(copy)
    sound, text = await asyncio.to_thread(source.sound, copy)
    copy.unlink()
    shown.said = (
        f"{done.pages_reverted} pages back in {took:.1f} ms, the damage is kept as snapshot {done.left_snapshot}; "
        f"exported: SHA-256 {digest[:16]}, {text}"
    )
    shown.checks.append(("it is the last good state by SHA-256", digest == stage.good_sha256))
    shown.checks.append((text, sound))
    shown.checks.append(("the cluster verified the chain", done.verified))


def short(root: str | None) -> str:
    return root[:16] if root else "unknown"
