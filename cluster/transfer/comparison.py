"""One round of a transfer: a manifest compared with what is here, and the lists that requests are cut from.

An `Ask` names a range of one of these lists. A re-base begins a new round when nothing of the old one is in the air.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from typing import Final, NamedTuple, Protocol

import numpy as np

from cluster.transfer.frames import FRAME_BYTES, Kind, encode_chunk_asks, encode_leaf_asks, encode_places
from cluster.transfer.index import DigestIndex
from cluster.transfer.leaves import ENTRIES, ENTRY_BYTES, LeafEntries
from cluster.transfer.leaves import HEAD as LEAF_HEAD
from cluster.transfer.manifest import Manifest
from cluster.transfer.pool import NO_SLOT, Pool
from cluster.transfer.protocol import Ask
from node.heap import U8, U32, VERIFIED, Heap, RottenSlot
from wal.checks import invariant

LEAF_BYTES_MAX: Final = ENTRIES * ENTRY_BYTES + LEAF_HEAD.size
LEAVES_PER_ASK: Final = FRAME_BYTES // LEAF_BYTES_MAX


class LocalState(Protocol):
    """What this node holds outside the transfer, frozen: as long as this object lives, none of it is written."""

    def leaf(self, digest: bytes, meta: bytes) -> object | None:
        """The very leaf, by digest and metadata digest."""

    def near(self, uid: int, leaf_no: int) -> tuple[int, LeafEntries] | None:
        """The live leaf at that place of that space, and the space's LVC; None when the space is not here."""

    def pages(self, page_size: int) -> tuple[U8, U32]:
        """Digests and slots of all hashed pages that are held."""


class LeafAsk(NamedTuple):
    """Entries of leaf `leaf_id` with a version above `since` (0 = all)."""

    leaf_id: int
    since: int


class Pages(NamedTuple):
    """Pages of one page size that will be asked for: where they go (ordinals of `pool`), where they stand in leaves."""

    pool: Pool
    ordinals: np.ndarray
    leaf_ids: np.ndarray
    positions: np.ndarray

    def part(self, at: slice) -> Pages:
        return Pages(self.pool, self.ordinals[at], self.leaf_ids[at], self.positions[at])


class Round:
    """`received` are the leaves that came in earlier rounds or processes, by digest + metadata digest."""

    def __init__(
        self,
        manifest: Manifest,
        local: LocalState,
        received: Mapping[bytes, LeafEntries],
        chunks: Mapping[bytes, tuple[int, int]],
    ) -> None:
        self.manifest = manifest
        self.local_leaves: dict[int, object] = {}  # leaf id -> a leaf that is here, by reference
        self.near: dict[int, LeafEntries] = {}  # leaf id -> what entries above a version complete
        self.leaf_asks: list[LeafAsk] = []
        self._received = received
        self._local = local
        self._local_pages: dict[int, DigestIndex] = {}
        digests = [row.tobytes() for row in manifest.chunks["digest"]]
        self.chunk_asks = [number for number, digest in enumerate(digests) if digest not in chunks]
        self._pages: list[Pages] = []
        self._page_starts: list[int] = []
        self._compare()

    def _compare(self) -> None:
        for leaf_id, row in enumerate(self.manifest.leaves):
            digest, meta = row["digest"].tobytes(), row["meta"].tobytes()
            if digest + meta in self._received:
                continue
            here = self._local.leaf(digest, meta)
            if here is not None:
                self.local_leaves[leaf_id] = here
                continue
            near = self._local.near(int(row["uid"]), int(row["leaf_no"]))
            if near is not None:
                self.near[leaf_id] = near[1]
            self.leaf_asks.append(LeafAsk(leaf_id, near[0] if near is not None else 0))

    # ------------------------------------------------------------ leaves and pages of the manifest

    def page_size(self, leaf_id: int) -> int:
        return 1 << int(self.manifest.leaves["page_shift"][leaf_id])

    def key(self, leaf_id: int) -> bytes:
        """Digest + metadata digest of a leaf."""
        row = self.manifest.leaves[leaf_id]
        return bytes(row["digest"].tobytes() + row["meta"].tobytes())

    def wanted(self) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Per page size: leaf ids, positions and digests of the pages of all leaves that had to be received."""
        parts: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
        for leaf_id in range(len(self.manifest.leaves)):
            if leaf_id in self.local_leaves:
                continue
            entries = self._received[self.key(leaf_id)]
            at = np.flatnonzero(entries.present)
            ids = np.full(len(at), leaf_id, np.uint32)
            parts.setdefault(self.page_size(leaf_id), []).append((ids, at.astype(np.uint8), entries.digests[at]))
        return {
            size: (
                np.concatenate([part[0] for part in rows]),
                np.concatenate([part[1] for part in rows]),
                np.concatenate([part[2] for part in rows]),
            )
            for size, rows in parts.items()
        }

    def find_local(self, heap: Heap, digests: U8) -> U32:
        """Slots outside the transfer that hold these bytes; a slot not yet read since open is read now."""
        index = self._local_pages.get(heap.page_size)
        if index is None:
            index = self._local_pages[heap.page_size] = DigestIndex(*self._local.pages(heap.page_size))
        found = index.find(digests)
        for row in np.flatnonzero((found != NO_SLOT) & (heap.flags[found] & VERIFIED == 0)).tolist():
            try:
                heap.verify(int(found[row]))
            except (RottenSlot, OSError):
                found[row] = NO_SLOT
        return found

    # ------------------------------------------------------------ requests

    def cut_chunk_asks(self) -> list[Ask]:
        sizes = self.manifest.chunks["raw_bytes"]
        return [Ask(Kind.GET_CHUNKS, at, at + 1, int(sizes[number])) for at, number in enumerate(self.chunk_asks)]

    def cut_leaf_asks(self, start: int = 0) -> list[Ask]:
        """Requests for all leaves from place `start` of the list on."""
        asks = []
        for at in range(start, len(self.leaf_asks), LEAVES_PER_ASK):
            stop = min(at + LEAVES_PER_ASK, len(self.leaf_asks))
            asks.append(Ask(Kind.GET_LEAVES, at, stop, (stop - at) * LEAF_BYTES_MAX))
        return asks

    def ask_whole(self, leaf_ids: list[int]) -> list[Ask]:
        """Requests for leaves again, all entries of them."""
        start = len(self.leaf_asks)
        self.leaf_asks += [LeafAsk(leaf_id, 0) for leaf_id in leaf_ids]
        return self.cut_leaf_asks(start)

    def forget_pages(self) -> None:
        """A plan begins (again)."""
        self._pages, self._page_starts = [], []

    def cut_page_asks(self, pages: Pages) -> list[Ask]:
        base = self._page_starts[-1] + len(self._pages[-1].ordinals) if self._pages else 0
        self._pages.append(pages)
        self._page_starts.append(base)
        size = pages.pool.heap.page_size
        step, count = FRAME_BYTES // size, len(pages.ordinals)
        asks = []
        for at in range(0, count, step):
            stop = min(at + step, count)
            asks.append(Ask(Kind.GET_PAGES, base + at, base + stop, (stop - at) * size))
        return asks

    def pages_of(self, ask: Ask) -> Pages:
        """What a request for pages is about."""
        invariant(ask.kind is Kind.GET_PAGES and self._pages, "a request for planned pages", kind=ask.kind)
        part = bisect_right(self._page_starts, ask.start) - 1
        base = self._page_starts[part]
        return self._pages[part].part(slice(ask.start - base, ask.stop - base))

    def body_of(self, ask: Ask) -> bytes:
        """Body of the request for `ask`."""
        if ask.kind is Kind.GET_LEAVES:
            rows = np.array(self.leaf_asks[ask.start : ask.stop], np.uint64).reshape(-1, 2)
            return encode_leaf_asks(rows[:, 0], rows[:, 1])
        if ask.kind is Kind.GET_CHUNKS:
            return encode_chunk_asks(np.array(self.chunk_asks[ask.start : ask.stop]))
        pages = self.pages_of(ask)
        return encode_places(pages.leaf_ids, pages.positions)
