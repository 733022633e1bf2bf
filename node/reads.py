"""Reading: bytes, pages, differences, before-images. Nothing here changes replicated state."""

from __future__ import annotations

from collections.abc import Iterator

from node.apply import check_rollback
from node.catalogue import unknown_snapshot, unknown_space
from node.commands import Rollback
from node.compare import diff_leaves
from node.digest import zero_page_digest
from node.faults import RottenPage
from node.heap import HASHED, RottenSlot
from node.registry import Registry
from node.results import Refused, SnapshotInfo, SpaceInfo
from node.rollback import outside_window
from node.space import Space
from node.table import Leaves, read_leaves
from node.undo import Past, undo_back
from node.undo_record import ROLLBACK, UndoRecord
from node.views import DiffResult, DryRun, PageRow, ReadResult, WalRow

WAL_BYTES_MAX = 8 << 20


class Reader:
    """Reads over one registry, on the thread that applies, between two entries."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry

    # ------------------------------------------------------------ catalogue

    def space(self, name: str) -> SpaceInfo | Refused:
        space = self.registry.by_name.get(name)
        return space.info() if space is not None else unknown_space(name)

    def list_spaces(self, *, after: str | None = None, prefix: str | None = None, limit: int = 100) -> list[SpaceInfo]:
        """Spaces by name, those above `after` only."""
        found: list[SpaceInfo] = []
        for name in self.registry.names_from(after or "", prefix or ""):
            if len(found) >= limit:
                break
            if name != after:
                found.append(self.registry.by_name[name].info())
        return found

    def snapshots(self, name: str, *, before: int | None = None, limit: int = 100) -> list[SnapshotInfo] | Refused:
        """Living snapshots, newest first, those with ids below `before` only."""
        space = self.registry.by_name.get(name)
        if space is None:
            return unknown_space(name)
        found: list[SnapshotInfo] = []
        for identity in reversed(space.snapshots):
            if len(found) >= limit:
                break
            if before is None or identity < before:
                found.append(space.snapshots[identity].info())
        return found

    def snapshot(self, name: str, ref: str) -> SnapshotInfo | Refused:
        """`ref` is a decimal id or `@label`."""
        space = self.registry.by_name.get(name)
        if space is None:
            return unknown_space(name)
        snapshot = space.find(ref)
        return snapshot.info() if snapshot is not None else unknown_snapshot(space, ref)

    # ------------------------------------------------------------ bytes

    def read(
        self, name: str, offset: int, length: int | None, *, snapshot: str | None = None, at_lvc: int | None = None
    ) -> ReadResult | Refused:
        """Bytes from `offset`, cut at the size; all the rest without a `length`. Raises RottenPage."""
        space = self.registry.by_name.get(name)
        if space is None:
            return unknown_space(name)
        leaves, size, epoch, lvc, identity = space.table.leaves, space.size, space.epoch, space.lvc, None
        if snapshot is not None:
            found = space.find(snapshot)
            if found is None:
                return unknown_snapshot(space, snapshot)
            facts = found.facts
            leaves, size, epoch, lvc, identity = found.leaves, facts.size, facts.epoch, facts.lvc, facts.id
        elif at_lvc is not None and at_lvc != space.lvc:
            refused = outside_window(space, at_lvc)
            if refused is not None:
                return refused
            past = self._past(space, at_lvc)
            leaves, size, lvc = past.table.leaves, past.size, at_lvc
        if offset > size or (offset == size and size > 0 and length != 0):
            return Refused("range_not_satisfiable", f"offset {offset}, the size is {size}", {"size": size})
        stop = size if length is None else min(size, offset + length)
        data = self._bytes(space, leaves, offset, stop) if stop > offset else b""
        return ReadResult(data, offset, size, space.uid, epoch, lvc, identity)

    def _bytes(self, space: Space, leaves: Leaves, start: int, stop: int) -> bytes:
        try:
            return read_leaves(space.heap, leaves, start, stop)
        except RottenSlot as error:
            raise self._rotten(space, leaves, start, stop, error) from error

    def _rotten(self, space: Space, leaves: Leaves, start: int, stop: int, error: RottenSlot) -> RottenPage:
        for page in range(start // space.page_size, -(-stop // space.page_size)):
            leaf = leaves.get(page >> 8)
            if leaf is not None and leaf.slot_of[page & 255] == error.slot:
                return RottenPage(space.name, page, str(error))
        return RottenPage(space.name, -1, str(error))

    def _past(self, space: Space, lvc: int) -> Past:
        """The state right after `lvc`, which is in the window."""
        space.heap.ensure(min(space.window.pages_since(lvc), space.max_pages) + 1)
        past = Past.of(space, space.table.freeze())
        for _ in undo_back(past, self.registry.book, space, lvc):
            pass
        return past

    # ------------------------------------------------------------ pages and differences

    def pages(self, name: str, *, start: int = 0, limit: int = 100) -> list[PageRow] | Refused:
        """Pages that hold data or once did, from number `start` on."""
        space = self.registry.by_name.get(name)
        if space is None:
            return unknown_space(name)
        return list(self._page_rows(space, start, limit))

    def _page_rows(self, space: Space, start: int, limit: int) -> Iterator[PageRow]:
        zero = zero_page_digest(space.page_size)
        leaves = space.table.leaves
        left = limit
        for number in sorted(number for number in leaves if number >= start >> 8):
            leaf = leaves[number]
            for at in range(256):
                page = number << 8 | at
                version = leaf.version_of[at]
                slot = leaf.slot_of[at]
                if page < start or not (version or slot):
                    continue
                if left == 0:
                    return
                left -= 1
                digest: bytes | None = zero
                if slot:
                    known = space.heap.flag_of[slot] & HASHED
                    digest = space.heap.digests[slot].tobytes() if known else None
                yield PageRow(page, version, digest, leaf.mark_of[at] == space.interval)

    def diff(self, name: str, a: str, b: str) -> DiffResult | Refused:
        """Between two snapshots, or a snapshot and `live`. Raises RottenPage."""
        space = self.registry.by_name.get(name)
        if space is None:
            return unknown_space(name)
        sides = []
        for ref in (a, b):
            snapshot = None if ref == "live" else space.find(ref)
            if snapshot is None and ref != "live":
                return unknown_snapshot(space, ref)
            sides.append(snapshot.leaves if snapshot is not None else space.table.leaves)
        return self._diff(space, sides[0], sides[1])

    def _diff(self, space: Space, left: Leaves, right: Leaves) -> DiffResult:
        try:
            return diff_leaves(space.heap, left, right)
        except RottenSlot as error:
            raise RottenPage(space.name, -1, str(error)) from error

    def dry_run(self, rollback: Rollback) -> DryRun | Refused:
        """What the rollback would change, with its conditions checked."""
        checked = check_rollback(self.registry, rollback)
        if isinstance(checked, Refused):
            return checked
        space, target = checked
        leaves = target.leaves if target is not None else self._past(space, rollback.to_lvc or 0).table.leaves
        diff = self._diff(space, space.table.leaves, leaves)
        return DryRun(diff.pages_changed, diff.ranges)

    # ------------------------------------------------------------ before-images

    def wal(self, name: str, *, from_seq: int = 0, limit: int = 100) -> list[WalRow] | Refused:
        """Records of the undo window from log_seq `from_seq` on, oldest first, at most 8 MiB of before-images."""
        space = self.registry.by_name.get(name)
        if space is None:
            return unknown_space(name)
        window = space.window
        rows: list[WalRow] = []
        if not len(window) or from_seq > space.log_seq:
            return rows
        nbytes = 0
        for lvc in range(window.lvc_of_seq(from_seq), space.lvc + 1):
            for row in wal_rows(self.registry.book.read(window, lvc)):
                if row.log_seq < from_seq:
                    continue
                nbytes += len(row.before or b"")
                if len(rows) >= limit or (rows and nbytes > WAL_BYTES_MAX):
                    return rows
                rows.append(row)
        return rows


def wal_rows(record: UndoRecord) -> Iterator[WalRow]:
    """The rows of one record, one per log_seq."""
    common = (record.lvc, record.epoch, record.raft_index)
    if record.kind == ROLLBACK:
        from_lvc, to_lvc, snapshot, left, _ = record.turn or (0, 0, 0, 0, 0)
        yield WalRow(
            record.seq, "rollback", None, *common, 0, 0, None, record.size_before, None, None, record.at_ms,
            from_lvc, to_lvc, snapshot or None, left,
        )  # fmt: skip
        return
    size = record.size_before
    seq = record.seq
    for image in record.ranges:
        yield WalRow(
            seq, "write", record.tx_id, *common, image.offset, image.length, bytes(image.before), size,
            image.before_crc, image.after_crc, record.at_ms,
        )  # fmt: skip
        size = max(size, image.offset + image.length)
        seq += 1
    if record.sets_size:
        yield WalRow(seq, "size", record.tx_id, *common, record.size_after, 0, None, size, None, None, record.at_ms)
