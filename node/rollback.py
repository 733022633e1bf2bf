"""Rollback: to a snapshot by swapping leaves, to an LVC by undoing backwards through the window.

The live state is touched only when everything is known to be in order.
"""

from __future__ import annotations

from collections.abc import Iterator

from node.events import EventBook
from node.results import Refused, RollbackDone
from node.settings import Limits
from node.snapshots import Moment, resolve_kind, take_snapshot
from node.space import Snapshot, Space
from node.table import Table, changed_pages, stamp_versions
from node.undo import Past, undo_back
from node.undo_record import HEAD, RECORD_VERSION, ROLLBACK, TURN, Context
from node.window import Held, UndoBook


def outside_window(space: Space, lvc: int) -> Refused | None:
    """The refusal of an LVC that can't be gone back to; None when it can."""
    oldest, newest = space.window.from_lvc, space.lvc
    if oldest <= lvc <= newest:
        return None
    detail = f"LVC {lvc} is outside the undo window, which goes from {oldest} to {newest}"
    return Refused("outside_window", detail, {"oldest_lvc": oldest, "newest_lvc": newest})


class Turner:
    """Carries out rollbacks that were decided. `turns` counts them for the replicated counter of uids and epochs."""

    def __init__(self, book: UndoBook, events: EventBook, limits: Limits) -> None:
        self.book = book
        self.events = events
        self.limits = limits

    def to_snapshot(
        self, space: Space, target: Snapshot, moment: Moment, position: int, reason: str | None
    ) -> RollbackDone:
        """Swaps the leaves. The left state stays as a snapshot."""
        facts = target.facts
        past = Past(Table(space.heap, target.leaves), facts.size, facts.pages, target.after)
        left_context = space.context()
        left = self._keep_left(space, moment)
        return self._finish(space, past, left, left_context, facts.lvc, target.id, moment, position, reason)

    def to_lvc(
        self, space: Space, lvc: int, moment: Moment, position: int, reason: str | None
    ) -> Iterator[RollbackDone | None]:
        """Undoes back to `lvc`, which is in the window. Yields None between slices and at last the answer."""
        space.heap.ensure(min(space.window.pages_since(lvc), space.max_pages) + 1)
        space.state = "rolling_back"
        past = Past.of(space, space.table.freeze())
        for _ in undo_back(past, self.book, space, lvc):
            yield None
        left_context = space.context()
        left = self._keep_left(space, moment)
        space.state = "active"
        yield self._finish(space, past, left, left_context, lvc, 0, moment, position, reason)

    def _keep_left(self, space: Space, moment: Moment) -> Snapshot:
        kind = resolve_kind(space, "incremental", self.limits)
        return take_snapshot(space, moment, self.events, self.limits, kind=kind, reason="rollback")

    def _finish(
        self,
        space: Space,
        past: Past,
        left: Snapshot,
        left_context: Context,
        to_lvc: int,
        target: int,
        moment: Moment,
        position: int,
        reason: str | None,
    ) -> RollbackDone:
        """The swap itself: past becomes present under the next LVC and epoch, with its undo record and event."""
        from_lvc = space.lvc
        size_before, pages_before = space.size, space.pages
        numbers, differ = changed_pages(left.leaves, past.table.leaves)
        reverted = stamp_versions(past.table, numbers, differ, from_lvc + 1)
        space.table = past.table
        space.size = past.size
        space.pages = past.pages
        space.set_context(past.context)
        space.lvc = from_lvc + 1
        space.epoch += 1
        space.log_seq += 1
        head = HEAD.pack(
            ROLLBACK, 0, 0, 0, RECORD_VERSION, 0, space.uid, space.lvc, space.epoch, moment.index, moment.wall_ms,
            space.log_seq, size_before, space.size, pages_before, *left_context,
        )  # fmt: skip
        record = head + TURN.pack(from_lvc, to_lvc, target, left.id, reverted)
        space.window.held[space.lvc] = Held(left.leaves)
        self.book.append(
            space.window,
            key=moment.index << 12 | position,
            record=record,
            counted=reverted * space.page_size + len(record),
            seq=space.log_seq,
            pages=0,
            bytes_max=space.policy.undo_bytes,
        )
        done = RollbackDone(
            lvc=space.lvc,
            epoch=space.epoch,
            from_lvc=from_lvc,
            to_lvc=to_lvc,
            snapshot=target or None,
            left_snapshot=left.id,
            pages_reverted=reverted,
            verified=True,
        )
        body = {name: getattr(done, name) for name in RollbackDone.__struct_fields__}
        self.events.add(
            moment.index, "rollback.confirmed", space.name, moment.wall_ms, {**body, "reason": reason, "uid": space.uid}
        )
        return done
