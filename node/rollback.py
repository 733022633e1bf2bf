"""Rollback: to a snapshot by swapping leaves, to an LVC by undoing backwards through the window.

The live state is touched only when everything is known to be in order. `Past` is a scratch copy of a state (leaves by
reference, pages copied when undone), so that reads at an LVC and dry runs use the very same code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from node.events import EventBook
from node.faults import LocalCorruption
from node.heap import VERIFIED
from node.results import Refused, RollbackDone
from node.settings import Limits
from node.snapshots import Moment, resolve_kind, take_snapshot
from node.space import Snapshot, Space
from node.table import Leaves, Table, changed_pages, stamp_versions
from node.undo_record import (
    HEAD,
    HEAD_CONTEXT,
    PAGE,
    RANGE,
    RECORD_VERSION,
    ROLLBACK,
    TURN,
    Context,
    UndoHead,
    UndoRange,
    UndoRecord,
    decode_record,
)
from node.window import Held, UndoBook, UndoWindow

SLICE_RECORDS = 32  # undone between two looks at the clock

_unpack_head = HEAD.unpack_from
_unpack_page = PAGE.unpack_from
_unpack_range = RANGE.unpack_from


@dataclass
class Past:
    """A state on its way back: table of its own, size, present pages, dirtiness."""

    table: Table
    size: int
    pages: int
    context: Context

    @classmethod
    def of(cls, space: Space, leaves: Leaves) -> Past:
        """The present state of `space`, whose frozen leaves are given."""
        return cls(Table(space.heap, leaves), space.size, space.pages, space.context())


def outside_window(space: Space, lvc: int) -> Refused | None:
    """The refusal of an LVC that can't be gone back to; None when it can."""
    oldest, newest = space.window.from_lvc, space.lvc
    if oldest <= lvc <= newest:
        return None
    detail = f"LVC {lvc} is outside the undo window, which goes from {oldest} to {newest}"
    return Refused("outside_window", detail, {"oldest_lvc": oldest, "newest_lvc": newest})


def undo_back(past: Past, book: UndoBook, window: UndoWindow, from_lvc: int, to_lvc: int) -> Iterator[None]:
    """Takes `past` from the state after `from_lvc` to the one after `to_lvc`, yielding now and then.

    Checks the chain: log_seq descends without a gap, and the bytes at each range are what the transaction wrote.
    Raises LocalCorruption, RottenSlot, HeapFull.
    """
    seq_stop: int | None = None
    for lvc in range(from_lvc, to_lvc, -1):
        raw = book.raw(window, lvc)
        head = UndoHead._make(_unpack_head(raw))
        if head.lvc != lvc or head.uid != window.uid or head.version != RECORD_VERSION:
            raise LocalCorruption(f"the undo record of LVC {lvc} of uid {window.uid} is another one: {head}")
        if seq_stop is not None and head.seq_stop != seq_stop:
            raise LocalCorruption(f"undo record of LVC {lvc} ends at log_seq {head.seq_stop}, expected {seq_stop}")
        seq_stop = head.seq
        if head.ranges == 1 and head.pages == 1 and head.flags == 0:
            _undo_small(past.table, raw, head)
        else:
            undo_record(past.table, decode_record(raw), window)
        if lvc % SLICE_RECORDS == 0 and lvc != to_lvc + 1:
            yield
    if from_lvc > to_lvc:
        past.size, past.pages = head.size_before, head.pages_before
        past.context = Context(*head[HEAD_CONTEXT:])


def undo_record(table: Table, record: UndoRecord, window: UndoWindow) -> None:
    """Undoes one record of any kind in the table."""
    if record.kind == ROLLBACK:
        table.swap(window.held[record.lvc].leaves)
        return
    if record.sets_size:
        held = window.held.get(record.lvc)
        if held is not None:
            table.leaves.update(held.leaves)
    for image in reversed(record.ranges):
        _undo_range(table, image, record)
    for page, version, mark, present in record.pages:
        leaf = table.own(page >> 8)
        at = page & 255
        leaf.version_of[at] = version
        leaf.mark_of[at] = mark
        if not present:
            table.clear(leaf, at)


def _undo_small(table: Table, raw: memoryview, head: UndoHead) -> None:
    """The same for one range within one page: most records, so without detours."""
    at = HEAD.size + head.id_bytes
    page, version, mark, present = _unpack_page(raw, at)
    offset, length, nbytes, _, after_crc = _unpack_range(raw, at + PAGE.size)
    at += PAGE.size + RANGE.size
    leaf = table.own(page >> 8)
    index = page & 255
    heap = table.heap
    slot = leaf.slot_of[index]
    if slot == 0 or heap.ref_of[slot] != 1 or heap.flag_of[slot] != VERIFIED:
        slot = table.writable(leaf, index)
    start = (slot - page) * heap.page_size + offset
    view = heap.view
    found = crc32(view[start : start + length])
    if found != after_crc:
        raise _broken(offset, length, head.uid, head.lvc, found, after_crc)
    if present:
        view[start : start + nbytes] = raw[at : at + nbytes]
        if nbytes < length:
            view[start + nbytes : start + length] = bytes(length - nbytes)
    else:
        table.clear(leaf, index)
    leaf.version_of[index] = version
    leaf.mark_of[index] = mark


def _broken(offset: int, length: int, uid: int, lvc: int, found: int, expected: int) -> LocalCorruption:
    return LocalCorruption(
        f"bytes [{offset}, {offset + length}) of space uid {uid} are not what LVC {lvc} wrote: "
        f"crc {found:08x}, expected {expected:08x}"
    )


def _undo_range(table: Table, image: UndoRange, record: UndoRecord) -> None:
    """Compares the present bytes with what was written, then puts those before it back; zeros past the old size."""
    offset, length, before, _, after_crc = image
    heap = table.heap
    page_size = heap.page_size
    page = offset // page_size
    stop = offset + length
    crc = 0
    at = offset
    spans = []
    while at < stop:
        leaf = table.own(page >> 8)
        end = min(stop, (page + 1) * page_size)
        slot = table.writable(leaf, page & 255)
        base = (slot - page) * page_size
        crc = crc32(heap.view[base + at : base + end], crc)
        spans.append((base, at, end))
        at = end
        page += 1
    if crc != after_crc:
        raise _broken(offset, length, record.uid, record.lvc, crc, after_crc)
    view = heap.view
    image_stop = offset + len(before)
    for base, low, high in spans:
        middle = min(max(image_stop, low), high)
        if low < middle:
            view[base + low : base + middle] = before[low - offset : middle - offset]
        if middle < high:
            view[base + middle : base + high] = bytes(high - middle)


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
        for _ in undo_back(past, self.book, space.window, space.lvc, lvc):
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
