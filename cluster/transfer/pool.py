"""Slots that received pages go to, of one page size: their digests, what of them is verified, and what is durable."""

from __future__ import annotations

import io
from typing import Final

import numpy as np

from cluster.transfer.frames import Damaged
from node.digest import page_digest
from node.heap import HASHED, U8, U32, VERIFIED, Heap, RottenSlot
from wal.checks import invariant
from wal.disk import File

SEARCH_BYTES: Final = 8 << 20  # after a kill: so many bytes without a hit, and nothing more will be found
NO_SLOT: Final = 0


def _own_file(heap: Heap) -> File | None:
    """The heap's file, opened once more; None on a disk without descriptors, whose heaps are written through their
    view.
    """
    file = heap.disk.open(heap.path)
    try:
        file.fileno()
    except io.UnsupportedOperation:
        file.close()
        return None
    return file


class Pool:
    """Rows (ordinals) of slots in `heap`; each slot is held by one reference of ours until `release`.

    The thread that applies calls `hold` and `release`; verifying threads call the rest, each on its own ordinals.
    """

    def __init__(self, heap: Heap) -> None:
        self.heap = heap
        self._file = _own_file(heap)
        self.slots: U32 = np.empty(0, np.uint32)
        self.digests: U8 = np.empty((0, 16), np.uint8)
        self.verified: np.ndarray = np.empty(0, bool)
        self.durable: np.ndarray = np.empty(0, bool)

    def __len__(self) -> int:
        return len(self.slots)

    def add(self, slots: U32, digests: U8) -> int:
        """Rows for pages that will come into `slots`, which are held already. Returns the first new ordinal."""
        first = len(self.slots)
        self.slots = np.concatenate((self.slots, slots))
        self.digests = np.concatenate((self.digests, digests))
        self.verified = np.concatenate((self.verified, np.zeros(len(slots), bool)))
        self.durable = np.concatenate((self.durable, np.zeros(len(slots), bool)))
        return first

    def hold(self) -> None:
        """After a restart: takes a reference to every slot, before the heap hands any out. Lost slots become
        NO_SLOT.
        """
        self.slots[self.slots >= self.heap.slots] = NO_SLOT
        self.durable &= self.slots != NO_SLOT
        self.verified &= self.slots != NO_SLOT
        held = self.slots != NO_SLOT
        self.heap.retain(self.slots[held])
        done = held & self.durable
        self.heap.adopt(self.slots[done], self.digests[done])

    def release(self, count: int) -> bool:
        """Lets up to `count` slots go; those that a leaf refers to live on. True when there are more."""
        for slot in self.slots[:count].tolist():
            if slot != NO_SLOT:
                self.heap.drop(slot)
        self.slots = self.slots[count:]
        if self._file is not None and len(self.slots) == 0:
            self._file.close()
        return len(self.slots) > 0

    def take(self, ordinals: np.ndarray, received: memoryview) -> None:
        """Verifies received pages by their digests and writes them to their slots, or raises Damaged and writes
        nothing.

        Hashed while they are still in the cache of the processor, and written by `pwrite`: a page fault for each of
        them
        would cost more than that (docs/decisions, "received pages").
        """
        size = self.heap.page_size
        found = b"".join([page_digest(received[at : at + size]) for at in range(0, len(received), size)])
        wanted = self.digests[ordinals]
        if len(found) != wanted.size or found != wanted.tobytes():
            raise Damaged(f"some of {len(ordinals)} pages are not what their digests say")
        slots = self.slots[ordinals].astype(np.int64)
        invariant((slots != NO_SLOT).all(), "a received page has a slot (invariant 7)")
        breaks = (np.flatnonzero(np.diff(slots) != 1) + 1).tolist()
        for start, stop in zip([0, *breaks], [*breaks, len(slots)], strict=True):
            self._write(int(slots[start]) * size, received[start * size : stop * size])
        self._believe(ordinals)

    def _write(self, offset: int, run: memoryview) -> None:
        if self._file is not None:
            self._file.pwrite(run, offset)
        else:
            self.heap.view[offset : offset + len(run)] = run

    def _believe(self, ordinals: np.ndarray) -> None:
        slots = self.slots[ordinals]
        self.heap.digests[slots] = self.digests[ordinals]
        self.heap.flags[slots] = HASHED | VERIFIED
        self.verified[ordinals] = True

    def search(self) -> np.ndarray:
        """After a kill: looks for pages that came past the last durable mark. Returns the ordinals found.

        They came roughly in order, so the search ends where `SEARCH_BYTES` held nothing.
        """
        missing = np.flatnonzero(~self.verified & (self.slots != NO_SLOT))
        step = max(1, (1 << 20) // self.heap.page_size)
        found, idle_bytes = [], 0
        for at in range(0, len(missing), step):
            part = missing[at : at + step]
            hits = part[self._stored(part)]
            if len(hits):
                self._believe(hits)
                found.append(hits)
                idle_bytes = 0
            else:
                idle_bytes += len(part) * self.heap.page_size
                if idle_bytes >= SEARCH_BYTES:
                    break
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _stored(self, ordinals: np.ndarray) -> np.ndarray:
        """Which of them the file holds already, read by `pread`: a media error on a mapping would kill the process."""
        slots = self.slots[ordinals]
        self.heap.adopt(slots, self.digests[ordinals])
        hits = np.zeros(len(ordinals), bool)
        for row, slot in enumerate(slots.tolist()):
            try:
                self.heap.verify(slot)
                hits[row] = True
            except (RottenSlot, OSError):
                self.heap.flags[slot] = VERIFIED  # not what was hoped for: bytes of no meaning, as in a fresh slot
        return hits
