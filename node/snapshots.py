"""Taking, keeping and dropping snapshots of one space. Replicated: the same at the same index everywhere."""

from __future__ import annotations

from typing import Any

from node.events import EventBook
from node.policy import decide_snapshot
from node.results import SnapshotInfo
from node.settings import Limits
from node.space import Snapshot, Space
from node.undo_record import Context


class Moment:
    """When a command applies: Raft index, replicated time, wall time for display."""

    __slots__ = ("index", "now_ms", "wall_ms")

    def __init__(self, index: int, now_ms: int, wall_ms: int) -> None:
        self.index = index
        self.now_ms = now_ms
        self.wall_ms = wall_ms


def due_reason(space: Space, limits: Limits) -> str | None:
    """Reason of an automatic snapshot that is due now, None when none is or the space has no baseline."""
    if not space.baseline:
        return None
    return decide_snapshot(
        baseline_dirty_pages=space.baseline_dirty_pages,
        pages=space.pages,
        transactions=space.transactions,
        chain=space.chain,
        policy=space.policy,
        chain_max=limits.chain_max,
    )


def resolve_kind(space: Space, asked: str, limits: Limits) -> str:
    """The kind that a snapshot asked for as auto, incremental, hybrid or full becomes."""
    if asked == "full" or not space.last_snapshot or not space.baseline:
        return "full"
    if asked == "auto":
        return "hybrid" if due_reason(space, limits) else "incremental"
    return asked


def take_snapshot(
    space: Space,
    moment: Moment,
    events: EventBook,
    limits: Limits,
    *,
    kind: str,
    reason: str,
    label: str | None = None,
    ttl_ms: int | None = None,
    pin: str | None = None,
) -> Snapshot:
    """Freezes the present state as a snapshot of a resolved `kind`; the ring drops what is too old for it."""
    if ttl_ms is None and space.policy.ttl_s is not None:
        ttl_ms = int(space.policy.ttl_s * 1000)
    before = space.context()
    base, dirty = _base_of(space, kind)
    space.snapshot_seq += 1
    space.snapshot_lvc = space.lvc
    identity = space.snapshot_seq
    info = SnapshotInfo(
        id=identity,
        label=label,
        space=space.name,
        uid=space.uid,
        kind=kind,
        reason=reason,
        base=base,
        lvc=space.lvc,
        epoch=space.epoch,
        size=space.size,
        pages=space.pages,
        dirty_pages=dirty,
        bytes=dirty * space.page_size,
        index=moment.index,
        created_ms=moment.wall_ms,
        expires_ms=None if ttl_ms is None else moment.wall_ms + ttl_ms,
        pins=[pin] if pin is not None else [],
    )
    space.set_context(_after(before, identity, kind))
    due_ms = None if ttl_ms is None else moment.now_ms + ttl_ms
    snapshot = Snapshot(info, space.table.freeze(), space.context(), due_ms)
    space.add_snapshot(snapshot)
    events.add(moment.index, "snapshot.created", space.name, moment.wall_ms, _event_body(info))
    trim_rings(space, moment, events)
    return snapshot


def _base_of(space: Space, kind: str) -> tuple[int | None, int]:
    """Base and the pages dirtied since it: none and all for `full`."""
    if kind == "full":
        return None, space.pages
    if kind == "hybrid":
        return space.baseline, space.baseline_dirty_pages
    return space.last_snapshot, space.dirty_pages


def _after(before: Context, identity: int, kind: str) -> Context:
    """Dirtiness right after the snapshot `identity`."""
    interval = before.interval + 1
    if kind == "incremental":
        return before._replace(interval=interval, last_snapshot=identity, dirty_pages=0, chain=before.chain + 1)
    return Context(interval, interval, identity, identity, 0, 0, 0, 0)


def _event_body(info: SnapshotInfo) -> dict[str, Any]:
    return {
        "id": info.id,
        "label": info.label,
        "uid": info.uid,
        "kind": info.kind,
        "reason": info.reason,
        "base": info.base,
        "lvc": info.lvc,
        "epoch": info.epoch,
        "size": info.size,
        "pages": info.pages,
        "dirty_pages": info.dirty_pages,
        "bytes": info.bytes,
    }


def trim_rings(space: Space, moment: Moment, events: EventBook) -> None:
    """Drops the oldest unpinned snapshots beyond the newest `ring` of each kind of asking."""
    ring = space.policy.ring
    while len(space.ring_requested) > ring:
        expire_snapshot(space, next(iter(space.ring_requested)), moment, events, "ring")
    while len(space.ring_automatic) > ring:
        expire_snapshot(space, next(iter(space.ring_automatic)), moment, events, "ring")


def expire_snapshot(space: Space, identity: int, moment: Moment, events: EventBook, cause: str) -> None:
    """Drops a snapshot because of `ttl` or `ring`, with an event."""
    snapshot = space.snapshots[identity]
    space.drop_snapshot(snapshot)
    facts = snapshot.facts
    body = {"id": identity, "label": facts.label, "uid": space.uid, "lvc": facts.lvc, "cause": cause}
    events.add(moment.index, "snapshot.expired", space.name, moment.wall_ms, body)
