"""Undo records: the bytes of one transaction's before-images, or of one rollback (docs/format.md, "undo record").

A record restores the page table exactly: bytes, presence, versions and marks of the touched pages, size, and the
dirtiness counters as they were before. One record per LVC.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Final, NamedTuple

from node.faults import LocalCorruption
from wal.checks import invariant

RECORD_VERSION: Final = 1
TX: Final = 1
ROLLBACK: Final = 2
SETS_SIZE: Final = 1  # flag of a TX record: after its ranges it set the size, which took one log_seq more

# kind flags tx_id_bytes ranges version pages | uid lvc epoch index at seq size_before size_after pages_before |
# interval baseline_interval last_snapshot baseline dirty baseline_dirty transactions chain
HEAD: Final = Layout(">BBHHHIQQQQQQQQQIIQQQQQI")
PAGE: Final = Layout(">QQIB")  # page, version before, mark before, present before
RANGE: Final = Layout(">QIIII")  # offset, length, bytes of before-image, crc of it, crc of what was written
TURN: Final = Layout(">QQQQQ")  # from_lvc, to_lvc, target snapshot (0 = none), left snapshot, pages_reverted
RANGE_BYTES_MAX: Final = 1 << 20  # longer writes become several ranges

invariant(HEAD.size == 136, "docs/format.md, undo record", size=HEAD.size)
invariant(PAGE.size == 21, "docs/format.md, undo record page", size=PAGE.size)
invariant(RANGE.size == 24, "docs/format.md, undo record range", size=RANGE.size)


class Context(NamedTuple):
    """Dirtiness of one state. Snapshots are ids, 0 = none. `transactions` and `chain` count since the baseline.

    A page is dirty since the last snapshot when mark == interval, since the baseline when mark >= baseline_interval.
    """

    interval: int = 1
    baseline_interval: int = 1
    last_snapshot: int = 0
    baseline: int = 0
    dirty_pages: int = 0
    baseline_dirty_pages: int = 0
    transactions: int = 0
    chain: int = 0


class UndoHead(NamedTuple):
    """The fields of HEAD; those of the dirtiness before begin at `HEAD_CONTEXT`."""

    kind: int
    flags: int
    id_bytes: int
    ranges: int
    version: int
    pages: int
    uid: int
    lvc: int
    epoch: int
    raft_index: int
    at_ms: int
    seq: int
    size_before: int
    size_after: int
    pages_before: int
    interval: int
    baseline_interval: int
    last_snapshot: int
    baseline: int
    dirty_pages: int
    baseline_dirty_pages: int
    transactions: int
    chain: int

    @property
    def seq_stop(self) -> int:
        """The log_seq after this record's last."""
        return self.seq + (1 if self.kind == ROLLBACK else self.ranges + (self.flags & SETS_SIZE))


HEAD_CONTEXT: Final = 15
invariant(UndoHead._fields[HEAD_CONTEXT:] == Context._fields, "the head ends with a context", at=HEAD_CONTEXT)


class UndoRange(NamedTuple):
    """One before-image. `before` covers [offset, offset + len(before)); the rest of the range lay beyond the size."""

    offset: int
    length: int
    before: memoryview
    before_crc: int
    after_crc: int


class UndoRecord(NamedTuple):
    """A decoded record. `pages` are (page, version, mark, present) before; `turn` is set for rollbacks only."""

    kind: int
    sets_size: bool
    tx_id: str
    uid: int
    lvc: int
    epoch: int
    raft_index: int
    at_ms: int
    seq: int
    size_before: int
    size_after: int
    pages_before: int
    context: Context
    pages: list[tuple[int, int, int, int]]
    ranges: list[UndoRange]
    turn: tuple[int, int, int, int, int] | None

    @property
    def seq_stop(self) -> int:
        """The log_seq after this record's last."""
        return self.seq + (1 if self.kind == ROLLBACK else len(self.ranges) + self.sets_size)


def decode_record(raw: memoryview) -> UndoRecord:
    """Inverse of what node/transact.py and node/rollback.py pack. `before`s are views into `raw`."""
    (
        kind,
        flags,
        id_bytes,
        ranges,
        version,
        pages,
        uid,
        lvc,
        epoch,
        index,
        at_ms,
        seq,
        before,
        after,
        present,
        *context,
    ) = HEAD.unpack_from(raw)
    if version != RECORD_VERSION:
        raise LocalCorruption(f"undo record version {version}, known is {RECORD_VERSION}")
    at = HEAD.size
    tx_id = str(raw[at : at + id_bytes], "utf-8")
    at += id_bytes
    turn = None
    if kind == ROLLBACK:
        turn = TURN.unpack_from(raw, at)
    page_stop = at + pages * PAGE.size
    page_rows = list(PAGE.iter_unpack(raw[at:page_stop])) if pages else []
    range_stop = page_stop + ranges * RANGE.size
    rows = []
    image = range_stop
    for offset, length, nbytes, before_crc, after_crc in RANGE.iter_unpack(raw[page_stop:range_stop]):
        rows.append(UndoRange(offset, length, raw[image : image + nbytes], before_crc, after_crc))
        image += nbytes
    return UndoRecord(
        kind, bool(flags & SETS_SIZE), tx_id, uid, lvc, epoch, index, at_ms, seq, before, after, present,
        Context(*context), page_rows, rows, turn,
    )  # fmt: skip
