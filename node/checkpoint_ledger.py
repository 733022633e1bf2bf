"""What the checkpoint file holds, kept in memory as far as needed to write nothing but differences.

`plan` compares a frozen state with the ledger and changes nothing; `Plan.tables` yields the rows, as often as asked;
`settle` takes the plan over once it is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import msgspec

from node.checkpoint_rows import (
    BLOB,
    CHECKPOINT_VERSION,
    EVENT,
    HEAD_KEY,
    HEAP_VERSION,
    HELD,
    KEY,
    LEAF,
    OTHER_RING,
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
    changed_ids,
    encode,
    list_ids,
    pack_leaf,
    pack_table,
    seal,
)
from node.checkpoint_store import Row
from node.events import Event
from node.image import FrozenState, SnapshotImage, SpaceImage, WindowImage
from node.table import Leaf, Leaves
from wal.checks import invariant

LIVE: Final = 0  # kinds of owners of leaves
OF_SNAPSHOT: Final = 1
OF_RECORD: Final = 2
CHUNKS_MAX: Final = 32  # pieces of one window's columns before they are joined

ColumnsOf = Callable[[int, int], tuple[bytes, ...]]  # uid, first LVC of a stored piece of its window -> columns
Owner = tuple[int, int, int]  # uid, kind, snapshot id or LVC
Known = tuple[frozenset[str], bytes | None]  # what of a stored snapshot can change: pins, root


class Base(msgspec.Struct, frozen=True):
    """A durable checkpoint: everything up to `index` is in it. `digest` names its content."""

    index: int
    term: int
    prev_index: int
    prev_term: int
    digest: bytes


class StoredSpace:
    """What is stored of one space."""

    __slots__ = ("chunks", "held", "snapshots")

    def __init__(self) -> None:
        self.snapshots: dict[int, Known] = {}
        self.held: set[int] = set()
        self.chunks: list[tuple[int, int]] = []  # first LVC and rows of each piece of the window, ascending


class Ledger:
    """The stored leaves, who owns them, and which rows there are of each space."""

    def __init__(self, next_leaf_id: int = 1) -> None:
        self.next_leaf_id = next_leaf_id
        self.leaf_refs: dict[int, int] = {}
        self.owners: dict[Owner, bytes] = {}  # the ids of its leaves, as they are stored
        self.spaces: dict[int, StoredSpace] = {}
        self.events: tuple[set[int], ...] = (set(), set())  # numbers of the events stored of each ring


class Plan:
    """The difference between a ledger and a frozen state. Reads both; changes neither.

    `replace`: the state comes from elsewhere (an install), so all rows are written anew; the ledger must be empty.
    """

    def __init__(self, ledger: Ledger, frozen: FrozenState, columns_of: ColumnsOf, *, replace: bool = False) -> None:
        self.ledger = ledger
        self.frozen = frozen
        self.new_leaves: dict[int, tuple[int, Leaf]] = {}  # id() of the leaf -> its new id
        self.next_leaf_id = ledger.next_leaf_id
        self.owners: dict[Owner, bytes | None] = {}
        self.spaces: dict[int, StoredSpace | None] = {}
        self.ref_changes: dict[int, int] = {}
        self.rows: dict[str, list[Row]] = {name: [] for name in (SPACE, SNAPSHOT, HELD, WINDOW)}
        self.cleared: tuple[str, ...] = (KEY, SESSION, STAGE, BLOB, WINDOW) if frozen.whole else ()
        if replace:
            invariant(frozen.whole and not ledger.spaces, "a whole state replaces what is stored")
            self.cleared = tuple(table for table in TABLES if table != STATE)
            _forget_ids(frozen)
        self._columns_of = columns_of
        looked_at = set(frozen.changed_spaces)
        if frozen.whole:
            looked_at |= ledger.spaces.keys() | frozen.spaces.keys()
        for uid in sorted(looked_at):
            image = frozen.spaces.get(uid)
            if image is not None:
                self._space(uid, image, ledger.spaces.get(uid) or StoredSpace())
            elif uid in ledger.spaces:
                self._gone(uid, ledger.spaces[uid])

    # ------------------------------------------------------------ spaces

    def _space(self, uid: int, image: SpaceImage, stored: StoredSpace) -> None:
        now = self.spaces[uid] = StoredSpace()
        table = self._own((uid, LIVE, 0), image.leaves)
        row = SpaceRow(image.meta, image.window.first_lvc, image.window.count, table)
        self._put(SPACE, U64.pack(uid), encode(row))
        self._snapshots(uid, image.snapshots, stored, now)
        for lvc, leaves in image.window.held.items():
            now.held.add(lvc)
            if lvc not in stored.held:
                self._put(HELD, U64_PAIR.pack(uid, lvc), self._own((uid, OF_RECORD, lvc), leaves))
        for lvc in stored.held - now.held:
            self._drop(HELD, U64_PAIR.pack(uid, lvc), (uid, OF_RECORD, lvc))
        self._window(uid, image.window, [] if self.frozen.whole else stored.chunks, now)

    def _snapshots(self, uid: int, images: Iterable[SnapshotImage], stored: StoredSpace, now: StoredSpace) -> None:
        for image in images:
            identity = image.meta.facts.id
            known = now.snapshots[identity] = (frozenset(image.meta.facts.pins), image.meta.root)
            if stored.snapshots.get(identity) == known:
                continue
            owner = (uid, OF_SNAPSHOT, identity)
            if identity in stored.snapshots:
                table, _ = pack_table(image.leaves, self.id_of)
            else:
                table = self._own(owner, image.leaves)
            self._put(SNAPSHOT, U64_PAIR.pack(uid, identity), encode(SnapshotRow(image.meta, table)))
        for identity in stored.snapshots.keys() - now.snapshots.keys():
            self._drop(SNAPSHOT, U64_PAIR.pack(uid, identity), (uid, OF_SNAPSHOT, identity))

    def _window(self, uid: int, window: WindowImage, chunks: list[tuple[int, int]], now: StoredSpace) -> None:
        kept = [chunk for chunk in chunks if chunk[0] + chunk[1] > window.first_lvc]
        for start, _ in chunks[: len(chunks) - len(kept)]:
            self.rows[WINDOW].append((U64_PAIR.pack(uid, start), None))
        rows = window.first_lvc + window.count - window.rows_from_lvc
        columns, start = window.columns, window.rows_from_lvc
        if len(kept) >= CHUNKS_MAX:
            for old, _ in kept:
                self.rows[WINDOW].append((U64_PAIR.pack(uid, old), None))
            pieces = [*(self._columns_of(uid, old) for old, _ in kept), columns]
            columns = tuple(map(b"".join, zip(*pieces, strict=True)))
            start, rows, kept = kept[0][0], window.first_lvc + window.count - kept[0][0], []
        if rows > 0:
            self._put(WINDOW, U64_PAIR.pack(uid, start), encode(WindowRow(rows, columns)))
            kept = [*kept, (start, rows)]
        now.chunks = kept

    def _gone(self, uid: int, stored: StoredSpace) -> None:
        self.spaces[uid] = None
        self._drop(SPACE, U64.pack(uid), (uid, LIVE, 0))
        for identity in stored.snapshots:
            self._drop(SNAPSHOT, U64_PAIR.pack(uid, identity), (uid, OF_SNAPSHOT, identity))
        for lvc in stored.held:
            self._drop(HELD, U64_PAIR.pack(uid, lvc), (uid, OF_RECORD, lvc))
        for start, _ in stored.chunks:
            self.rows[WINDOW].append((U64_PAIR.pack(uid, start), None))

    # ------------------------------------------------------------ leaves

    def id_of(self, leaf: Leaf) -> int:
        """The id under which a leaf is, or will be, stored."""
        if leaf.stored_id:
            return leaf.stored_id
        known = self.new_leaves.get(id(leaf))
        if known is None:
            known = self.new_leaves[id(leaf)] = (self.next_leaf_id, leaf)
            self.next_leaf_id += 1
        return known[0]

    def _own(self, owner: Owner, leaves: Leaves) -> bytes:
        table, ids = pack_table(leaves, self.id_of)
        came, went = changed_ids(self.ledger.owners.get(owner, b""), ids)
        self.owners[owner] = ids
        changes = self.ref_changes
        for leaf in came:
            changes[leaf] = changes.get(leaf, 0) + 1
        for leaf in went:
            changes[leaf] = changes.get(leaf, 0) - 1
        return table

    def _drop(self, table: str, key: bytes, owner: Owner) -> None:
        self.rows[table].append((key, None))
        self.owners[owner] = None
        for leaf in list_ids(self.ledger.owners[owner]):
            self.ref_changes[leaf] = self.ref_changes.get(leaf, 0) - 1

    def _put(self, table: str, key: bytes, value: bytes) -> None:
        self.rows[table].append((key, seal(key, value)))

    def _dead_leaves(self) -> list[int]:
        refs = self.ledger.leaf_refs
        return [leaf for leaf, change in self.ref_changes.items() if leaf in refs and refs[leaf] + change == 0]

    # ------------------------------------------------------------ rows

    def tables(self, base: Base, undo_tail: int) -> Iterator[tuple[str, Iterable[Row] | None]]:
        """All rows to write, table by table; None = the table is emptied."""
        for table in self.cleared:
            yield table, None
        yield LEAF, self._leaf_rows()
        yield from self.rows.items()
        frozen = self.frozen
        named = ((key.encode(), encode(row)) for key, row in frozen.keys.items())
        yield KEY, _rows(named, (key.encode() for key in frozen.gone_keys))
        numbered = ((U64.pack(number), encode(row)) for number, row in frozen.sessions.items())
        yield SESSION, _rows(numbered, map(U64.pack, frozen.gone_sessions))
        staged = ((name.encode(), encode(row)) for name, row in frozen.stages.items())
        yield STAGE, _rows(staged, (name.encode() for name in frozen.gone_stages))
        blobs = ((U64.pack(number), encode(pieces)) for number, pieces in frozen.blobs.items())
        yield BLOB, _rows(blobs, map(U64.pack, frozen.gone_blobs))
        for ring, events in ((SNAPSHOT_RING, frozen.snapshot_events), (OTHER_RING, frozen.other_events)):
            yield EVENT, self._event_rows(ring, events)
        head = Head(
            checkpoint_version=CHECKPOINT_VERSION,
            heap_version=HEAP_VERSION,
            index=base.index,
            term=base.term,
            prev_index=base.prev_index,
            prev_term=base.prev_term,
            digest=base.digest,
            undo_tail=undo_tail,
            next_leaf_id=self.next_leaf_id,
            meta=frozen.meta,
        )
        yield STATE, [(HEAD_KEY, seal(HEAD_KEY, encode(head)))]

    def _leaf_rows(self) -> Iterator[Row]:
        for identity, leaf in self.new_leaves.values():
            key = U64.pack(identity)
            yield key, seal(key, pack_leaf(leaf))
        for identity in self._dead_leaves():
            yield U64.pack(identity), None

    def _event_rows(self, ring: int, events: list[Event]) -> Iterator[Row]:
        stored = self.ledger.events[ring]
        prefix = bytes([ring])
        for event in events:
            if event.seq not in stored:
                key = prefix + U64.pack(event.seq)
                yield key, seal(key, encode(event))
        for seq in stored.difference(event.seq for event in events):
            yield prefix + U64.pack(seq), None

    def settle(self) -> None:
        """The plan is durable: the ledger and the leaves now say so."""
        ledger = self.ledger
        for identity, leaf in self.new_leaves.values():
            leaf.stored_id = identity
        ledger.next_leaf_id = self.next_leaf_id
        for leaf_id, change in self.ref_changes.items():
            left = ledger.leaf_refs.get(leaf_id, 0) + change
            invariant(left >= 0, "a stored leaf has no fewer owners than none", leaf=leaf_id)
            if left:
                ledger.leaf_refs[leaf_id] = left
            else:
                ledger.leaf_refs.pop(leaf_id, None)
        for owner, ids in self.owners.items():
            if ids is None:
                ledger.owners.pop(owner, None)
            else:
                ledger.owners[owner] = ids
        for uid, stored in self.spaces.items():
            if stored is None:
                ledger.spaces.pop(uid, None)
            else:
                ledger.spaces[uid] = stored
        frozen = self.frozen
        ledger.events = tuple({event.seq for event in ring} for ring in (frozen.snapshot_events, frozen.other_events))


def _rows(alive: Iterable[tuple[bytes, bytes]], gone: Iterable[bytes]) -> Iterator[Row]:
    for key, value in alive:
        yield key, seal(key, value)
    for key in gone:
        yield key, None


def _forget_ids(frozen: FrozenState) -> None:
    """Leaves of this node that an installed state shares get rows of their own in it."""
    for image in frozen.spaces.values():
        tables = [image.leaves, *(snapshot.leaves for snapshot in image.snapshots), *image.window.held.values()]
        for leaves in tables:
            for leaf in leaves.values():
                leaf.stored_id = 0
