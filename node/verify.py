"""Reads everything that a stopped node has stored, changes nothing, and names every damage (`lastgood verify DIR`).

Journal frames, undo records that live, rows of the checkpoint, every page that a leaf refers to against its digest,
every leaf against its digests, and every root that is known.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from node.checkpoint_rows import (
    BLOB,
    EVENT,
    HELD,
    KEY,
    LEAF,
    SESSION,
    SNAPSHOT,
    SPACE,
    STAGE,
    TABLES,
    U64,
    U64_PAIR,
    WINDOW,
    SnapshotRow,
    SpaceRow,
    StoredLeaf,
    WindowRow,
    decode,
    list_ids,
    unpack_leaf,
    unpack_table,
    unseal,
)
from node.checkpoint_store import CheckpointStore
from node.digest import DIGEST_BYTES, LEAF_PAGES, leaf_digest, page_digest, root_digest, zero_page_digest
from node.events import Event
from node.image import KeyImage, Pieces, SessionImage, StageImage
from node.recovery import CHECKPOINT_FOLDER, HEAP_FOLDER, JOURNAL_FOLDER, UNDO_FOLDER, read_head
from wal.checks import Corrupt
from wal.disk import Disk, File
from wal.frame import Purpose
from wal.inspect import inspect_log
from wal.segments import TornTail
from wal.undo import UndoConfig, UndoLog


@dataclass
class VerifyReport:
    """What was read. The node is whole when `damages` is empty; a torn tail of the journal is no damage."""

    checkpoint_index: int = 0
    journal_segments: int = 0
    journal_frames: int = 0
    journal_bytes: int = 0
    torn: TornTail | None = None
    undo_records: int = 0
    undo_bytes: int = 0
    rows: int = 0
    leaves: int = 0
    pages: int = 0
    page_bytes: int = 0
    spaces: int = 0
    snapshots: int = 0
    roots: int = 0
    damages: list[Corrupt] = field(default_factory=list)


def verify(disk: Disk, folder: str, *, progress: Callable[[VerifyReport], None] | None = None) -> VerifyReport:
    """Reads the node in `folder`, which must not run: the caller holds its lock. `progress` is called now and then."""
    return _Verifier(disk, Path(folder), progress).run()


class _Verifier:
    def __init__(self, disk: Disk, folder: Path, progress: Callable[[VerifyReport], None] | None) -> None:
        self.disk = disk
        self.folder = folder
        self.report = VerifyReport()
        self._progress = progress
        self._store: CheckpointStore | None = None
        self._leaves: dict[int, tuple[int, bytes]] = {}  # id -> page size, digest
        self._heaps: dict[int, File | None] = {}

    def run(self) -> VerifyReport:
        report = self.report
        log = inspect_log(self.disk, str(self.folder / JOURNAL_FOLDER), Purpose.JOURNAL)
        report.journal_segments, report.journal_frames, report.journal_bytes = log.segments, log.frames, log.nbytes
        report.torn = log.torn
        report.damages += log.damages
        place = self.folder / CHECKPOINT_FOLDER
        if (place / "data.mdb").exists():
            try:
                self._store = CheckpointStore(str(place), TABLES, readonly=True)
                self._checkpoint(self._store)
            except Corrupt as damage:
                report.damages.append(damage)
            finally:
                if self._store is not None:
                    self._store.close()
        return report

    def _checkpoint(self, store: CheckpointStore) -> None:
        head = read_head(store)
        if head is None:
            return
        self.report.checkpoint_index = head.index
        self.report.rows += 1
        for key, value in self._rows(LEAF):
            self._guard(self._leaf, store.path, key, value)
            if self._progress is not None and self.report.leaves % 256 == 0:
                self._progress(self.report)
        for table, check in (
            (SPACE, self._space),
            (SNAPSHOT, self._snapshot),
            (HELD, self._held),
            (WINDOW, self._plain(WindowRow)),
            (KEY, self._plain(KeyImage)),
            (SESSION, self._plain(SessionImage)),
            (STAGE, self._plain(StageImage)),
            (EVENT, self._plain(Event)),
        ):
            for key, value in self._rows(table):
                self._guard(check, f"{store.path}#{table}/{key.hex()}", key, value)
        self._undo(store)

    def _rows(self, table: str) -> Iterator[tuple[bytes, memoryview]]:
        """Undamaged rows; damaged ones are named."""
        store = self._store
        if store is None:
            return
        for key, stored in store.rows(table):
            self.report.rows += 1
            try:
                yield key, unseal(store.path, table, key, stored)
            except Corrupt as damage:
                self.report.damages.append(damage)

    def _guard(self, check: Callable[[str, bytes, memoryview], None], path: str, key: bytes, value: memoryview) -> None:
        try:
            check(path, key, value)
        except Corrupt as damage:
            self.report.damages.append(damage)
        except (struct.error, ValueError) as error:
            self.report.damages.append(Corrupt(path, 0, "a row of the checkpoint", str(error)))

    @staticmethod
    def _plain(kind: Any) -> Callable[[str, bytes, memoryview], None]:
        def check(path: str, _key: bytes, value: memoryview) -> None:
            decode(value, kind, path)

        return check

    # ------------------------------------------------------------ pages

    def _leaf(self, path: str, key: bytes, value: memoryview) -> None:
        (identity,) = U64.unpack(key)
        where = f"{path}#{LEAF}/{identity}"
        leaf = unpack_leaf(value, where)
        self.report.leaves += 1
        self._leaves[identity] = (leaf.page_size, leaf.digest)
        slots = np.frombuffer(leaf.block, np.uint32, LEAF_PAGES, 8 * LEAF_PAGES)
        digests = np.empty((LEAF_PAGES, DIGEST_BYTES), np.uint8)
        digests[:] = np.frombuffer(zero_page_digest(leaf.page_size), np.uint8)
        digests[slots != 0] = leaf.digests
        found = leaf_digest(digests.tobytes())
        if found != leaf.digest:
            raise Corrupt(where, 0, f"leaf digest {leaf.digest.hex()}", found.hex())
        self._pages(leaf)

    def _pages(self, leaf: StoredLeaf) -> None:
        """Every page of a leaf against its digest, neighbours with one read."""
        if not len(leaf.slots):
            return
        file = self._heap(leaf.page_size)
        size = leaf.page_size
        path = self._heap_path(size)
        order = np.argsort(leaf.slots, kind="stable")
        slots = leaf.slots[order].astype(np.int64)
        runs = np.split(np.arange(len(slots)), np.flatnonzero(np.diff(slots) > 1) + 1)
        for run in runs:
            first = int(slots[run[0]])
            count = int(slots[run[-1]]) - first + 1
            raw = file.pread(count * size, first * size) if file is not None else b""
            for at in run.tolist():
                start = (int(slots[at]) - first) * size
                page = raw[start : start + size]
                expected = leaf.digests[order[at]].tobytes()
                found = page_digest(page)
                self.report.pages += 1
                self.report.page_bytes += len(page)
                if found != expected or len(page) != size:
                    offset = int(slots[at]) * size
                    damage = Corrupt(
                        path, offset, f"page digest {expected.hex()}", f"{found.hex()} of {len(page)} bytes"
                    )
                    self.report.damages.append(damage)

    def _heap_path(self, page_size: int) -> str:
        return str(self.folder / HEAP_FOLDER / f"pages-{page_size}")

    def _heap(self, page_size: int) -> File | None:
        if page_size not in self._heaps:
            path = self._heap_path(page_size)
            self._heaps[page_size] = self.disk.open(path) if self.disk.exists(path) else None
        return self._heaps[page_size]

    # ------------------------------------------------------------ tables and roots

    def _table(self, path: str, raw: bytes, page_size: int | None) -> list[tuple[int, bytes]]:
        """(leaf_no, digest) of a page table, all of whose leaves must be there."""
        numbers, ids = unpack_table(raw)
        found = []
        for number, identity in zip(numbers, list_ids(ids), strict=True):
            leaf = self._leaves.get(identity)
            if leaf is None or (page_size is not None and leaf[0] != page_size):
                raise Corrupt(
                    path, 0, f"leaf {identity} at {number}", "no such leaf" if leaf is None else "another size"
                )
            found.append((number, leaf[1]))
        return sorted(found)

    def _space(self, path: str, _key: bytes, value: memoryview) -> None:
        row: SpaceRow = decode(value, SpaceRow, path)
        self.report.spaces += 1
        self._table(path, row.leaves, row.meta.page_size)

    def _snapshot(self, path: str, key: bytes, value: memoryview) -> None:
        row: SnapshotRow = decode(value, SnapshotRow, path)
        self.report.snapshots += 1
        table = self._table(path, row.leaves, None)
        uid, _ = U64_PAIR.unpack(key)
        if row.meta.root is None:
            return
        sizes = {self._leaves[identity][0] for identity in list_ids(unpack_table(row.leaves)[1])}
        page_size = sizes.pop() if sizes else self._page_size_of(uid, path)
        root = root_digest(page_size, row.meta.facts.size, table)
        self.report.roots += 1
        if root != row.meta.root:
            raise Corrupt(path, 0, f"root {row.meta.root.hex()} of {row.meta.facts.space}", root.hex())

    def _page_size_of(self, uid: int, path: str) -> int:
        store, key = self._store, U64.pack(uid)
        stored = store.get(SPACE, key) if store is not None else None
        if store is None or stored is None:
            raise Corrupt(path, 0, f"space {uid}", "no such row")
        row: SpaceRow = decode(unseal(store.path, SPACE, key, stored), SpaceRow, path)
        return row.meta.page_size

    def _held(self, path: str, _key: bytes, value: memoryview) -> None:
        self._table(path, bytes(value), None)

    # ------------------------------------------------------------ undo log

    def _undo(self, store: CheckpointStore) -> None:
        """Every record of the undo log that the checkpoint refers to."""
        folder = str(self.folder / UNDO_FOLDER)
        pieces: list[tuple[int, int]] = []
        for key, value in self._rows(BLOB):
            self._guard(lambda path, _key, raw: pieces.extend(decode(raw, Pieces, path)), store.path, key, value)
        if not pieces:
            return
        if not self.disk.exists(folder):
            self.report.damages.append(Corrupt(folder, 0, "an undo log", "no folder"))
            return
        try:
            log = UndoLog.open(self.disk, folder, UndoConfig())
        except Corrupt as damage:
            self.report.damages.append(damage)
            return
        for position, nbytes in pieces:
            try:
                record = log.read(position)
            except Corrupt as damage:
                self.report.damages.append(damage)
                continue
            self.report.undo_records += 1
            self.report.undo_bytes += len(record)
            if len(record) != nbytes:
                where = f"{folder} position {position}"
                self.report.damages.append(Corrupt(where, 0, f"a record of {nbytes} bytes", f"{len(record)} bytes"))
        log.close()
