"""Segment files of one log: created whole, preallocated, recycled, and read frame by frame.

A segment is made under the name `spare`; it gets its own name only after its header is durable. So a file
`0000000000000007.seg` without a valid header is damage, never a half-made segment. Dropped segments become the next
spare: their blocks are written already, which makes an fdatasync of them a third cheaper than of fresh ones.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple
from zlib import crc32

from wal.checks import Corrupt, invariant
from wal.disk import Disk, File
from wal.frame import (
    HEAD_BYTES,
    MAGIC,
    RECYCLED,
    SEGMENT_HEADER_BYTES,
    Head,
    Purpose,
    SegmentHead,
    pack_segment_head,
    unpack_head,
    unpack_segment_head,
)

SPARE: Final = "spare"
SUFFIX: Final = ".seg"
ZERO_STEP_BYTES: Final = 1 << 20


class SegmentFolder:
    """The segment files of one log in one folder. Not thread-safe: the thread that syncs owns it."""

    def __init__(self, disk: Disk, folder: str, purpose: Purpose, segment_bytes: int) -> None:
        self.disk = disk
        self.folder = folder
        self.purpose = purpose
        self.segment_bytes = segment_bytes
        self.spare_ready = False
        self._spare: File | None = None
        self._spare_recycled = False
        self._spare_zeroed = 0
        disk.makedirs(folder)

    def path(self, segment_id: int) -> str:
        return f"{self.folder}/{segment_id:016x}{SUFFIX}"

    def ids(self) -> list[int]:
        """Ids of the segments that have a name, ascending."""
        names = [name for name in self.disk.listdir(self.folder) if name.endswith(SUFFIX)]
        return sorted(int(name[: -len(SUFFIX)], 16) for name in names)

    def open(self, segment_id: int) -> tuple[File, SegmentHead]:
        """Opens a segment and checks its header. Raises Corrupt."""
        path = self.path(segment_id)
        try:
            file = self.disk.open(path)
        except FileNotFoundError:
            raise Corrupt(path, 0, "a segment", "no file") from None
        head = unpack_segment_head(file.pread(SEGMENT_HEADER_BYTES, 0), path, self.purpose)
        if head.segment_id != segment_id:
            raise Corrupt(path, 0, f"segment {segment_id}", f"segment {head.segment_id}")
        return file, head

    def create(self, head: SegmentHead, nbytes: int, *, durable: bool = True) -> File:
        """A segment of at least `nbytes` under its name with `head` in it, durable. Raises OSError (ENOSPC).

        Without `durable` the caller syncs file and folder before anything refers to the segment.
        """
        spare = self._spare or self._open_spare()
        spare.fallocate(nbytes)
        flags = head.flags | (RECYCLED if self._spare_recycled else 0)
        spare.pwrite(pack_segment_head(head._replace(flags=flags)), 0)
        path = self.path(head.segment_id)
        if durable:
            spare.fdatasync()
        self.disk.rename(f"{self.folder}/{SPARE}", path)
        if durable:
            self.sync_names()
        spare.path = path
        self._spare, self.spare_ready = None, False
        return spare

    def sync_names(self) -> None:
        """Created and dropped names are durable."""
        self.disk.fsync_dir(self.folder)

    def drop(self, segment_id: int, *, durable: bool = True) -> None:
        """Forgets a segment: it becomes the spare, or its file is removed. Durable when it returns, unless told not."""
        path = self.path(segment_id)
        spare = f"{self.folder}/{SPARE}"
        if self._spare is None and not self.disk.exists(spare):
            # In the journal the new name is durable before a new header goes in, or a cut brings the old name back with
            # it: tests/unit/wal/test_journal_power.py. In the undo log a dropped segment may come back as anything.
            self.disk.rename(path, spare)
        else:
            self.disk.unlink(path)
        if durable:
            self.sync_names()

    def prepare_spare(self, step_bytes: int = ZERO_STEP_BYTES) -> None:
        """Works towards a spare: allocates it, and writes at most `step_bytes` of zeros into a fresh one.

        A full disk leaves `spare_ready` False and is tried again at the next call; other errors are raised.
        """
        try:
            spare = self._spare or self._open_spare()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            return
        if not self._spare_recycled and self._spare_zeroed < self.segment_bytes:
            stop = min(self._spare_zeroed + step_bytes, self.segment_bytes)
            write_zeros(spare, self._spare_zeroed, stop)
            self._spare_zeroed = stop

    def _open_spare(self) -> File:
        path = f"{self.folder}/{SPARE}"
        recycled = self.disk.exists(path)
        spare = self.disk.open(path, create=True)
        try:
            if spare.size() > self.segment_bytes:
                spare.truncate(self.segment_bytes)
            spare.fallocate(self.segment_bytes)
        except OSError:
            spare.close()
            if not recycled:
                with suppress(OSError):
                    self.disk.unlink(path)
            raise
        self._spare, self._spare_recycled, self._spare_zeroed = spare, recycled, 0
        self.spare_ready = True
        return spare

    def close(self) -> None:
        if self._spare is not None:
            self._spare.close()
            self._spare, self.spare_ready = None, False


class FrameAt(NamedTuple):
    """A whole frame: its offset in the segment and a view of its checked payload."""

    offset: int
    head: Head
    payload: memoryview


class TornTail(NamedTuple):
    """The end of a log that was being written when the power went: cut off at recovery, never acknowledged."""

    path: str
    offset: int
    nbytes: int


class SegmentScan:
    """Reads the frames of one segment in order and judges its end.

    Iterate first; then `end` is the offset after the last whole frame and `next_seq` the number expected there.
    """

    def __init__(self, file: File, head: SegmentHead) -> None:
        self.path = file.path
        self.head = head
        self.bytes = memoryview(file.pread(file.size(), 0))
        self.end = SEGMENT_HEADER_BYTES
        self.next_seq = head.first_seq

    def __iter__(self) -> Iterator[FrameAt]:
        raw, salt = self.bytes, self.head.salt
        while True:
            offset = self.end
            head = unpack_head(raw, offset, salt)
            if head is None or head.seq != self.next_seq:
                return
            payload = raw[offset + HEAD_BYTES : offset + HEAD_BYTES + head.payload_bytes]
            if len(payload) != head.payload_bytes or crc32(payload) != head.payload_crc:
                return
            self.end = offset + HEAD_BYTES + head.payload_bytes
            self.next_seq += 1
            yield FrameAt(offset, head, payload)

    def judge_end(self, cut: int | None = None, cut_seq: int | None = None) -> TornTail | None:
        """None for a clean end, a TornTail for bytes that may go. Raises Corrupt for damage to what was durable.

        A later frame of this segment that says that the missing one was durable is the proof of damage: within one
        unsynced write the disk may keep later bytes and lose earlier ones, so their presence alone proves nothing.
        `cut` and `cut_seq` name an earlier place where the log must end (a reset that is not complete).
        """
        later = list(self.heads_from(self.end))
        for offset, head in later:
            if head.synced >= self.next_seq:
                expected = f"frame {self.next_seq} (durable, says the frame {head.seq} at {offset})"
                raise Corrupt(self.path, self.end, expected, bytes(self.bytes[self.end : self.end + HEAD_BYTES]).hex())
        start = self.end if cut is None else cut
        if cut_seq is not None:
            invariant(cut_seq < self.next_seq, "a cut lies before the end", cut_seq=cut_seq, next_seq=self.next_seq)
        virgin = not self.head.flags & RECYCLED
        if cut is None and not later and not (virgin and bytes(self.bytes[start:]).strip(b"\0")):
            return None
        return TornTail(self.path, start, len(self.bytes) - start)

    def heads_from(self, start: int) -> Iterator[tuple[int, Head]]:
        """Offsets and headers of all undamaged headers of this segment from `start` on, wherever they stand."""
        raw = bytes(self.bytes[start:])
        at = raw.find(MAGIC)
        while at >= 0:
            head = unpack_head(raw, at, self.head.salt)
            if head is not None:
                yield start + at, head
            at = raw.find(MAGIC, at + 1)


def wipe(file: File, start: int) -> None:
    """Writes zeros from `start` to the end, durably, so that no frame of a torn tail can come back to life."""
    write_zeros(file, start, file.size())
    file.fdatasync()


def write_zeros(file: File, start: int, stop: int) -> None:
    for offset in range(start, stop, ZERO_STEP_BYTES):
        file.pwrite(bytes(min(ZERO_STEP_BYTES, stop - offset)), offset)
