"""The half of the journal that a worker thread runs: writing what was handed over, and one fdatasync for all of it."""

from __future__ import annotations

from dataclasses import dataclass

from wal.checks import FailStop, invariant
from wal.disk import Buffer, File
from wal.entries import Segment
from wal.frame import SegmentHead
from wal.segments import SegmentFolder


@dataclass
class Write:
    """Bytes for one segment, from `offset` on. `create` is the header of a segment that does not exist yet."""

    segment: Segment
    offset: int
    parts: list[Buffer]
    create: SegmentHead | None = None


@dataclass
class SyncMark:
    """What one `sync` makes durable: all records up to `lsn`. `dropped` segments may go after that."""

    number: int
    lsn: int
    seq: int
    nbytes: int
    writes: list[Write]
    dropped: list[Segment]


class GroupSync:
    """Makes marks durable in their order. One thread at a time; after a failure, none ever again."""

    def __init__(self, folder: SegmentFolder) -> None:
        self.folder = folder
        self.marks_synced = 0
        self.failed: str | None = None

    def sync(self, mark: SyncMark) -> None:
        """Writes and fdatasyncs `mark`, then lets go of what it gives up. FailStop if the disk fails."""
        if self.failed is not None:
            raise FailStop("the journal has failed before", first=self.failed)
        invariant(mark.number == self.marks_synced + 1, "marks are synced in order", number=mark.number)
        try:
            self._write_out(mark.writes)
            for segment in mark.dropped:
                self.folder.drop(segment.segment_id)
            self.folder.prepare_spare()
        except OSError as error:
            # No second attempt: tests/unit/wal/test_journal_faults.py::test_failed_fsync_stops_for_ever
            self.failed = str(error)
            raise FailStop("the journal cannot be made durable", error=str(error), lsn=mark.lsn) from error
        self.marks_synced = mark.number

    def _write_out(self, writes: list[Write]) -> None:
        dirty: File | None = None
        for write in writes:
            segment = write.segment
            if write.create is not None:
                if dirty is not None:
                    dirty.fdatasync()  # a segment is whole before the next one exists
                segment.file = self.folder.create(write.create, segment.capacity)
            if write.parts and segment.file is not None:
                dirty = segment.file
                dirty.pwrite(b"".join(write.parts), write.offset)
        if dirty is not None:
            dirty.fdatasync()
