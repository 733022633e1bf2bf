"""Holding one version of a space for reading: its leaves, and so its slots, stay as they are while it lives."""

from __future__ import annotations

from dataclasses import dataclass

from node.catalogue import unknown_snapshot, unknown_space
from node.faults import RottenPage
from node.heap import Heap, RottenSlot
from node.registry import Registry
from node.results import Refused
from node.space import Snapshot
from node.table import Leaves, read_leaves


@dataclass(frozen=True)
class Held:
    """One version. Dropping the object gives the slots back. `snapshot` is None for the live state."""

    space: str
    uid: int
    size: int
    lvc: int
    epoch: int
    snapshot: Snapshot | None
    heap: Heap
    leaves: Leaves

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), which lie below `size`. Raises RottenPage."""
        if stop <= start:
            return b""
        try:
            return read_leaves(self.heap, self.leaves, start, stop)
        except RottenSlot as error:
            raise self._named(start, stop, error) from error

    def _named(self, start: int, stop: int, error: RottenSlot) -> RottenPage:
        size = self.heap.page_size
        for page in range(start // size, -(-stop // size)):
            leaf = self.leaves.get(page >> 8)
            if leaf is not None and leaf.slot_of[page & 255] == error.slot:
                return RottenPage(self.space, page, str(error))
        return RottenPage(self.space, -1, str(error))


def hold_live(registry: Registry, name: str, *, for_long: bool) -> Held | Refused:
    """The live state. `for_long`: it is read after this turn too, so the table is frozen (later writes copy)."""
    space = registry.by_name.get(name)
    if space is None:
        return unknown_space(name)
    leaves = space.table.freeze() if for_long else space.table.leaves
    return Held(name, space.uid, space.size, space.lvc, space.epoch, None, space.heap, leaves)


def hold_snapshot(registry: Registry, name: str, ref: str) -> Held | Refused:
    """A living snapshot, by id or `@label`."""
    space = registry.by_name.get(name)
    if space is None:
        return unknown_space(name)
    snapshot = space.find(ref)
    if snapshot is None:
        return unknown_snapshot(space, ref)
    facts = snapshot.facts
    return Held(name, space.uid, facts.size, facts.lvc, facts.epoch, snapshot, space.heap, snapshot.leaves)
