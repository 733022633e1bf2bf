"""What this node holds already, as a transfer asks for it: leaves by content, leaves by place, pages by digest."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cluster.transfer.held import entries_of
from cluster.transfer.leaves import LeafEntries
from node.hashing import hash_leaf
from node.heap import HASHED, U8, U32, HeapSet, RottenSlot
from node.image import FrozenState
from node.table import Leaf


class FrozenLocal:
    """`LocalState` over a frozen state, which it holds: nothing in it is written or reused as long as this lives.

    Made in a worker thread: hashes whatever is not hashed yet. A rotten leaf counts as not here.
    """

    def __init__(self, frozen: FrozenState, heaps: HeapSet) -> None:
        self._frozen = frozen
        self._heaps = heaps
        self._by_content: dict[bytes, Leaf] = {}
        self._leaves: dict[int, Leaf] = {}
        for leaf in _leaves_of(frozen):
            if id(leaf) in self._leaves:
                continue
            try:
                content = hash_leaf(leaf.heap, leaf) + entries_of(leaf).meta_digest()
            except RottenSlot:
                continue
            self._leaves[id(leaf)] = leaf
            self._by_content[content] = leaf

    def leaf(self, digest: bytes, meta: bytes) -> Leaf | None:
        """The very leaf, by digest and metadata digest."""
        return self._by_content.get(digest + meta)

    def near(self, uid: int, leaf_no: int) -> tuple[int, LeafEntries] | None:
        """The live leaf at that place of that space, and the space's LVC; None when it is not here."""
        image = self._frozen.spaces.get(uid)
        leaf = image.leaves.get(leaf_no) if image is not None else None
        if image is None or leaf is None or id(leaf) not in self._leaves:
            return None
        return image.meta.lvc, entries_of(leaf)

    def pages(self, page_size: int) -> tuple[U8, U32]:
        """Digests and slots of all hashed pages that are held."""
        heap = self._heaps.get(page_size)
        slots = [leaf.slots for leaf in self._leaves.values() if leaf.heap.page_size == page_size]
        held = np.unique(np.concatenate(slots)) if slots else np.empty(0, np.uint32)
        held = held[(held != 0) & (heap.flags[held] & HASHED != 0)]
        return heap.digests[held], held


def _leaves_of(frozen: FrozenState) -> Iterator[Leaf]:
    for image in frozen.spaces.values():
        yield from image.leaves.values()
        for snapshot in image.snapshots:
            yield from snapshot.leaves.values()
        for leaves in image.window.held.values():
            yield from leaves.values()
