"""Where the entries of the journal are: which segment, which offset, which term, which record number.

In memory that is a few bytes per entry; the entries themselves are in the files and, the newest, in `RecentEntries`.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import Final, TypeAlias

from wal.checks import invariant
from wal.disk import File

Entry: TypeAlias = tuple[bytes, int, int]  # command, index, term: the shape that PySyncObj uses

ENTRY_OVERHEAD_BYTES: Final = 128  # of Python's objects around a command in memory


class Segment:
    """One segment as the thread that appends sees it. Its live entries are `first_index` … `first_index + len - 1`."""

    __slots__ = ("capacity", "end", "file", "first_index", "offsets", "path", "salt", "segment_id", "sizes")

    def __init__(self, segment_id: int, salt: int, path: str, capacity: int, end: int) -> None:
        self.segment_id = segment_id
        self.salt = salt
        self.path = path
        self.capacity = capacity
        self.end = end  # offset after the last frame, written or not
        self.file: File | None = None  # None until the syncing thread has made it
        self.first_index = 0
        self.offsets = array("I")  # of the frame of each entry
        self.sizes = array("I")  # bytes of each frame, header included

    @property
    def stop_index(self) -> int:
        return self.first_index + len(self.offsets)

    def add(self, index: int, offset: int, nbytes: int) -> None:
        if not self.offsets:
            self.first_index = index
        self.offsets.append(offset)
        self.sizes.append(nbytes)

    def cut_from(self, index: int) -> None:
        """Entries from `index` on are gone."""
        keep = max(0, index - self.first_index)
        del self.offsets[keep:]
        del self.sizes[keep:]


class Runs:
    """A step function of the index, e.g. its term: what was set last at or below an index."""

    __slots__ = ("firsts", "values")

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.values: list[int] = []

    def set_from(self, index: int, value: int) -> None:
        """From `index` on it is `value`. Indices must ascend, except after `cut_from`."""
        invariant(not self.firsts or index > self.firsts[-1], "runs ascend", index=index)
        self.firsts.append(index)
        self.values.append(value)

    def at(self, index: int) -> int:
        """Value at `index`, which must not lie below the first run."""
        return self.values[bisect_right(self.firsts, index) - 1]

    def start_at(self, index: int) -> int:
        """Where the run that holds `index` begins."""
        return self.firsts[bisect_right(self.firsts, index) - 1]

    def cut_from(self, index: int) -> None:
        while self.firsts and self.firsts[-1] >= index:
            self.firsts.pop()
            self.values.pop()

    def forget_below(self, index: int) -> None:
        """Nobody will ask below `index` any more."""
        gone = bisect_right(self.firsts, index) - 1
        if gone > 0:
            del self.firsts[:gone]
            del self.values[:gone]


class RecentEntries:
    """The newest entries in memory, a contiguous run of indices ending with the last; older ones go first."""

    __slots__ = ("bytes_max", "entries", "first", "nbytes")

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.entries: dict[int, Entry] = {}
        self.first = 0  # lowest index held; meaningless while empty
        self.nbytes = 0

    def add(self, entry: Entry) -> None:
        if not self.entries:
            self.first = entry[1]
        self.entries[entry[1]] = entry
        self.nbytes += len(entry[0]) + ENTRY_OVERHEAD_BYTES

    def cut_from(self, index: int, last_index: int) -> None:
        for gone in range(max(index, self.first), last_index + 1):
            self._remove(gone)

    def evict(self, stop: int) -> None:
        """Drops the oldest entries below `stop` while there are more bytes than `bytes_max`; the last one stays."""
        while self.nbytes > self.bytes_max and self.first < stop and len(self.entries) > 1:
            self._remove(self.first)
            self.first += 1

    def forget_below(self, index: int) -> None:
        while self.entries and self.first < index:
            self._remove(self.first)
            self.first += 1

    def clear(self) -> None:
        self.entries.clear()
        self.nbytes = 0

    def _remove(self, index: int) -> None:
        entry = self.entries.pop(index, None)
        if entry is not None:
            self.nbytes -= len(entry[0]) + ENTRY_OVERHEAD_BYTES
