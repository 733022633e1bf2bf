"""The undo log: before-images in the order in which they were made, in segments of CRC-framed records.

Appending only buffers; `flush` writes, `sync` (checkpoint thread) makes durable. A position stays valid until its
segment is dropped. Which records still live is the caller's knowledge: it releases them, and the log says which
segments are dead (to be dropped once a checkpoint without them is durable) or thin (worth copying forward).

The thread that appends never waits for the disk: new and dropped names become durable in `sync` too. So after a crash
there may be segments of any content behind the position that the checkpoint names. The caller truncates to that
position and announces what lives; a segment that is damaged is named when something in it is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final
from zlib import crc32

from wal.checks import Corrupt, FailStop, invariant
from wal.disk import Buffer, Disk, File
from wal.frame import (
    HEAD_BYTES,
    SEGMENT_HEADER_BYTES,
    Kind,
    Purpose,
    SegmentHead,
    pack_head,
    read_payload,
    unpack_segment_head,
)
from wal.segments import SegmentFolder, SegmentScan

OFFSET_BITS: Final = 32  # position = segment id << 32 | offset of the frame in the segment
OFFSET_MASK: Final = (1 << OFFSET_BITS) - 1
READ_AHEAD_BYTES: Final = 4096


@dataclass(frozen=True)
class UndoConfig:
    """Bytes of a segment, and of records that wait in memory before they are written."""

    segment_bytes: int = 64 << 20
    buffer_bytes: int = 256 << 10


class _Segment:
    __slots__ = ("capacity", "end", "file", "live_bytes", "salt", "segment_id")

    def __init__(self, segment_id: int, salt: int | None, file: File, capacity: int, end: int) -> None:
        self.segment_id = segment_id
        self.salt = salt  # None: the header is damaged
        self.file = file
        self.capacity = capacity
        self.end = end
        self.live_bytes = 0


@dataclass(frozen=True)
class UndoMark:
    """What `sync` makes durable: everything before `tail`."""

    tail: int
    files: tuple[File, ...]
    names: bool  # segments were created or dropped


class UndoLog:
    """See the module. All calls on the loop thread, except `sync`."""

    def __init__(self, folder: SegmentFolder, config: UndoConfig) -> None:
        """Not to be called: use `open`."""
        self.config = config
        self.failed: str | None = None
        self._folder = folder
        self._segments: dict[int, _Segment] = {}  # ascending
        self._active: _Segment | None = None  # the last one, once something was appended in this run
        self._seq = 0
        self._salt = 0  # of the active segment
        self._parts: list[Buffer] = []  # not yet written, from offset _written of the active segment
        self._written = 0
        self._unsynced: dict[int, File] = {}
        self._names_changed = False

    @classmethod
    def open(cls, disk: Disk, folder: str, config: UndoConfig) -> UndoLog:
        """Opens or makes the log. Reads headers only: `truncate_to` says where it ends."""
        log = cls(SegmentFolder(disk, folder, Purpose.UNDO, config.segment_bytes), config)
        for segment_id in log._folder.ids():
            file = disk.open(log._folder.path(segment_id))
            head = _head_of(file, segment_id)
            size = file.size()
            log._segments[segment_id] = _Segment(segment_id, head.salt if head else None, file, size, size)
            log._seq = max(log._seq, head.first_seq if head else 0)
        return log

    # ------------------------------------------------------------------ appending

    @property
    def tail(self) -> int:
        """Position of the next record, unless it begins a new segment. All records lie below."""
        if self._active is not None:
            return self._active.segment_id << OFFSET_BITS | self._active.end
        return (max(self._segments, default=0) + 1) << OFFSET_BITS

    def append(self, record: Buffer) -> int:
        """Position of the new record, which lives. Not durable before `sync`. FailStop if it can't be written."""
        nbytes = HEAD_BYTES + len(record)
        active = self._active
        if active is None or active.end + nbytes > active.capacity:
            active = self._next_segment(nbytes)
        self._seq += 1
        self._parts.append(pack_head(Kind.UNDO, len(record), self._seq, 0, crc32(record), self._salt))
        self._parts.append(record)
        position = active.segment_id << OFFSET_BITS | active.end
        active.end += nbytes
        active.live_bytes += nbytes
        if active.end - self._written > self.config.buffer_bytes:
            self.flush()
        return position

    def append_many(self, records: Iterable[Buffer]) -> list[int]:
        """Positions of the new records, in order."""
        return [self.append(record) for record in records]

    def room_bytes(self) -> int:
        """Bytes that can be appended for certain without new disk space (less 32 a record)."""
        active = self._active
        rest = active.capacity - active.end if active is not None else 0
        return rest + (self._folder.segment_bytes - SEGMENT_HEADER_BYTES if self._folder.spare_ready else 0)

    def flush(self) -> None:
        """Writes what is buffered (page cache only). FailStop if the disk refuses."""
        active = self._active
        if active is None or not self._parts:
            return
        parts, self._parts = self._parts, []
        try:
            active.file.pwrite(b"".join(parts), self._written)
        except OSError as error:
            self.failed = str(error)
            raise FailStop("the undo log cannot be written", error=str(error)) from error
        self._written = active.end
        self._unsynced[active.segment_id] = active.file

    def _next_segment(self, nbytes: int) -> _Segment:
        self.flush()
        segment_id = max(self._segments, default=0) + 1
        capacity = max(self.config.segment_bytes, SEGMENT_HEADER_BYTES + nbytes)
        invariant(capacity <= OFFSET_MASK, "an offset has 32 bits", capacity=capacity)
        salt = int.from_bytes(self._folder.disk.entropy(4), "big")
        head = SegmentHead(Purpose.UNDO, 0, segment_id, salt, self._seq + 1, 0, 0, 0, 0, 0, None)
        try:
            file = self._folder.create(head, capacity, durable=False)
        except OSError as error:
            self.failed = str(error)
            raise FailStop("the undo log cannot grow", error=str(error), nbytes=capacity) from error
        active = _Segment(segment_id, salt, file, file.size(), SEGMENT_HEADER_BYTES)
        self._segments[segment_id] = self._active = active
        self._salt = salt
        self._unsynced[segment_id] = file
        self._names_changed = True
        self._written = active.end
        return active

    # ------------------------------------------------------------------ durability

    def mark(self) -> UndoMark:
        """Writes what is buffered and names all that is not durable yet, for `sync` in a thread."""
        self.flush()
        files = tuple(self._unsynced.values())
        names, self._names_changed = self._names_changed, False
        self._unsynced = {}
        return UndoMark(self.tail, files, names)

    def sync(self, mark: UndoMark | None = None) -> None:
        """Makes everything before `mark.tail` durable. Any thread. FailStop if the disk fails; never tried again."""
        if self.failed is not None:
            raise FailStop("the undo log has failed before", first=self.failed)
        mark = mark if mark is not None else self.mark()
        try:
            for file in mark.files:
                file.fdatasync()
            if mark.names:
                self._folder.sync_names()
        except OSError as error:
            self.failed = str(error)
            raise FailStop("the undo log cannot be made durable", error=str(error)) from error

    def prepare_spare(self) -> None:
        """Allocates the next segment ahead, if there is room. Call it where a few milliseconds are no harm."""
        self._folder.prepare_spare(0)

    # ------------------------------------------------------------------ reading

    def read(self, position: int) -> bytes:
        """The record at `position`. Raises Corrupt naming file and offset when it is damaged or not there."""
        segment_id, offset = position >> OFFSET_BITS, position & OFFSET_MASK
        segment = self._segments.get(segment_id)
        if segment is None:
            raise Corrupt(self._folder.path(segment_id), offset, "an undo record", "no such segment")
        if segment is self._active and offset >= self._written:
            self.flush()
        path = segment.file.path
        if segment.salt is None:
            raise Corrupt(path, 0, "a segment header", "damaged")
        raw = segment.file.pread(READ_AHEAD_BYTES, offset) if offset < segment.end else b""
        size = HEAD_BYTES + _payload_bytes(raw)
        if size > len(raw) and len(raw) >= HEAD_BYTES:
            raw = segment.file.pread(min(size, segment.end - offset), offset)
        head, payload = read_payload(raw, path, offset, segment.salt)
        if head.kind != Kind.UNDO:
            raise Corrupt(path, offset, "an undo record", f"kind {head.kind}")
        return bytes(payload)

    def scan(self) -> Iterator[tuple[int, bytes]]:
        """All records in order, living or not: (position, record). A segment ends at its first invalid frame."""
        self.flush()
        for segment_id, segment in self._segments.items():
            head = _head_of(segment.file, segment_id)
            for frame in SegmentScan(segment.file, head) if head is not None else ():
                yield segment_id << OFFSET_BITS | frame.offset, bytes(frame.payload)

    # ------------------------------------------------------------------ recovery and accounting

    def truncate_to(self, tail: int) -> None:
        """Recovery: forgets everything from `tail` on; nothing lives until `retain` says so.

        The next append begins a new segment, so no stale frame can be taken for a new one.
        """
        invariant(self._active is None, "truncation is for recovery only", tail=tail)
        last_id, offset = tail >> OFFSET_BITS, tail & OFFSET_MASK
        for segment_id in sorted(self._segments, reverse=True):
            segment = self._segments[segment_id]
            if segment_id > last_id or (segment_id == last_id and offset <= SEGMENT_HEADER_BYTES):
                self._remove(segment_id)
            elif segment_id == last_id and segment.end > offset:
                segment.file.truncate(offset)
                segment.file.fdatasync()
                segment.end = segment.capacity = offset

    def retain(self, position: int, nbytes: int) -> None:
        """A record of `nbytes` at `position` lives (recovery)."""
        segment = self._segments.get(position >> OFFSET_BITS)
        if segment is None or position & OFFSET_MASK >= segment.end:
            path = self._folder.path(position >> OFFSET_BITS)
            raise Corrupt(path, position & OFFSET_MASK, "an undo record", "the end of the log")
        segment.live_bytes += HEAD_BYTES + nbytes

    def recount(self, living: Iterable[tuple[int, int]]) -> None:
        """What lives is exactly `living`, as (position, nbytes): after a recovery or an install. Raises Corrupt."""
        for segment in self._segments.values():
            segment.live_bytes = 0
        for position, nbytes in living:
            self.retain(position, nbytes)

    def release(self, position: int, nbytes: int) -> None:
        """The record of `nbytes` at `position` is dead. Its bytes stay readable until its segment is dropped."""
        segment = self._segments[position >> OFFSET_BITS]
        segment.live_bytes -= HEAD_BYTES + nbytes
        invariant(segment.live_bytes >= 0, "a record dies once", position=position, live_bytes=segment.live_bytes)

    def dead_segments(self) -> list[int]:
        """Segments in which nothing lives. The durable checkpoint may still need them: drop them after the next one."""
        return [
            key for key, segment in self._segments.items() if segment.live_bytes == 0 and segment is not self._active
        ]

    def thin_segments(self, live_ratio_max: float) -> list[int]:
        """Segments of whose bytes at most `live_ratio_max` live, thinnest first: copy their living records forward."""
        ratios = [
            (segment.live_bytes / (segment.end - SEGMENT_HEADER_BYTES), key)
            for key, segment in self._segments.items()
            if segment is not self._active and segment.live_bytes
        ]
        return [key for ratio, key in sorted(ratios) if ratio <= live_ratio_max]

    def drop(self, segment_ids: Iterable[int]) -> None:
        """Gives back dead segments, once a checkpoint that does not refer to them is durable."""
        for segment_id in segment_ids:
            invariant(self._segments[segment_id].live_bytes == 0, "only dead segments go", segment=segment_id)
            self._remove(segment_id)

    def _remove(self, segment_id: int) -> None:
        segment = self._segments.pop(segment_id)
        self._unsynced.pop(segment_id, None)
        segment.file.close()
        self._folder.drop(segment_id, durable=False)
        self._names_changed = True

    @property
    def live_bytes(self) -> int:
        """Bytes of living records, headers included."""
        return sum(segment.live_bytes for segment in self._segments.values())

    @property
    def bytes_allocated(self) -> int:
        """Bytes on disk, the spare segment aside."""
        return sum(segment.capacity for segment in self._segments.values())

    def close(self) -> None:
        """Closes without making anything durable."""
        for segment in self._segments.values():
            segment.file.close()
        self._folder.close()


def _head_of(file: File, segment_id: int) -> SegmentHead | None:
    """The header of a segment; None if it is damaged or that of another one."""
    try:
        head = unpack_segment_head(file.pread(SEGMENT_HEADER_BYTES, 0), file.path, Purpose.UNDO)
    except Corrupt:
        return None
    return head if head.segment_id == segment_id else None


def _payload_bytes(raw: bytes) -> int:
    return int.from_bytes(raw[4:8], "big") if len(raw) >= HEAD_BYTES else 0
