"""Page heap: one file of page slots per page size, memory-mapped, with references counted per slot.

Slot 0 is the absent page: it reads as zeros, is never written and never freed. A slot with more than one reference, or
one that a frozen leaf holds, is never written (invariant 3). Slot numbers are local to a node: nothing replicated may
depend on them.

The arrays live in reserved address space that is touched only as far as slots exist, so they never move: threads that
hash may write digests of slots that they hold while the file grows.
"""

from __future__ import annotations

import io
import mmap
import os
from collections import deque
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from node.digest import DIGEST_BYTES, LEAF_PAGES, page_digest, zero_page_digest
from wal.checks import invariant
from wal.disk import Disk

U8 = npt.NDArray[np.uint8]
U32 = npt.NDArray[np.uint32]

HASHED: Final = 1  # flag: the digest of the slot is that of its bytes
VERIFIED: Final = 2  # flag: the bytes were written or checked since the file was opened
ADDRESS_BYTES: Final = 128 << 30  # most bytes of one heap; what is reserved are 21 bytes of address a slot
EXTENT_BYTES: Final = 4 << 20
EXTENT_BYTES_MAX: Final = 64 << 20
FREE_BATCH: Final = 4_096
ONE: Final = np.uint32(1)
# A leaf's block (node/table.py): 256 versions (u64), then 256 slots (u32), then 256 marks (u32).
SLOT_COLUMNS: Final = slice(2 * LEAF_PAGES, 3 * LEAF_PAGES)


class HeapFull(Exception):
    """No room for `needed` more slots of `page_size`. Raised before any effect."""

    def __init__(self, page_size: int, needed: int, detail: str) -> None:
        self.page_size = page_size
        self.needed = needed
        super().__init__(f"no room for {needed} pages of {page_size} bytes: {detail}")


class RottenSlot(Exception):
    """The stored bytes of a slot are not those of its digest."""

    def __init__(self, path: str, slot: int, expected: bytes, found: bytes) -> None:
        self.path = path
        self.slot = slot
        super().__init__(f"{path} slot {slot}: expected digest {expected.hex()}, found {found.hex()}")


def _reserved(nbytes: int) -> mmap.mmap:
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | getattr(mmap, "MAP_NORESERVE", 0)
    return mmap.mmap(-1, nbytes, flags=flags)


class Heap:
    """Slots of `page_size` bytes in the file `path`. Used by the thread that applies; hash threads read held slots."""

    def __init__(
        self,
        disk: Disk,
        path: str,
        page_size: int,
        *,
        address_bytes: int = ADDRESS_BYTES,
        extent_bytes: int = EXTENT_BYTES,
    ) -> None:
        self.path = path
        self.page_size = page_size
        self.slots_max = address_bytes // page_size
        self.extent_bytes = extent_bytes
        self.disk = disk
        refs, flags = _reserved(4 * self.slots_max), _reserved(self.slots_max)
        self.refs: U32 = np.frombuffer(refs, np.uint32)
        self.digests: U8 = np.frombuffer(_reserved(DIGEST_BYTES * self.slots_max), np.uint8).reshape(-1, DIGEST_BYTES)
        self.flags: U8 = np.frombuffer(flags, np.uint8)
        self.ref_of = memoryview(refs).cast("I")
        self.flag_of = memoryview(flags)
        self.released: deque[bytearray] = deque()  # blocks of dead leaves, appended by whichever thread dropped them
        self.free: list[int] = []  # the batch that `alloc` pops from
        self._free_rest: list[U32] = []
        self._free_rest_count = 0
        self.slots = 0  # slots that the file holds
        self.view = memoryview(b"")
        self.zeros = bytes(page_size)
        self._file = disk.open(path, create=True)
        self._map: mmap.mmap | None = None
        self._copied = False  # the disk has no descriptors, so the mapping is a copy that `sync` writes back
        self._remap(self._file.size() // page_size)
        if self.slots == 0:
            self._grow(1)
        else:
            self.rebuild()
        self.refs[0] = 1 << 30
        self.flags[0] = HASHED | VERIFIED
        self.digests[0] = np.frombuffer(zero_page_digest(page_size), np.uint8)

    # ------------------------------------------------------------ room

    @property
    def free_slots(self) -> int:
        """Slots that can be handed out without growing the file."""
        return len(self.free) + self._free_rest_count

    def ensure(self, count: int) -> None:
        """Makes `count` slots free, or raises HeapFull with nothing changed."""
        if self.free_slots >= count:
            return
        self.settle()
        missing = count - self.free_slots
        if missing > 0:
            self._grow(missing)

    def alloc(self) -> int:
        """A free slot with one reference, verified and not hashed; its bytes are whatever they were."""
        free = self.free
        if not free:
            self._refill()
        slot = free.pop()
        self.ref_of[slot] = 1
        self.flag_of[slot] = VERIFIED
        return slot

    def _refill(self) -> None:
        if not self._free_rest:
            self.ensure(1)
        if self.free:
            return
        chunk = self._free_rest.pop()
        self._free_rest_count -= len(chunk)
        if len(chunk) > FREE_BATCH:
            self._add_free(chunk[FREE_BATCH:])
            chunk = chunk[:FREE_BATCH]
        self.free.extend(chunk[::-1].tolist())

    def _add_free(self, slots: U32) -> None:
        self._free_rest.append(slots)
        self._free_rest_count += len(slots)

    def _grow(self, count: int) -> None:
        step_bytes = min(max(self.extent_bytes, self.slots * self.page_size // 4), EXTENT_BYTES_MAX)
        # Growing ahead is for speed; it must not take from a nearly full disk what the journal needs.
        step_bytes = min(step_bytes, self.disk.free_bytes(os.path.dirname(self.path)) // 8)
        step = step_bytes // self.page_size
        target = self.slots + max(count, step)
        if target > self.slots_max:
            target = self.slots + count
        if target > self.slots_max:
            raise HeapFull(self.page_size, count, f"a heap holds at most {self.slots_max} pages")
        before = self.slots
        try:
            self._file.fallocate(target * self.page_size)
        except OSError as error:
            if target == before + count:
                raise HeapFull(self.page_size, count, str(error)) from error
            # A step is for speed; what was judged to be there is room for the need itself.
            self._file.truncate(before * self.page_size)
            target = before + count
            try:
                self._file.fallocate(target * self.page_size)
            except OSError as again:
                raise HeapFull(self.page_size, count, str(again)) from again
        self._remap(target)
        first = max(before, 1)
        self._add_free(np.arange(first, target, dtype=np.uint32))

    def _remap(self, slots: int) -> None:
        """Maps the file anew as a whole; views of earlier mappings stay valid and show the same bytes."""
        self.slots = slots
        if slots == 0:
            return
        try:
            self._map = mmap.mmap(self._file.fileno(), slots * self.page_size)
        except io.UnsupportedOperation:
            self._map = self._map_copy(slots * self.page_size)
            self._copied = True
        self.view = memoryview(self._map)

    def _map_copy(self, nbytes: int) -> mmap.mmap:
        """For a disk without descriptors: a private copy of the file, which `sync` writes back as a whole."""
        copy = mmap.mmap(-1, nbytes)
        copy[:] = self._file.pread(nbytes, 0).ljust(nbytes, b"\0")
        if self._map is not None:
            copy[: len(self._map)] = self._map[:]
        return copy

    def sync(self) -> None:
        """Every byte written so far is durable when this returns. Any thread. After an OSError nothing is known."""
        mapping = self._map
        invariant(mapping is not None, "a heap is mapped while open", path=self.path)
        if self._copied:
            self._file.pwrite(memoryview(self.view), 0)
        self._file.fdatasync()

    # ------------------------------------------------------------ references

    def retain(self, slots: U32) -> None:
        """One more reference to each of `slots` (repeats count each time)."""
        np.add.at(self.refs, slots.astype(np.intp), ONE)

    def settle(self) -> None:
        """Takes the references of dead leaves away and frees the slots that nobody refers to any more."""
        if not self.released:
            return
        blocks = []
        while self.released:
            blocks.append(self.released.popleft())
        slots = np.frombuffer(b"".join(blocks), np.uint32).reshape(len(blocks), -1)[:, SLOT_COLUMNS].ravel()
        slots = slots[slots != 0]
        np.subtract.at(self.refs, slots.astype(np.intp), ONE)
        dead = slots[self.refs[slots] == 0]
        if len(dead):
            self._add_free(np.unique(dead))

    def reopen(self, slot: int) -> None:
        """Before a write in place: the bytes are checked if they never were, and the digest no longer holds."""
        if not self.flag_of[slot] & VERIFIED:
            self.verify(slot)
        self.flag_of[slot] = VERIFIED

    def drop(self, slot: int) -> None:
        """One reference to `slot` less, at once."""
        left = self.ref_of[slot] - 1
        self.ref_of[slot] = left
        if left == 0:
            self.free.append(slot)

    def rebuild(self) -> None:
        """After recovery: free is exactly what no leaf retained. Digests of retained slots were given by `adopt`."""
        used = self.refs[: self.slots]
        self.released.clear()
        self.free = []
        free = np.flatnonzero(used[1:] == 0).astype(np.uint32) + ONE
        self._free_rest = [free] if len(free) else []
        self._free_rest_count = len(free)

    def adopt(self, slots: U32, digests: U8) -> None:
        """Recovery: `slots` hold bytes of these digests; they count as unverified until first read."""
        self.digests[slots] = digests
        self.flags[slots] = HASHED

    # ------------------------------------------------------------ bytes

    def page(self, slot: int) -> memoryview:
        """The bytes of a slot, verified. Raises RottenSlot."""
        if not self.flag_of[slot] & VERIFIED:
            self.verify(slot)
        at = slot * self.page_size
        return self.view[at : at + self.page_size]

    def verify(self, slot: int) -> None:
        """First use of a slot after open: read by `pread` (a media error on a mapping would kill the process)."""
        if self.flag_of[slot] & HASHED:
            expected, found = self.digests[slot].tobytes(), page_digest(self._stored(slot))
            if found != expected:
                raise RottenSlot(self.path, slot, expected, found)
        self.flag_of[slot] |= VERIFIED

    def copy(self, source: int) -> int:
        """A fresh slot with the bytes of `source`. Raises RottenSlot."""
        if not self.flag_of[source] & VERIFIED:
            self.verify(source)
        slot = self.alloc()
        size = self.page_size
        view = self.view
        view[slot * size : (slot + 1) * size] = view[source * size : (source + 1) * size]
        return slot

    def _stored(self, slot: int) -> bytes:
        """The bytes of a slot as the disk has them (a fake disk has them only after `sync`)."""
        at = slot * self.page_size
        return bytes(self.view[at : at + self.page_size]) if self._copied else self._file.pread(self.page_size, at)

    def reread(self, slot: int) -> bool:
        """Whether the stored bytes of a held, hashed slot are those of its digest; if not, readers will be refused.

        Any thread.
        """
        good: bool = page_digest(self._stored(slot)) == self.digests[slot].tobytes()
        if not good:
            self.flag_of[slot] = HASHED
        return good

    def close(self) -> None:
        """Unmaps as far as nobody looks any more."""
        self._file.close()
        self.view = memoryview(b"")
        self._map = None


class HeapSet:
    """The heaps of one node, one per page size, opened when first needed: `<folder>/pages-<page_size>`."""

    def __init__(self, disk: Disk, folder: str, **options: Any) -> None:
        self.disk = disk
        self.folder = folder
        self._options = options
        self.heaps: dict[int, Heap] = {}

    def get(self, page_size: int) -> Heap:
        """The heap of that page size. Raises HeapFull when its file can't be made."""
        heap = self.heaps.get(page_size)
        if heap is None:
            try:
                heap = Heap(self.disk, f"{self.folder}/pages-{page_size}", page_size, **self._options)
                self.disk.fsync_dir(self.folder)
            except OSError as error:
                raise HeapFull(page_size, 1, str(error)) from error
            self.heaps[page_size] = heap
        return heap

    def sync(self) -> None:
        """All heaps durable. Any thread."""
        for heap in list(self.heaps.values()):
            heap.sync()

    def close(self) -> None:
        for heap in self.heaps.values():
            heap.close()
        self.heaps.clear()
