"""Opening a node's storage: the newest checkpoint as a whole state, over heaps and an undo log that agree with it.

What the journal holds after the checkpoint's index is replayed by the host. Time and memory go with the number of
leaves, not with the bytes of the pages: those are read, and checked against their digests, when first used.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Any, Final

from node.checkpoint import Storage
from node.checkpoint_ledger import LIVE, OF_RECORD, OF_SNAPSHOT, Base, Known, Ledger, Owner, StoredSpace
from node.checkpoint_rows import (
    BLOB,
    CHECKPOINT_VERSION,
    EVENT,
    HEAD_KEY,
    HEAP_VERSION,
    HELD,
    KEY,
    LEAF,
    SESSION,
    SNAPSHOT,
    SNAPSHOT_RING,
    SPACE,
    STAGE,
    STATE,
    TABLES,
    U64,
    U64_PAIR,
    WINDOW,
    Head,
    SnapshotRow,
    SpaceRow,
    WindowRow,
    adopt_leaf,
    decode,
    list_ids,
    unpack_leaf,
    unpack_table,
    unseal,
)
from node.checkpoint_store import Ballast, CheckpointStore
from node.events import Event
from node.freeze import empty_columns
from node.heap import HeapSet
from node.image import (
    FrozenState,
    KeyImage,
    Pieces,
    SessionImage,
    SnapshotImage,
    SpaceImage,
    StageImage,
    WindowImage,
)
from node.table import Leaf, Leaves
from wal.checks import Corrupt
from wal.disk import Disk
from wal.undo import UndoConfig, UndoLog

CHECKPOINT_FOLDER: Final = "checkpoint"
UNDO_FOLDER: Final = "undo"
HEAP_FOLDER: Final = "heap"
JOURNAL_FOLDER: Final = "journal"
BALLAST_FILE: Final = "ballast"
BALLAST_BYTES: Final = 16 << 20


def _no_fault(step: str) -> None:
    """Nothing fails."""


def open_storage(
    disk: Disk,
    folder: str,
    heaps: HeapSet,
    *,
    undo_config: UndoConfig | None = None,
    ballast_bytes: int = BALLAST_BYTES,
    checkpoint_folder: str | None = None,
    fault: Callable[[str], None] = _no_fault,
) -> Storage:
    """Checkpoint, heaps and undo log in `folder`, brought to the newest durable checkpoint.

    Give `storage.held` to `StateMachine.restore` if it is not None, before anything takes a slot. LMDB and the ballast
    are real files, so with a simulated disk `checkpoint_folder` names a real one, without ballast. Raises Corrupt that
    names file, table or leaf; FailStop or OSError when the disk fails.
    """
    place = PurePosixPath(folder)
    disk.makedirs(folder)
    store = CheckpointStore(checkpoint_folder or str(place / CHECKPOINT_FOLDER), TABLES, fault=fault)
    undo = UndoLog.open(disk, str(place / UNDO_FOLDER), undo_config or UndoConfig())
    ballast = Ballast(str(place / BALLAST_FILE), ballast_bytes)
    loaded = load_checkpoint(store, heaps)
    if loaded is None:
        undo.truncate_to(0)
        ballast.hold()
        return Storage(store, undo, ballast, Ledger(), None, None)
    undo.truncate_to(loaded.head.undo_tail)
    undo.recount(piece for pieces in loaded.frozen.blobs.values() for piece in pieces)
    for heap in heaps.heaps.values():
        heap.rebuild()
    ballast.hold()
    head = loaded.head
    base = Base(head.index, head.term, head.prev_index, head.prev_term, head.digest)
    return Storage(store, undo, ballast, loaded.ledger, base, loaded.frozen)


@dataclass
class Loaded:
    head: Head
    frozen: FrozenState
    ledger: Ledger


def load_checkpoint(store: CheckpointStore, heaps: HeapSet) -> Loaded | None:
    """The stored state with all its leaves, which refer to slots of `heaps`; None if nothing was ever committed."""
    enabled = gc.isenabled()
    gc.disable()  # everything that is made here stays; the collector would walk it again and again
    try:
        return _Loader(store, heaps).load()
    finally:
        if enabled:
            gc.enable()


def read_head(store: CheckpointStore) -> Head | None:
    """What the checkpoint is of. Raises Corrupt for another version."""
    stored = store.get(STATE, HEAD_KEY)
    if stored is None:
        return None
    head: Head = decode(unseal(store.path, STATE, HEAD_KEY, stored), Head, store.path)
    if (head.checkpoint_version, head.heap_version) != (CHECKPOINT_VERSION, HEAP_VERSION):
        expected = f"checkpoint version {CHECKPOINT_VERSION}, heap version {HEAP_VERSION}"
        raise Corrupt(store.path, 0, expected, f"{head.checkpoint_version}, {head.heap_version}")
    return head


class _Loader:
    """Reads all tables of one store."""

    def __init__(self, store: CheckpointStore, heaps: HeapSet) -> None:
        self.store = store
        self.heaps = heaps
        self.ledger = Ledger()
        self.leaves: dict[int, Leaf] = {}

    def load(self) -> Loaded | None:
        head = read_head(self.store)
        if head is None:
            return None
        self.ledger.next_leaf_id = head.next_leaf_id
        self._load_leaves()
        snapshots = self._load_snapshots()
        held = self._load_held()
        windows = self._load_windows()
        spaces: dict[int, SpaceImage] = {}
        for key, value in self._rows(SPACE):
            (uid,) = U64.unpack(key)
            row: SpaceRow = self._decode(value, SpaceRow)
            stored = self.ledger.spaces.setdefault(uid, StoredSpace())
            leaves = self._table((uid, LIVE, 0), row.leaves, row.meta.page_size)
            window = self._window(uid, row, windows.get(uid, []), held.get(uid, {}), stored)
            spaces[uid] = SpaceImage(row.meta, leaves, tuple(snapshots.get(uid, ())), window)
        events = self._load_events()
        frozen = FrozenState(
            meta=head.meta,
            whole=True,
            spaces=spaces,
            changed_spaces=frozenset(spaces),
            snapshot_events=events[0],
            other_events=events[1],
            keys={key.decode(): self._decode(value, KeyImage) for key, value in self._rows(KEY)},
            sessions={U64.unpack(key)[0]: self._decode(value, SessionImage) for key, value in self._rows(SESSION)},
            stages={key.decode(): self._decode(value, StageImage) for key, value in self._rows(STAGE)},
            blobs={U64.unpack(key)[0]: self._decode(value, Pieces) for key, value in self._rows(BLOB)},
        )
        return Loaded(head, frozen, self.ledger)

    # ------------------------------------------------------------ rows

    def _rows(self, table: str) -> Iterator[tuple[bytes, memoryview]]:
        for key, stored in self.store.rows(table):
            name = bytes(key)
            yield name, unseal(self.store.path, table, name, stored)

    def _decode(self, value: memoryview, kind: object) -> Any:
        return decode(value, kind, self.store.path)

    def _load_leaves(self) -> None:
        for key, value in self._rows(LEAF):
            (identity,) = U64.unpack(key)
            path = f"{self.store.path}#{LEAF}/{identity}"
            stored = unpack_leaf(value, path)
            heap = self.heaps.get(stored.page_size)
            if len(stored.slots) and int(stored.slots.max()) >= heap.slots:
                raise Corrupt(
                    heap.path, heap.slots * heap.page_size, f"slot {stored.slots.max()}", "the end of the file"
                )
            self.leaves[identity] = adopt_leaf(heap, stored, identity)

    def _table(self, owner: Owner, raw: bytes, page_size: int | None = None) -> Leaves:
        numbers, ids = unpack_table(raw)
        leaves: Leaves = {}
        refs = self.ledger.leaf_refs
        for number, identity in zip(numbers, list_ids(ids), strict=True):
            leaf = self.leaves.get(identity)
            if leaf is None or (page_size is not None and leaf.heap.page_size != page_size):
                where = f"{self.store.path}#{LEAF}/{identity}"
                raise Corrupt(where, 0, f"leaf {number} of {owner}", "no such leaf" if leaf is None else "another size")
            leaves[number] = leaf
            refs[identity] = refs.get(identity, 0) + 1
        self.ledger.owners[owner] = ids
        return leaves

    # ------------------------------------------------------------ what belongs to spaces

    def _load_snapshots(self) -> dict[int, list[SnapshotImage]]:
        found: dict[int, list[SnapshotImage]] = {}
        for key, value in self._rows(SNAPSHOT):
            uid, identity = U64_PAIR.unpack(key)
            row: SnapshotRow = self._decode(value, SnapshotRow)
            known: Known = (frozenset(row.meta.facts.pins), row.meta.root)
            self.ledger.spaces.setdefault(uid, StoredSpace()).snapshots[identity] = known
            leaves = self._table((uid, OF_SNAPSHOT, identity), row.leaves)
            found.setdefault(uid, []).append(SnapshotImage(row.meta, leaves))
        return found

    def _load_held(self) -> dict[int, dict[int, Leaves]]:
        found: dict[int, dict[int, Leaves]] = {}
        for key, value in self._rows(HELD):
            uid, lvc = U64_PAIR.unpack(key)
            self.ledger.spaces.setdefault(uid, StoredSpace()).held.add(lvc)
            found.setdefault(uid, {})[lvc] = self._table((uid, OF_RECORD, lvc), bytes(value))
        return found

    def _load_windows(self) -> dict[int, list[tuple[int, WindowRow]]]:
        found: dict[int, list[tuple[int, WindowRow]]] = {}
        for key, value in self._rows(WINDOW):
            uid, start = U64_PAIR.unpack(key)
            row: WindowRow = self._decode(value, WindowRow)
            self.ledger.spaces.setdefault(uid, StoredSpace()).chunks.append((start, row.rows))
            found.setdefault(uid, []).append((start, row))
        return found

    def _window(
        self,
        uid: int,
        row: SpaceRow,
        pieces: list[tuple[int, WindowRow]],
        held: dict[int, Leaves],
        stored: StoredSpace,
    ) -> WindowImage:
        """Joins the pieces of a window's columns and cuts off what has left it."""
        first, count = row.window_first_lvc, row.window_count
        where = f"{self.store.path}#{WINDOW}/{uid}"
        for (start, piece), (following, _) in pairwise(pieces):
            if start + piece.rows != following:
                raise Corrupt(where, 0, f"undo records from LVC {start + piece.rows}", following)
        columns = tuple(map(b"".join, zip(*(piece.columns for _, piece in pieces), strict=True)))
        if not count:
            return WindowImage(first, 0, first, tuple(column.tobytes() for column in empty_columns()), held)
        start = pieces[0][0] if pieces else first + 1
        rows = sum(piece.rows for _, piece in pieces)
        if start > first or start + rows != first + count:
            expected = f"undo records of LVCs {first} to {first + count - 1}"
            raise Corrupt(where, 0, expected, f"{start} to {start + rows - 1}")
        gone = first - start
        columns = tuple(column[gone * (len(column) // rows) :] for column in columns)
        return WindowImage(first, count, first, columns, held)

    def _load_events(self) -> tuple[list[Event], list[Event]]:
        found: tuple[list[Event], list[Event]] = ([], [])
        for key, value in self._rows(EVENT):
            ring = key[0]
            event: Event = self._decode(value, Event)
            found[0 if ring == SNAPSHOT_RING else 1].append(event)
        self.ledger.events = tuple({event.seq for event in ring} for ring in found)
        return found
