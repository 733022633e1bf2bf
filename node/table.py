"""Page tables: leaves of 256 entries, shared between the live state and whatever froze it, copied when first written.

An entry is (version, slot, mark). Slot 0 = absent, which is replicated state: a page written with zeros is present.
Version = LVC of the page's last change (an absent page that once was changed keeps one). Mark = number of the dirtiness
interval in which it was last written, 0 = never.

A leaf may be written only by the table whose present generation made it. Generations are numbers that no two tables of
the process share, so a frozen leaf is never mistaken for an own one.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import count
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from node.digest import LEAF_PAGES
from node.heap import VERIFIED, Heap
from wal.checks import invariant

U64 = npt.NDArray[np.uint64]
U32 = npt.NDArray[np.uint32]
Bools = npt.NDArray[np.bool_]

BLOCK_BYTES: Final = 16 * LEAF_PAGES
_SLOTS_AT: Final = 8 * LEAF_PAGES
_MARKS_AT: Final = 12 * LEAF_PAGES
FROZEN: Final = 0  # owner of a leaf that nobody may write
_generations = count(1)
NO_ENTRIES: Final = bytes(BLOCK_BYTES)
BATCH_LEAVES: Final = 16  # looked at together: so little memory that the allocator has it at hand
_NO_VERSIONS: Final = bytes(_SLOTS_AT)


class Leaf:
    """256 entries in one block of bytes. Its references to slots go back to the heap when the object dies."""

    __slots__ = ("block", "digest", "heap", "mark_of", "owner", "slot_of", "stored_id", "version_of")

    def __init__(self, heap: Heap, block: bytearray, owner: int) -> None:
        """Takes over one reference to each slot in `block`; `Leaf.copy` and `Leaf.adopt` make those."""
        self.heap = heap
        self.block = block
        self.owner = owner
        self.digest: bytes | None = None  # cached once frozen, by whichever thread hashed it
        self.stored_id = 0  # for the checkpoint: 0 = not stored yet
        view = memoryview(block)
        self.version_of = view[:_SLOTS_AT].cast("Q")
        self.slot_of = view[_SLOTS_AT:_MARKS_AT].cast("I")
        self.mark_of = view[_MARKS_AT:].cast("I")

    @classmethod
    def adopt(cls, heap: Heap, block: bytes | bytearray, owner: int = FROZEN) -> Leaf:
        """A leaf over a copy of `block`, with references of its own to its slots."""
        leaf = cls(heap, bytearray(block), owner)
        heap.retain(leaf.slots)
        return leaf

    @property
    def versions(self) -> U64:
        return np.frombuffer(self.block, np.uint64, LEAF_PAGES, 0)

    @property
    def slots(self) -> U32:
        return np.frombuffer(self.block, np.uint32, LEAF_PAGES, _SLOTS_AT)

    @property
    def marks(self) -> U32:
        return np.frombuffer(self.block, np.uint32, LEAF_PAGES, _MARKS_AT)

    def __del__(self) -> None:
        self.heap.released.append(self.block)


Leaves = dict[int, Leaf]


class Table:
    """The live page table of one space (or a scratch one): leaf_no -> Leaf."""

    __slots__ = ("generation", "heap", "leaves")

    def __init__(self, heap: Heap, leaves: Leaves | None = None) -> None:
        self.heap = heap
        self.leaves: Leaves = dict(leaves) if leaves else {}
        self.generation = next(_generations)

    def freeze(self) -> Leaves:
        """The present leaves, never written again. Cheap: no leaf and no page is copied now."""
        self.generation = next(_generations)
        return dict(self.leaves)

    def swap(self, leaves: Leaves) -> None:
        """The table now shows these (frozen) leaves."""
        self.leaves = dict(leaves)
        self.generation = next(_generations)

    def own(self, leaf_no: int) -> Leaf:
        """The leaf for writing entries: the present one if it is ours, else a copy, else a new one."""
        leaf = self.leaves.get(leaf_no)
        if leaf is None:
            leaf = Leaf(self.heap, bytearray(NO_ENTRIES), self.generation)
        elif leaf.owner == self.generation:
            return leaf
        else:
            leaf = Leaf.adopt(self.heap, leaf.block, self.generation)
        self.leaves[leaf_no] = leaf
        return leaf

    def writable(self, leaf: Leaf, index: int) -> int:
        """A slot of that entry that may be written in place; `leaf` must be ours. May raise RottenSlot."""
        slot = leaf.slot_of[index]
        heap = self.heap
        if slot == 0:
            slot = heap.alloc()
            at = slot * heap.page_size
            heap.view[at : at + heap.page_size] = heap.zeros
            leaf.slot_of[index] = slot
        elif heap.ref_of[slot] != 1:
            copy = heap.copy(slot)
            heap.drop(slot)
            slot = leaf.slot_of[index] = copy
        elif heap.flag_of[slot] != VERIFIED:
            heap.reopen(slot)
        return slot

    def clear(self, leaf: Leaf, index: int) -> None:
        """Makes an entry absent; `leaf` must be ours."""
        slot = leaf.slot_of[index]
        if slot:
            leaf.slot_of[index] = 0
            self.heap.drop(slot)

    def version(self, page: int) -> int:
        """Version of a page, 0 = never changed."""
        leaf = self.leaves.get(page >> 8)
        return leaf.version_of[page & 255] if leaf is not None else 0

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), absent pages as zeros. Raises RottenSlot."""
        return read_leaves(self.heap, self.leaves, start, stop)


def read_leaves(heap: Heap, leaves: Leaves, start: int, stop: int) -> bytes:
    """Bytes [start, stop) of the state that `leaves` describe. Raises RottenSlot."""
    size = heap.page_size
    first, last = start // size, (stop - 1) // size
    if first == last:
        leaf = leaves.get(first >> 8)
        slot = leaf.slot_of[first & 255] if leaf is not None else 0
        if slot == 0:
            return bytes(stop - start)
        if not heap.flag_of[slot] & VERIFIED:
            heap.verify(slot)
        at = (slot - first) * size
        return bytes(heap.view[at + start : at + stop])
    parts = []
    for page in range(first, last + 1):
        leaf = leaves.get(page >> 8)
        slot = leaf.slot_of[page & 255] if leaf is not None else 0
        low = start - page * size if page == first else 0
        high = stop - page * size if page == last else size
        parts.append(heap.page(slot)[low:high] if slot else heap.zeros[low:high])
    return b"".join(parts)


def blocks_of(leaves: Leaves, numbers: Iterable[int]) -> npt.NDArray[Any]:
    """The blocks of those leaves as rows of bytes (missing ones as no entries), copied."""
    joined = b"".join([leaves[n].block if n in leaves else NO_ENTRIES for n in numbers])
    return np.frombuffer(joined, np.uint8).reshape(-1, BLOCK_BYTES)


def versions_in(blocks: npt.NDArray[Any]) -> U64:
    """Rows of 256 versions out of rows of blocks."""
    return blocks[:, :_SLOTS_AT].view(np.uint64)


def slots_in(blocks: npt.NDArray[Any]) -> U32:
    """Rows of 256 slots out of rows of blocks."""
    return blocks[:, _SLOTS_AT:_MARKS_AT].view(np.uint32)


def changed_pages(left: Leaves, right: Leaves) -> tuple[list[int], Bools]:
    """Numbers of the leaves that may differ, ascending, and per leaf a row of 256 marks where versions differ.

    A shared leaf object can't differ; that is only a short cut: the answer depends on versions alone.
    """
    numbers = sorted(n for n in left.keys() | right.keys() if left.get(n) is not right.get(n))
    differ = np.zeros((len(numbers), LEAF_PAGES), np.bool_)
    for start in range(0, len(numbers), BATCH_LEAVES):
        batch = numbers[start : start + BATCH_LEAVES]
        differ[start : start + BATCH_LEAVES] = _versions_of(left, batch) != _versions_of(right, batch)
    return numbers, differ


def _versions_of(leaves: Leaves, numbers: list[int]) -> U64:
    joined = b"".join([leaves[n].version_of if n in leaves else _NO_VERSIONS for n in numbers])
    return np.frombuffer(joined, np.uint64).reshape(-1, LEAF_PAGES)


def stamp_versions(table: Table, numbers: list[int], differ: Bools, version: int) -> int:
    """Gives the marked pages of `table` that version (after a rollback). How many they were.

    Leaves are copied in batches: a rollback of a gibibyte stamps a thousand of them.
    """
    rows = np.flatnonzero(differ.any(axis=1)).tolist()
    for start in range(0, len(rows), BATCH_LEAVES):
        batch = rows[start : start + BATCH_LEAVES]
        hit = [numbers[row] for row in batch]
        blocks = blocks_of(table.leaves, hit).copy()
        versions_in(blocks)[differ[batch]] = version
        table.heap.retain(slots_in(blocks).ravel())
        for number, block in zip(hit, blocks, strict=True):
            table.leaves[number] = Leaf(table.heap, bytearray(block), table.generation)
    return int(np.count_nonzero(differ))


def ranges_of(numbers: list[int], differ: Bools) -> list[tuple[int, int]]:
    """The marked pages as [first_page, count] in ascending order."""
    if not numbers:
        return []
    rows, columns = np.nonzero(differ)
    pages = np.asarray(numbers, np.int64)[rows] * LEAF_PAGES + columns
    if not len(pages):
        return []
    breaks = np.flatnonzero(np.diff(pages) != 1) + 1
    starts = pages[np.concatenate(([0], breaks))]
    stops = np.concatenate((breaks, [len(pages)])) - np.concatenate(([0], breaks))
    return [(int(first), int(many)) for first, many in zip(starts, stops, strict=True)]


def check_own(table: Table, leaf: Leaf) -> None:
    """A leaf about to be written is the table's own (invariant 3)."""
    invariant(leaf.owner == table.generation, "a frozen leaf is never written", owner=leaf.owner)
