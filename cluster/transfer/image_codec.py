"""The state at one index as it travels: meta chunks, undo chunks and distinct leaves; and back.

What is encoded is a function of the replicated state alone: page tables name leaves by their place in the manifest,
undo
records follow one another in the order of spaces and LVCs, roots and positions (which are local) stay out.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec
import numpy as np

from cluster.transfer.frames import Damaged
from cluster.transfer.held import leaf_row
from node.events import Event
from node.image import (
    FrozenState,
    KeyImage,
    Pieces,
    SessionImage,
    SnapshotImage,
    SnapshotMeta,
    SpaceImage,
    SpaceMeta,
    StageImage,
    StateMeta,
    WindowImage,
)
from node.table import Leaf, Leaves
from node.window import CHUNK_BYTES as PIECE_BYTES_MAX
from wal.checks import invariant

BLOB_BYTES: Final = 1 << 20  # undo records of one space are written to the receiver's undo log in blobs of about that
TABLE_ROW: Final = np.dtype([("leaf_no", "<u4"), ("leaf_id", "<u4")])


class WindowWire(msgspec.Struct, array_like=True, frozen=True):
    """An undo window without its bytes. Columns are little-endian arrays; `held`: LVC -> page table."""

    first_lvc: int
    count: int
    keys: bytes  # u64
    lengths: bytes  # u32
    counted: bytes  # u64
    seqs: bytes  # u64
    pages: bytes  # u32
    held: list[tuple[int, bytes]]


class SpaceWire(msgspec.Struct, array_like=True, frozen=True):
    meta: SpaceMeta
    table: bytes
    snapshots: list[tuple[SnapshotMeta, bytes]]
    window: WindowWire


class StateWire(msgspec.Struct, array_like=True, frozen=True):
    """Everything but leaves, pages and undo records."""

    meta: StateMeta
    spaces: list[SpaceWire]
    snapshot_events: list[Event]
    other_events: list[Event]
    keys: list[tuple[str, KeyImage]]
    sessions: list[tuple[int, SessionImage]]
    stages: list[tuple[str, StageImage]]


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(StateWire).decode


class LeafBook:
    """The distinct leaves of a state, in the order in which they are first met: their place is their id."""

    def __init__(self) -> None:
        self.leaves: list[Leaf] = []
        self.rows: list[bytes] = []
        self._by_object: dict[int, int] = {}
        self._by_content: dict[tuple[int, bytes], int] = {}

    def table(self, uid: int, leaves: Leaves) -> bytes:
        """A page table as rows (leaf_no, leaf id), ascending. Hashes what is not hashed yet. Raises RottenSlot."""
        rows = np.empty(len(leaves), TABLE_ROW)
        for at, leaf_no in enumerate(sorted(leaves)):
            rows[at] = leaf_no, self._id(leaves[leaf_no], uid, leaf_no)
        return rows.tobytes()

    def _id(self, leaf: Leaf, uid: int, leaf_no: int) -> int:
        known = self._by_object.get(id(leaf))
        if known is None:
            row, content = leaf_row(leaf, uid, leaf_no)
            key = leaf.heap.page_size, content
            known = self._by_content.setdefault(key, len(self.leaves))
            if known == len(self.leaves):
                self.leaves.append(leaf)
                self.rows.append(row)
            self._by_object[id(leaf)] = known
        return known


def encode_state(frozen: FrozenState, book: LeafBook) -> bytes:
    """The meta blob of a whole state; its leaves are added to `book`."""
    invariant(frozen.whole, "only a whole state travels", index=frozen.meta.applied_index)
    spaces = [_encode_space(uid, frozen.spaces[uid], book) for uid in sorted(frozen.spaces)]
    wire = StateWire(
        meta=msgspec.structs.replace(frozen.meta, blob_no=0),
        spaces=spaces,
        snapshot_events=frozen.snapshot_events,
        other_events=frozen.other_events,
        keys=sorted(frozen.keys.items(), key=lambda item: (item[1].due_ms, item[0])),
        sessions=sorted(frozen.sessions.items()),
        stages=sorted(frozen.stages.items()),
    )
    return _encode(wire)


def _encode_space(uid: int, image: SpaceImage, book: LeafBook) -> SpaceWire:
    snapshots = [
        (msgspec.structs.replace(snapshot.meta, root=None), book.table(uid, snapshot.leaves))
        for snapshot in image.snapshots
    ]
    window = image.window
    keys, _, _, lengths, counted, seqs, pages = window.columns
    held = [(lvc, book.table(uid, leaves)) for lvc, leaves in sorted(window.held.items())]
    wire = WindowWire(window.first_lvc, window.count, keys, lengths, counted, seqs, pages, held)
    return SpaceWire(image.meta, book.table(uid, image.leaves), snapshots, wire)


class ReadPieces(Protocol):
    """Reads blobs of the undo log: (number, pieces) of each in, their bytes out."""

    def __call__(self, wanted: list[tuple[int, Pieces]]) -> dict[int, bytes]: ...


def undo_bytes(frozen: FrozenState, read: ReadPieces, batch_bytes: int = BLOB_BYTES) -> Iterator[bytes]:
    """The undo records of all windows, in the order of spaces and LVCs, in pieces of any length."""
    for uid in sorted(frozen.spaces):
        window = frozen.spaces[uid].window
        _, blobs, offsets, lengths, *_ = (np.frombuffer(column, code) for column, code in _typed(window.columns))
        cache: dict[int, bytes] = {}
        ahead = 0
        for at in range(window.count):
            number = int(blobs[at])
            if number not in cache:
                wanted, ahead = _next_blobs(frozen, blobs, max(at, ahead), batch_bytes)
                cache = read(wanted)
            offset = int(offsets[at])
            yield cache[number][offset : offset + int(lengths[at])]


def _next_blobs(
    frozen: FrozenState, blobs: np.ndarray, start: int, batch_bytes: int
) -> tuple[list[tuple[int, Pieces]], int]:
    """The blobs of the records from `start` on, about `batch_bytes` of them, and the first record not covered."""
    wanted: dict[int, Pieces] = {}
    total, at = 0, start
    while at < len(blobs) and (total < batch_bytes or not wanted):
        number = int(blobs[at])
        if number not in wanted:
            wanted[number] = frozen.blobs[number]
            total += sum(nbytes for _, nbytes in frozen.blobs[number])
        at += 1
    return list(wanted.items()), at


def _typed(columns: tuple[bytes, ...]) -> list[tuple[bytes, str]]:
    return list(zip(columns, ("<u8", "<u8", "<u4", "<u4", "<u8", "<u8", "<u4"), strict=True))


# ---------------------------------------------------------------- back


def decode_state(raw: bytes) -> StateWire:
    """Inverse of `encode_state`. Raises Damaged: the digests held, so another version wrote it."""
    try:
        return _decode(raw)
    except msgspec.MsgspecError as error:
        raise Damaged(f"a state that this version does not know: {error}") from error


Take = Callable[[int], bytes]  # so many bytes more of the undo stream
Append = Callable[[list[bytes]], list[int]]  # positions in this node's undo log


class _Blobs:
    """Writes undo records to this node's undo log and numbers the blobs that they end up in."""

    def __init__(self, append: Append) -> None:
        self.pieces: dict[int, Pieces] = {}
        self.next_no = 1
        self._append = append

    def write(self, lengths: list[int], take: Take) -> tuple[bytes, bytes]:
        """Columns `blobs` (u64) and `offsets` (u32) of the records of one window."""
        numbers, offsets = array("Q"), array("I")
        group: list[bytes] = []
        size = 0
        for length in lengths:
            numbers.append(self.next_no)
            offsets.append(size)
            group.append(take(length))
            size += length
            if size >= BLOB_BYTES:
                self._flush(group)
                group, size = [], 0
        if group:
            self._flush(group)
        return numbers.tobytes(), offsets.tobytes()

    def _flush(self, group: list[bytes]) -> None:
        joined = b"".join(group)
        parts = [joined[at : at + PIECE_BYTES_MAX] for at in range(0, len(joined), PIECE_BYTES_MAX)]
        positions = self._append(parts)
        self.pieces[self.next_no] = [(position, len(part)) for position, part in zip(positions, parts, strict=True)]
        self.next_no += 1


def build_frozen(wire: StateWire, leaf_of: Callable[[int], Leaf], take: Take, append: Append) -> FrozenState:
    """A whole state of this node: leaves by id, undo records written to its undo log."""

    def table(raw: bytes) -> Leaves:
        return {int(leaf_no): leaf_of(int(leaf_id)) for leaf_no, leaf_id in np.frombuffer(raw, TABLE_ROW).tolist()}

    blobs = _Blobs(append)
    spaces: dict[int, SpaceImage] = {}
    for space in wire.spaces:
        sent = space.window
        numbers, offsets = blobs.write(np.frombuffer(sent.lengths, "<u4").tolist(), take)
        window = WindowImage(
            first_lvc=sent.first_lvc,
            count=sent.count,
            rows_from_lvc=sent.first_lvc,
            columns=(sent.keys, numbers, offsets, sent.lengths, sent.counted, sent.seqs, sent.pages),
            held={lvc: table(raw) for lvc, raw in sent.held},
        )
        snapshots = tuple(SnapshotImage(meta, table(raw)) for meta, raw in space.snapshots)
        spaces[space.meta.uid] = SpaceImage(space.meta, table(space.table), snapshots, window)
    return FrozenState(
        meta=msgspec.structs.replace(wire.meta, blob_no=blobs.next_no),
        whole=True,
        spaces=spaces,
        changed_spaces=frozenset(spaces),
        snapshot_events=wire.snapshot_events,
        other_events=wire.other_events,
        keys=dict(wire.keys),
        sessions=dict(wire.sessions),
        stages=dict(wire.stages),
        blobs=blobs.pieces,
    )
