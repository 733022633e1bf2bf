"""A checkpoint that is being served: its leaves are held in memory, so their slots are neither written nor reused.

Made from a frozen state; lives as long as a transfer wants it. Reading it takes no lock: nothing in it changes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from cluster.transfer.leaves import ENTRIES, LeafEntries
from cluster.transfer.manifest import LEAF_ROW, Manifest
from node.hashing import hash_leaf
from node.heap import VERIFIED, Heap, RottenSlot
from node.table import Leaf


class Rotten(Exception):
    """A page of this node is not what its digest says, so it is not sent. `detail` names file and slot."""


class CheckpointSource(Protocol):
    """Where a sender gets checkpoints from."""

    def choose(self, index_min: int) -> HeldCheckpoint | None:
        """The newest durable checkpoint of at least that index; None when there is none yet. Any thread; may be
        slow.
        """


def entries_of(leaf: Leaf) -> LeafEntries:
    """Columns of a frozen leaf whose pages are hashed."""
    slots = leaf.slots
    present = slots != 0
    digests = np.where(present[:, None], leaf.heap.digests[slots], np.uint8(0))
    return LeafEntries(present, leaf.versions, leaf.marks, digests)


def leaf_row(leaf: Leaf, uid: int, leaf_no: int) -> tuple[bytes, bytes]:
    """(row of the manifest, digest + metadata digest) of a frozen leaf."""
    row = np.zeros((), LEAF_ROW)
    digest, meta = hash_leaf(leaf.heap, leaf), entries_of(leaf).meta_digest()
    row["digest"] = np.frombuffer(digest, np.uint8)
    row["meta"] = np.frombuffer(meta, np.uint8)
    row["uid"], row["leaf_no"] = uid, leaf_no
    row["page_shift"] = leaf.heap.page_size.bit_length() - 1
    row["pages"] = int(np.count_nonzero(leaf.slots))
    return row.tobytes(), digest + meta


class HeldCheckpoint:
    """`leaves[i]` is the leaf with id i of `manifest`; `chunk(n)` returns the raw bytes of chunk n."""

    def __init__(self, manifest: Manifest, leaves: Sequence[Leaf], chunk: Callable[[int], bytes]) -> None:
        self.manifest = manifest
        self.chunk = chunk
        self._leaves = leaves
        self._slots = np.array([leaf.slots for leaf in leaves], np.uint32).reshape(-1, ENTRIES)
        self._heaps: dict[int, Heap] = {leaf.heap.page_size: leaf.heap for leaf in leaves}

    def entries(self, leaf_id: int) -> LeafEntries:
        return entries_of(self._leaves[leaf_id])

    def views(self, places: np.ndarray, page_shift: int) -> list[memoryview]:
        """The pages at `places`, in order, neighbours joined. Raises Rotten; what was never read since open is read
        now.
        """
        heap = self._heaps[1 << page_shift]
        slots = self._slots[places["leaf"], places["position"]]
        for slot in slots[heap.flags[slots] & VERIFIED == 0].tolist():
            try:
                heap.verify(slot)
            except (RottenSlot, OSError) as error:
                raise Rotten(str(error)) from error
        wide, size, view = slots.astype(np.int64), heap.page_size, heap.view
        breaks = np.flatnonzero(np.diff(wide) != 1) + 1
        starts = [0, *breaks.tolist()]
        stops = [*breaks.tolist(), len(wide)]
        firsts = wide[starts].tolist()
        return [
            view[first * size : (first + stop - start) * size]
            for first, start, stop in zip(firsts, starts, stops, strict=True)
        ]
