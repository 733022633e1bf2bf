"""Going back through the undo window: from one state of a space to an earlier one, record by record.

`Past` is a scratch copy of a state (leaves by reference, pages copied when undone), so that a rollback, reads at an LVC
and dry runs use the very same code, and nothing live is touched before all is known to be in order.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from zlib import crc32

from node.faults import LocalCorruption
from node.heap import VERIFIED, Heap, RottenSlot
from node.space import Space
from node.table import Leaves, Table
from node.undo_record import (
    HEAD,
    HEAD_CONTEXT,
    PAGE,
    RANGE,
    RECORD_VERSION,
    ROLLBACK,
    Context,
    UndoHead,
    UndoRange,
    UndoRecord,
    decode_record,
)
from node.window import UndoBook, UndoWindow

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


class Sources:
    """Snapshots of a space as places where pages of earlier versions still lie, so that undoing need not copy them.

    Equal versions of a page in one space mean equal bytes; which slot is taken is local and seen by nobody.
    """

    def __init__(self, space: Space) -> None:
        known = sorted((snapshot.facts.lvc, identity) for identity, snapshot in space.snapshots.items())
        self._lvcs = [lvc for lvc, _ in known]
        self._leaves = [space.snapshots[identity].leaves for _, identity in known]

    def find(
        self, heap: Heap, page: int, version: int, before_lvc: int, offset: int, nbytes: int, before_crc: int
    ) -> int:
        """A sound slot that holds that version of the page, 0 if none is known.

        Sound: verified, and at [offset, offset + nbytes) it has the bytes of the before-image.
        """
        at = bisect_left(self._lvcs, before_lvc) - 1
        while at >= 0 and self._lvcs[at] >= version:
            leaf = self._leaves[at].get(page >> 8)
            if leaf is not None and leaf.version_of[page & 255] == version:
                slot = leaf.slot_of[page & 255]
                start = offset - page * heap.page_size
                return slot if slot and _sound(heap, slot, start, nbytes, before_crc) else 0
            at -= 1
        return 0


def _sound(heap: Heap, slot: int, start: int, nbytes: int, crc: int) -> bool:
    try:
        return crc32(heap.page(slot)[start : start + nbytes]) == crc
    except RottenSlot:
        return False


def undo_back(past: Past, book: UndoBook, space: Space, to_lvc: int) -> Iterator[None]:
    """Takes `past` from the present state of `space` to the one after `to_lvc`, yielding now and then.

    Checks the chain: log_seq descends without a gap, and the bytes at each range are what the transaction wrote.
    Raises LocalCorruption, RottenSlot, HeapFull.
    """
    window, from_lvc, sources = space.window, space.lvc, Sources(space)
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
            _undo_small(past.table, raw, head, sources)
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


def _undo_small(table: Table, raw: memoryview, head: UndoHead, sources: Sources) -> None:
    """The same for one range within one page: most records, so without detours."""
    at = HEAD.size + head.id_bytes
    page, version, mark, present = _unpack_page(raw, at)
    offset, length, nbytes, before_crc, after_crc = _unpack_range(raw, at + PAGE.size)
    at += PAGE.size + RANGE.size
    leaf = table.own(page >> 8)
    index = page & 255
    heap = table.heap
    slot = leaf.slot_of[index]
    if not heap.flag_of[slot] & VERIFIED:
        heap.verify(slot)
    start = (slot - page) * heap.page_size + offset
    found = crc32(heap.view[start : start + length])
    if found != after_crc:
        raise _broken(offset, length, head.uid, head.lvc, found, after_crc)
    if not present:
        table.clear(leaf, index)
    elif heap.ref_of[slot] != 1 and (source := sources.find(heap, page, version, head.lvc, offset, nbytes, before_crc)):
        heap.ref_of[source] += 1
        heap.drop(slot)
        leaf.slot_of[index] = source
    else:
        if heap.ref_of[slot] != 1 or heap.flag_of[slot] != VERIFIED:
            start += (table.writable(leaf, index) - slot) * heap.page_size
        view = heap.view
        view[start : start + nbytes] = raw[at : at + nbytes]
        if nbytes < length:
            view[start + nbytes : start + length] = bytes(length - nbytes)
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
