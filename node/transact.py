"""One transaction on one space: conditions, then all ranges or none, then the undo record."""

from __future__ import annotations

from collections.abc import Iterator
from zlib import crc32

import numpy as np

from node.commands import Tx
from node.results import Refused, TxDone
from node.settings import Limits
from node.space import Space
from node.table import FROZEN, Leaf
from node.undo_record import HEAD, PAGE, RANGE, RANGE_BYTES_MAX, RECORD_VERSION, SETS_SIZE, TX
from node.window import Held, UndoBook

_pack_head = HEAD.pack
_pack_page = PAGE.pack
_pack_range = RANGE.pack

TX_ID_CHARS_MAX = 128

Writes = list[tuple[int, memoryview]]


def check_tx(space: Space, tx: Tx, writes: Writes, limits: Limits) -> Refused | None:
    """Conditions in their order: epoch, lvc, etag, pages; then bounds. None when all hold."""
    if tx.epoch is not None and tx.epoch != space.epoch:
        return stale_epoch(space, tx.epoch)
    if tx.lvc is not None and tx.lvc != space.lvc:
        return Refused("conflict", f"if.lvc is {tx.lvc}, the space stands at {space.lvc}")
    if tx.etag is not None and tx.etag != (space.uid, space.epoch, space.lvc):
        present = f"{space.uid}-{space.epoch}-{space.lvc}"
        return Refused("precondition_failed", f"If-Match names {'-'.join(map(str, tx.etag))}, the ETag is {present}")
    if tx.pages:
        for page, version in tx.pages.items():
            present_version = space.table.version(page)
            if present_version != version:
                detail = f"if.pages names version {version} of page {page}, its version is {present_version}"
                return Refused("conflict", detail)
    return _check_bounds(space, tx, writes, limits)


def _check_bounds(space: Space, tx: Tx, writes: Writes, limits: Limits) -> Refused | None:
    if tx.tx_id is not None and not 0 < len(tx.tx_id) <= TX_ID_CHARS_MAX:
        return Refused("bad_request", f"tx_id of {len(tx.tx_id)} characters, 1 to {TX_ID_CHARS_MAX}")
    if not writes and tx.size is None:
        return Refused("bad_request", "a transaction needs at least one write or a size")
    if len(writes) > limits.tx_ranges_max:
        return Refused("too_large", f"{len(writes)} ranges, at most {limits.tx_ranges_max}")
    bound = space.max_pages * space.page_size
    total = 0
    for offset, block in writes:
        nbytes = len(block)
        if offset < 0 or nbytes == 0:
            return Refused(
                "bad_request", f"a write of {nbytes} bytes at offset {offset}; at least 1 byte from offset 0 up"
            )
        if offset + nbytes > bound:
            return Refused("too_large", f"a write ends at {offset + nbytes}, the space ends at {bound}")
        total += nbytes
    if total > limits.tx_bytes_max:
        return Refused("too_large", f"{total} bytes in one transaction, at most {limits.tx_bytes_max}")
    if tx.size is not None and not 0 <= tx.size <= bound:
        return Refused("too_large", f"size {tx.size}, at most {bound}")
    return None


def stale_epoch(space: Space, named: int) -> Refused:
    """The refusal of a command that names another epoch; carries the present one."""
    return Refused("stale_epoch", f"epoch {named} was named, the space is in {space.epoch}", {"epoch": space.epoch})


def is_small(space: Space, tx: Tx) -> bool:
    """Whether `commit_small` may do it unchecked: one write within one page, no condition but the right epoch."""
    writes = tx.writes
    if (
        len(writes) != 1
        or tx.size is not None
        or tx.lvc is not None
        or tx.etag is not None
        or tx.pages
        or tx.tx_id is not None
        or (tx.epoch is not None and tx.epoch != space.epoch)
    ):
        return False
    offset, block = writes[0]
    nbytes = len(block)
    page_size = space.page_size
    return 0 < nbytes <= page_size - offset % page_size and 0 <= offset <= space.max_pages * page_size - nbytes


def commit_tx(space: Space, tx: Tx, book: UndoBook, index: int, position: int, wall_ms: int) -> TxDone:
    """Applies a checked transaction at once. Raises RottenSlot (this node is damaged) and nothing else."""
    for _ in apply_slices(space, tx, tx.writes, book=book, index=index, position=position, wall_ms=wall_ms):
        pass
    return TxDone(space.lvc, space.epoch, space.log_seq, tx.tx_id or f"{index}-{position}")


def apply_slices(
    space: Space, tx: Tx, writes: Writes, *, book: UndoBook, index: int, position: int, wall_ms: int
) -> Iterator[None]:
    """Applies a checked transaction and yields after each MiB. Nothing may look at the space before the end."""
    context = space.context()
    size_before = space.size
    pages_before = space.pages
    seq = space.log_seq + 1
    lvc = space.lvc + 1
    touched: list[bytes] = []
    ranges: list[bytes] = []
    images: list[bytes] = []
    written = 0
    for offset, block in writes:
        for start in range(0, len(block), RANGE_BYTES_MAX):
            part = block[start : start + RANGE_BYTES_MAX]
            _write_range(space, lvc, offset + start, part, touched, ranges, images)
            written += len(part)
            if written >= RANGE_BYTES_MAX:
                written = 0
                yield
    flags = 0
    counted = 0
    many_pages = len(touched)
    log_seq = space.log_seq + len(ranges)
    if tx.size is not None:
        flags = SETS_SIZE
        log_seq += 1
        held = cut(space, tx.size, lvc) if tx.size < space.size else None
        if held:
            space.window.held[lvc] = Held(held[0])
            counted = held[1] * space.page_size
        space.size = tx.size
    tx_id = (tx.tx_id or f"{index}-{position}").encode()
    head = _pack_head(
        TX, flags, len(tx_id), len(ranges), RECORD_VERSION, many_pages, space.uid, lvc, space.epoch, index, wall_ms,
        seq, size_before, space.size, pages_before, *context,
    )  # fmt: skip
    record = b"".join((head, tx_id, *touched, *ranges, *images))
    space.lvc = lvc
    space.log_seq = log_seq
    space.transactions += 1
    book.append(
        space.window,
        key=index << 12 | position,
        record=record,
        counted=counted + len(record),
        seq=seq,
        pages=many_pages,
        bytes_max=space.policy.undo_bytes,
    )


def commit_small(space: Space, tx: Tx, book: UndoBook, index: int, position: int, wall_ms: int) -> TxDone:
    """The same for a small one: most transactions, so without detours."""
    offset, block = tx.writes[0]
    page_size = space.page_size
    page = offset // page_size
    table = space.table
    heap = space.heap
    nbytes = len(block)
    leaf = table.leaves.get(page >> 8)
    if leaf is None or leaf.owner != table.generation:
        leaf = table.own(page >> 8)
    at = page & 255
    lvc = space.lvc + 1
    size_before = space.size
    pages_before = space.pages
    mark = leaf.mark_of[at]
    version = leaf.version_of[at]
    interval = space.interval
    dirty = space.dirty_pages
    baseline_dirty = space.baseline_dirty_pages
    slot = leaf.slot_of[at]
    if slot == 0:
        present = 0
        slot = table.writable(leaf, at)
        space.pages = pages_before + 1
    else:
        present = 1
        if heap.ref_of[slot] != 1 or heap.flag_of[slot] != 2:
            slot = table.writable(leaf, at)
    start = (slot - page) * page_size + offset
    stop = start + nbytes
    view = heap.view
    end = offset + nbytes
    if end <= size_before:
        before = bytes(view[start:stop])
    elif offset < size_before:
        before = bytes(view[start : start + size_before - offset])
        space.size = end
    else:
        before = b""
        space.size = end
    view[start:stop] = block
    leaf.version_of[at] = lvc
    seq = space.log_seq + 1
    tx_id = f"{index}-{position}"
    raw_id = tx_id.encode()
    baseline_interval = space.baseline_interval
    transactions = space.transactions
    record = b"".join((
        _pack_head(
            TX, 0, len(raw_id), 1, RECORD_VERSION, 1, space.uid, lvc, space.epoch, index, wall_ms, seq,
            size_before, space.size, pages_before, interval, baseline_interval, space.last_snapshot,
            space.baseline, dirty, baseline_dirty, transactions, space.chain,
        ),
        raw_id,
        _pack_page(page, version, mark, present),
        _pack_range(offset, nbytes, len(before), crc32(before), crc32(block)),
        before,
    ))  # fmt: skip
    if mark != interval:
        leaf.mark_of[at] = interval
        space.dirty_pages = dirty + 1
        if mark < baseline_interval:
            space.baseline_dirty_pages = baseline_dirty + 1
    space.lvc = lvc
    space.log_seq = seq
    space.transactions = transactions + 1
    length = len(record)
    book.append(
        space.window, key=index << 12 | position, record=record, counted=length, seq=seq, pages=1,
        bytes_max=space.policy.undo_bytes,
    )  # fmt: skip
    return TxDone(lvc, space.epoch, seq, tx_id)


def _write_range(
    space: Space,
    lvc: int,
    offset: int,
    block: memoryview,
    touched: list[bytes],
    ranges: list[bytes],
    images: list[bytes],
) -> None:
    """Writes one range of the transaction `lvc` and keeps its before-image."""
    page_size = space.page_size
    heap = space.heap
    end = offset + len(block)
    before_parts: list[bytes] = []
    before_stop = min(end, space.size)
    page = offset // page_size
    at = offset
    while at < end:
        stop = min(end, (page + 1) * page_size)
        leaf = space.table.own(page >> 8)
        slot = touch_page(space, leaf, page, lvc, touched)
        base = (slot - page) * page_size
        if at < before_stop:
            before_parts.append(bytes(heap.view[base + at : base + min(stop, before_stop)]))
        heap.view[base + at : base + stop] = block[at - offset : stop - offset]
        at = stop
        page += 1
    before = b"".join(before_parts)
    ranges.append(_pack_range(offset, len(block), len(before), crc32(before), crc32(block)))
    images.append(before)
    if end > space.size:
        space.size = end


def touch_page(space: Space, leaf: Leaf, page: int, lvc: int, touched: list[bytes]) -> int:
    """Makes one page writable and dirty in an own leaf; its entry goes to `touched` the first time. Its slot."""
    at = page & 255
    present = leaf.slot_of[at] != 0
    slot = space.table.writable(leaf, at)
    version = leaf.version_of[at]
    if version != lvc:
        mark = leaf.mark_of[at]
        touched.append(_pack_page(page, version, mark, present))
        leaf.version_of[at] = lvc
        _mark(space, leaf, at, mark)
    if not present:
        space.pages += 1
    return slot


def _mark(space: Space, leaf: Leaf, at: int, mark: int) -> None:
    if mark != space.interval:
        leaf.mark_of[at] = space.interval
        space.dirty_pages += 1
        if mark < space.baseline_interval:
            space.baseline_dirty_pages += 1


def cut(space: Space, size: int, lvc: int) -> tuple[dict[int, Leaf], int]:
    """Lowers the size: pages beyond become absent, the tail of the boundary page zeros.

    Returns the leaves before, frozen now so that the undo record can hold them, and how many pages changed.
    """
    page_size = space.page_size
    first_gone = -(-size // page_size)
    boundary = size // page_size if size % page_size else None
    table = space.table
    start_leaf = (first_gone if boundary is None else boundary) >> 8
    numbers = sorted(number for number in table.leaves if number >= start_leaf)
    held = {number: table.leaves[number] for number in numbers}
    for leaf in held.values():
        leaf.owner = FROZEN
    changed = 0
    for number in numbers:
        changed += _cut_leaf(space, number, max(first_gone - (number << 8), 0), lvc)
    if boundary is not None and (old_leaf := table.leaves.get(boundary >> 8)) and old_leaf.slot_of[boundary & 255]:
        leaf = table.own(boundary >> 8)
        slot = touch_page(space, leaf, boundary, lvc, [])
        base = (slot - boundary) * page_size
        space.heap.view[base + size : base + (boundary + 1) * page_size] = bytes((boundary + 1) * page_size - size)
        changed += 1
    return held, changed


def _cut_leaf(space: Space, number: int, low: int, lvc: int) -> int:
    """Replaces a leaf by one without the pages from entry `low` on. How many of those were present."""
    table = space.table
    old = table.leaves[number]
    gone = old.slots != 0
    gone[:low] = False
    many = int(np.count_nonzero(gone))
    if not many:
        return 0
    leaf = Leaf(space.heap, bytearray(old.block), table.generation)
    leaf.slots[gone] = 0
    space.heap.retain(leaf.slots)
    leaf.versions[gone] = lvc
    marks = leaf.marks
    fresh = gone & (marks != space.interval)
    space.dirty_pages += int(np.count_nonzero(fresh))
    space.baseline_dirty_pages += int(np.count_nonzero(marks[fresh] < space.baseline_interval))
    marks[fresh] = space.interval
    space.pages -= many
    table.leaves[number] = leaf
    return many
