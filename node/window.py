"""Undo windows: where each space's undo records lie, how far back each space can go, and what bounds that.

A window holds one record per LVC, oldest first, without a gap. What drops out is decided by counted bytes and records
alone, so every node answers alike. The bytes are in the undo log; a record of the present Raft entry waits in memory
until the entry is complete and goes out with all others of it in one append.
"""

from __future__ import annotations

import heapq
from array import array
from bisect import bisect_left, bisect_right
from itertools import accumulate
from typing import Final, NamedTuple, Protocol

from node.settings import Limits
from node.table import Leaves
from node.undo_record import UndoRecord, decode_record
from wal.checks import invariant

CHUNK_BYTES: Final = 4 << 20  # longest piece of a blob that the undo log is given at once
TRIM_RECORDS: Final = 4_096
FEW_RECORDS: Final = 8  # dropping so many or fewer is the usual case


class RecordLog(Protocol):
    """What of wal.undo.UndoLog is used here."""

    def append(self, record: bytes) -> int: ...
    def read(self, position: int) -> bytes: ...
    def release(self, position: int, nbytes: int) -> None: ...


class Held(NamedTuple):
    """Leaves that a record keeps by reference: all of the left state (rollback), or those that a new size cut."""

    leaves: Leaves


class Blob:
    """The records of one Raft entry as they lie in the undo log, in pieces; `live` of them are in a window."""

    __slots__ = ("live", "pieces")

    def __init__(self, pieces: list[tuple[int, int]], live: int) -> None:
        self.pieces = pieces  # (position, bytes)
        self.live = live


class UndoWindow:
    """The records of one space. Columns share an index; entries before `head` are dead and trimmed now and then."""

    __slots__ = (
        "blobs",
        "bytes",
        "counted",
        "first_lvc",
        "head",
        "held",
        "keys",
        "lengths",
        "offsets",
        "pages",
        "seqs",
        "uid",
    )

    def __init__(self, uid: int, first_lvc: int) -> None:
        self.uid = uid
        self.first_lvc = first_lvc  # LVC of the oldest record
        self.head = 0
        self.bytes = 0  # counted, of living records
        self.keys = array("Q")  # Raft index << 12 | position of the operation: the global order
        self.blobs = array("Q")
        self.offsets = array("I")
        self.lengths = array("I")
        self.counted = array("Q")
        self.seqs = array("Q")  # first log_seq
        self.pages = array("I")  # pages that undoing may have to copy
        self.held: dict[int, Held] = {}

    def __len__(self) -> int:
        return len(self.keys) - self.head

    @property
    def from_lvc(self) -> int:
        """The oldest LVC that can be gone back to."""
        return self.first_lvc - 1

    @property
    def newest_lvc(self) -> int:
        return self.first_lvc + len(self) - 1

    def columns(self) -> tuple[array[int], ...]:
        """All columns, in the order of docs/format.md."""
        return (self.keys, self.blobs, self.offsets, self.lengths, self.counted, self.seqs, self.pages)

    def trim(self) -> None:
        """Cuts the dead entries off."""
        for column in self.columns():
            del column[: self.head]
        self.head = 0

    def excess(self, bytes_max: int, records_max: int) -> int:
        """How many of the oldest records must go so that the bounds hold; the newest stays."""
        most = len(self) - 1
        must = max(0, min(most, len(self) - records_max))
        over = self.bytes - bytes_max
        gone = 0
        for many in range(1, min(FEW_RECORDS, most) + 1):
            if gone >= over:
                return max(must, many - 1)
            gone += self.counted[self.head + many - 1]
        sums = list(accumulate(self.counted[self.head : self.head + most]))
        return max(must, min(most, bisect_left(sums, over) + 1)) if over > 0 else must

    def lvc_of_seq(self, seq: int) -> int:
        """LVC of the record that holds `seq`, or of the oldest one when `seq` is older."""
        at = bisect_right(self.seqs, seq, self.head) - 1
        return self.first_lvc + max(0, at - self.head)

    def pages_since(self, lvc: int) -> int:
        """An upper bound of the pages that going back to `lvc` copies."""
        return sum(self.pages[self.head + max(0, lvc + 1 - self.first_lvc) :])


class UndoBook:
    """All windows of a node over one undo log, with the bound on their sum."""

    def __init__(self, log: RecordLog, limits: Limits) -> None:
        self.log = log
        self.limits = limits
        self.windows: dict[int, UndoWindow] = {}
        self.blobs: dict[int, Blob] = {}
        self.bytes = 0  # counted, of all windows
        self._blob_no = 1  # of the entry that is being applied
        self._parts: list[bytes] = []
        self._part_bytes = 0
        self._part_live = 0
        self._oldest: list[tuple[int, int]] = []  # heap of (key of the oldest record or an earlier one, uid)
        self._cached_blob = 0
        self._cache = memoryview(b"")
        self._new_blobs: set[int] = set()  # since the last freeze, as the next
        self._moved_blobs: set[int] = set()
        self._cut_windows: set[int] = set()  # uids whose window the common bound has cut since the last freeze
        self._dead_blobs: set[int] = set()

    # ------------------------------------------------------------ writing

    def open(self, uid: int, lvc: int) -> UndoWindow:
        """A window without records for a space that stands at `lvc`."""
        window = self.windows[uid] = UndoWindow(uid, lvc + 1)
        return window

    def append(
        self, window: UndoWindow, *, key: int, record: bytes, counted: int, seq: int, pages: int, bytes_max: int
    ) -> None:
        """Adds the record of the next LVC and drops what the bounds no longer allow; the newest record stays."""
        if window.head == len(window.keys):
            heapq.heappush(self._oldest, (key, window.uid))
        window.keys.append(key)
        window.blobs.append(self._blob_no)
        window.offsets.append(self._part_bytes)
        window.lengths.append(len(record))
        window.counted.append(counted)
        window.seqs.append(seq)
        window.pages.append(pages)
        self._parts.append(record)
        self._part_bytes += len(record)
        self._part_live += 1
        window.bytes += counted
        self.bytes += counted
        if window.bytes > bytes_max or len(window) > self.limits.undo_records_max:
            self._evict(window, window.excess(bytes_max, self.limits.undo_records_max))
        if self.bytes > self.limits.undo_bytes_total:
            self._evict_globally(key)

    def _evict(self, window: UndoWindow, records: int) -> None:
        """Drops the oldest `records` of a window."""
        head, stop = window.head, window.head + records
        counted = sum(window.counted[head:stop])
        window.bytes -= counted
        self.bytes -= counted
        window.head = stop
        window.first_lvc += records
        if window.held:
            for lvc in [lvc for lvc in window.held if lvc < window.first_lvc]:
                del window.held[lvc]
        self._unuse_all(window.blobs[head:stop])
        if window.head >= TRIM_RECORDS and window.head * 2 > len(window.keys):
            window.trim()

    def _evict_globally(self, newest_key: int) -> None:
        heap = self._oldest
        while self.bytes > self.limits.undo_bytes_total and heap:
            key, uid = heap[0]
            window = self.windows.get(uid)
            if window is None or not len(window):
                heapq.heappop(heap)
                continue
            oldest = window.keys[window.head]
            if oldest != key:
                heapq.heapreplace(heap, (oldest, uid))
                continue
            if key == newest_key:
                return
            self._evict(window, 1)
            self._cut_windows.add(uid)
            if len(window):
                heapq.heapreplace(heap, (window.keys[window.head], uid))
            else:
                heapq.heappop(heap)

    def drop(self, uid: int) -> None:
        """Forgets a space's window."""
        window = self.windows.pop(uid)
        self.bytes -= window.bytes
        self._unuse_all(window.blobs[window.head :])

    def _unuse_all(self, blobs: array[int]) -> None:
        """One record less for each mention; records of one blob lie side by side."""
        at = 0
        while at < len(blobs):
            number = blobs[at]
            stop = bisect_right(blobs, number, at)
            self._unuse(number, stop - at)
            at = stop

    def _unuse(self, blob_no: int, many: int) -> None:
        if blob_no == self._blob_no:
            self._part_live -= many
            return
        blob = self.blobs[blob_no]
        blob.live -= many
        if blob.live == 0:
            del self.blobs[blob_no]
            if blob_no in self._new_blobs:
                self._new_blobs.remove(blob_no)
            else:
                self._dead_blobs.add(blob_no)
                self._moved_blobs.discard(blob_no)
            for position, nbytes in blob.pieces:
                self.log.release(position, nbytes)

    def move_blob(self, number: int) -> None:
        """Copies the records of one entry to the end of the undo log, so that the segment they were in can go.

        Raises wal.checks.Corrupt, with nothing changed. `blobs` stays in the order of positions.
        """
        blob = self.blobs[number]
        records = [self.log.read(position) for position, _ in blob.pieces]
        for position, nbytes in blob.pieces:
            self.log.release(position, nbytes)
        blob.pieces = [(self.log.append(record), len(record)) for record in records]
        del self.blobs[number]
        self.blobs[number] = blob
        if number not in self._new_blobs:
            self._moved_blobs.add(number)

    def flush(self) -> None:
        """Hands the records of the present entry to the undo log, in one append unless they are very long."""
        if not self._parts:
            return
        if self._part_live:
            joined = b"".join(self._parts)
            if len(joined) <= CHUNK_BYTES:
                pieces = [(self.log.append(joined), len(joined))]
            else:
                chunks = [joined[at : at + CHUNK_BYTES] for at in range(0, len(joined), CHUNK_BYTES)]
                pieces = [(self.log.append(chunk), len(chunk)) for chunk in chunks]
            self.blobs[self._blob_no] = Blob(pieces, self._part_live)
            self._new_blobs.add(self._blob_no)
        self._parts = []
        self._part_bytes = 0
        self._part_live = 0
        self._blob_no += 1

    # ------------------------------------------------------------ reading

    def raw(self, window: UndoWindow, lvc: int) -> memoryview:
        """Bytes of the record of `lvc`, which must be in the window. Raises wal.checks.Corrupt."""
        at = window.head + lvc - window.first_lvc
        invariant(window.head <= at < len(window.keys), "the record is in the window", lvc=lvc, uid=window.uid)
        blob_no = window.blobs[at]
        if blob_no == self._blob_no:
            self.flush()
        if blob_no != self._cached_blob:
            pieces = [self.log.read(position) for position, _ in self.blobs[blob_no].pieces]
            self._cache = memoryview(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            self._cached_blob = blob_no
        offset = window.offsets[at]
        return self._cache[offset : offset + window.lengths[at]]

    def read(self, window: UndoWindow, lvc: int) -> UndoRecord:
        """The record of `lvc`, decoded."""
        record = decode_record(self.raw(window, lvc))
        invariant(record.lvc == lvc and record.uid == window.uid, "an undo record is that of its LVC", lvc=lvc)
        return record

    # ------------------------------------------------------------ freezing and recovery

    @property
    def next_blob(self) -> int:
        return self._blob_no

    def take_new(self) -> set[int]:
        """Blobs that are new or moved since the last call."""
        new = self._new_blobs | self._moved_blobs
        self._new_blobs, self._moved_blobs = set(), set()
        return new

    def take_cut(self) -> set[int]:
        """Spaces whose window was cut for the sake of others since the last call."""
        cut, self._cut_windows = self._cut_windows, set()
        return cut

    def take_dead(self) -> frozenset[int]:
        """Blobs that died since the last call and were there before."""
        dead, self._dead_blobs = self._dead_blobs, set()
        return frozenset(dead)

    def restore(self, windows: dict[int, UndoWindow], blobs: dict[int, Blob], blob_no: int) -> None:
        """Takes over what a checkpoint held."""
        self.windows = windows
        self.blobs = blobs
        self._blob_no = blob_no
        self.bytes = sum(window.bytes for window in windows.values())
        self._oldest = [(window.keys[window.head], uid) for uid, window in windows.items() if len(window)]
        heapq.heapify(self._oldest)
        self._cached_blob = 0
