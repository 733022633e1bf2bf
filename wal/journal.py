"""The Raft log on disk: entries, term and vote in one row of CRC-framed records over preallocated segments.

Two threads share it. The loop thread owns all state: it appends into memory and hands what is new to `flush`, which
only swaps buffers. A worker thread calls `sync(mark)`, which writes and fdatasyncs; then the loop thread calls
`synced(mark)`. Marks are synced in the order in which they were made. A sync that fails stops the process: a second
fdatasync would report success for bytes that the kernel has dropped.

Truncation, compaction and reset are records too, so that every state on the way is one that recovery knows.
"""

from __future__ import annotations

from dataclasses import dataclass
from struct import Struct
from typing import Final
from zlib import crc32

from wal.checks import FailStop, invariant
from wal.disk import Buffer, Disk
from wal.entries import Entry, RecentEntries, Runs, Segment
from wal.frame import HEAD_BYTES, SEGMENT_HEADER_BYTES, Kind, Purpose, SegmentHead, pack_head, read_payload
from wal.group_sync import GroupSync, SyncMark, Write
from wal.segments import SegmentFolder, TornTail

__all__ = ["Entry", "JournalConfig", "RaftJournal", "Recovered", "SyncMark"]

INDEX_TERM: Final = Struct(">QQ")
INDEX: Final = Struct(">Q")
COUNT: Final = Struct(">I")
ENTRY_FRAME_BYTES: Final = HEAD_BYTES + INDEX_TERM.size  # of an entry with an empty command
READ_BYTES_MAX: Final = 1 << 20  # one read of old entries from a segment
SEGMENT_BYTES_DEFAULT: Final = 64 << 20
SEGMENT_BYTES_MIN: Final = 2 * SEGMENT_HEADER_BYTES


@dataclass(frozen=True)
class JournalConfig:
    """Sizes in bytes. `segment_bytes` None means 64 MiB, at most a quarter of `bytes_max`.

    Up to `bytes_max` of segments are kept for followers; what no checkpoint covers is kept beyond it.
    """

    bytes_max: int = 64 << 20
    segment_bytes: int | None = None
    cache_bytes: int = 8 << 20

    def __post_init__(self) -> None:
        if self.bytes_max < 4 * SEGMENT_BYTES_MIN:
            raise ValueError(f"bytes_max is {self.bytes_max}, at least {4 * SEGMENT_BYTES_MIN}")
        if self.segment_bytes is not None and not SEGMENT_BYTES_MIN <= self.segment_bytes <= self.bytes_max // 2:
            raise ValueError(f"segment_bytes is {self.segment_bytes}, from {SEGMENT_BYTES_MIN} to half of bytes_max")

    @property
    def segment_size(self) -> int:
        if self.segment_bytes is not None:
            return self.segment_bytes
        return min(SEGMENT_BYTES_DEFAULT, max(SEGMENT_BYTES_MIN, self.bytes_max // 4))


@dataclass(frozen=True)
class Recovered:
    """What opening found: read records and bytes, and the torn tail that was cut, if any."""

    segments: int
    records: int
    nbytes: int
    torn: TornTail | None


class RaftJournal:
    """See the module. Indices are Raft's; `first_index` … `last_index` are kept, none if last is below first."""

    def __init__(self, folder: SegmentFolder, config: JournalConfig) -> None:
        """Not to be called: use `open`."""
        self.config = config
        self.first_index = 1
        self.last_index = 0
        self.last_term = 0
        self.base = 0  # entries below may be dropped
        self.term = 0
        self.vote: str | None = None
        self.committed = 0
        self.lsn = 0
        self.durable_lsn = 0
        self.recovered = Recovered(0, 0, 0, None)
        self.segments: list[Segment] = []
        self.terms = Runs()
        self.recent = RecentEntries(config.cache_bytes)
        self._folder = folder
        self._lsn_deltas = Runs()  # lsn - index of entries of this run; below the first run: from before
        self.seq = 0
        self.durable_seq = 0
        self._lsn_at_flush = 0
        self._writes: list[Write] = []
        self._parts: list[Buffer] = []  # of the last Write, bound for speed
        self._pending_bytes = 0
        self._dropped: list[Segment] = []
        self._creates_queued = 0
        self._marks_made = 0
        self._group = GroupSync(folder)
        self._reread: Entry | None = None  # the last entry read from disk

    @classmethod
    def open(cls, disk: Disk, folder: str, config: JournalConfig) -> RaftJournal:
        """Opens or makes the journal in `folder`, cuts a torn tail, and makes durable what it found.

        `recovered` tells what was read. Raises Corrupt naming segment and offset for damage to what was durable.
        """
        from wal.replay import replay  # it builds a RaftJournal, so it imports this module

        segments = SegmentFolder(disk, folder, Purpose.JOURNAL, config.segment_size)
        journal = cls(segments, config)
        replay(journal, segments)
        if not journal.segments:
            segments.prepare_spare(config.segment_size)
            journal._create_first_segment()
        journal._start_writes()
        segments.prepare_spare(config.segment_size)
        return journal

    # ------------------------------------------------------------------ reading

    @property
    def bytes_kept(self) -> int:
        """Bytes of records in the kept segments."""
        return sum(segment.end for segment in self.segments)

    @property
    def bytes_allocated(self) -> int:
        """Bytes that the kept segments take on disk."""
        return sum(segment.capacity for segment in self.segments)

    @property
    def room_bytes(self) -> int:
        """Bytes that can be appended for certain, without new disk space: rest of the segment, and the spare one."""
        active = self.segments[-1]
        spare = self._folder.segment_bytes if self._folder.spare_ready and not self._creates_queued else 0
        return active.capacity - active.end + max(0, spare - SEGMENT_HEADER_BYTES)

    def bytes_from(self, index: int) -> int:
        """Bytes of records from that of `index` on: what a replay from there reads."""
        total = 0
        for segment in reversed(self.segments):
            if segment.offsets and segment.first_index <= index < segment.stop_index:
                return total + segment.end - segment.offsets[index - segment.first_index]
            total += segment.end - SEGMENT_HEADER_BYTES
        return total

    def entry(self, index: int) -> Entry:
        """(command, index, term). Raises IndexError outside the log, Corrupt if the disk has lost it."""
        entry = self.recent.entries.get(index)
        if entry is not None:
            return entry
        if self._reread is not None and self._reread[1] == index:
            return self._reread
        if not self.first_index <= index <= self.last_index:
            raise IndexError(f"index {index} is not in {self.first_index} … {self.last_index}")
        self._reread = self._read(self._segment_of(index), index, index + 1)[0]
        return self._reread

    def entries(self, start: int, stop: int, bytes_max: int | None = None) -> list[Entry]:
        """Entries `start` ≤ index < `stop` that are kept; with `bytes_max`, no more bytes than that, but one entry."""
        start, stop = max(start, self.first_index), min(stop, self.last_index + 1)
        found: list[Entry] = []
        left = bytes_max if bytes_max is not None else 1 << 62
        index = start
        while index < stop:
            recent = self.recent.entries.get(index)
            if recent is not None:
                batch = [recent]
            else:
                segment = self._segment_of(index)
                # Entries in memory may not be written yet.
                on_disk = min(stop, segment.stop_index, self.recent.first if self.recent.entries else stop)
                batch = self._read(segment, index, on_disk, left)
            for entry in batch:
                left -= len(entry[0])
                if left < 0 and found:
                    return found
                found.append(entry)
            index += len(batch)
        return found

    def term_at(self, index: int) -> int | None:
        """Term of the entry at `index`; None outside the log."""
        if index == self.last_index and index >= self.first_index:
            return self.last_term
        if not self.first_index <= index <= self.last_index:
            return None
        return self.terms.at(index)

    def term_start(self, index: int) -> int:
        """Lowest kept index whose entry, like all up to `index`, has the term of the entry at `index`."""
        return max(self.first_index, self.terms.start_at(index))

    def lsn_of(self, index: int) -> int:
        """Number of the record of the entry at `index` in this run; 0 if it was there when the journal was opened."""
        deltas = self._lsn_deltas
        if not deltas.firsts or index < deltas.firsts[0] or index > self.last_index:
            return 0
        return index + deltas.at(index)

    def _segment_of(self, index: int) -> Segment:
        for segment in reversed(self.segments):
            if segment.offsets and segment.first_index <= index < segment.stop_index:
                return segment
        raise IndexError(f"index {index} is not in {self.first_index} … {self.last_index}")

    def _read(self, segment: Segment, start: int, stop: int, bytes_max: int = READ_BYTES_MAX) -> list[Entry]:
        """Reads entries of one segment with one pread of at most about `bytes_max`, at least one entry."""
        invariant(segment.file is not None, "an entry that is not written is in memory", index=start)
        low = start - segment.first_index
        begin = finish = segment.offsets[low]
        high = low
        limit = begin + min(bytes_max, READ_BYTES_MAX)
        while high < stop - segment.first_index and (high == low or segment.offsets[high] < limit):
            finish = segment.offsets[high] + segment.sizes[high]
            high += 1
        file = segment.file
        raw = memoryview(file.pread(finish - begin, begin)) if file is not None else memoryview(b"")
        found: list[Entry] = []
        for at in range(low, high):
            offset = segment.offsets[at]
            _, payload = read_payload(raw, segment.path, offset, segment.salt, offset - begin)
            index, term = INDEX_TERM.unpack_from(payload)
            invariant(index == segment.first_index + at, "an entry lies where it was put", index=index)
            found.append((bytes(payload[INDEX_TERM.size :]), index, term))
        return found

    # ------------------------------------------------------------------ appending

    def append(self, command: bytes, index: int, term: int) -> None:
        """Adds an entry in memory. It is durable once `durable_lsn` reaches the `lsn` that this sets."""
        last = self.last_index
        if last >= self.first_index:
            invariant(index == last + 1, "no gap in the log", index=index, last=last)
            invariant(term >= self.last_term, "terms do not go back", term=term, last_term=self.last_term)
        else:
            self.first_index = index
        nbytes = ENTRY_FRAME_BYTES + len(command)
        active = self.segments[-1]
        if active.end + nbytes > active.capacity:
            active = self._rotate(nbytes)
        prefix = INDEX_TERM.pack(index, term)
        self.seq += 1
        crc = crc32(command, crc32(prefix))
        head = pack_head(Kind.ENTRY, nbytes - HEAD_BYTES, self.seq, self.durable_seq, crc, active.salt)
        parts = self._parts
        parts.append(head + prefix)
        parts.append(command)
        active.add(index, active.end, nbytes)
        active.end += nbytes
        self._pending_bytes += nbytes
        self.lsn += 1
        deltas = self._lsn_deltas
        if not deltas.values or deltas.values[-1] != self.lsn - index:
            deltas.set_from(index, self.lsn - index)
        if not self.terms.values or self.terms.values[-1] != term:
            self.terms.set_from(index, term)
        self.last_index = index
        self.last_term = term
        self.recent.add((command, index, term))

    def set_term(self, term: int, vote: str | None) -> None:
        """Records term and vote. FailStop if the term goes back or a second vote is given in one term."""
        if term < self.term or (term == self.term and self.vote is not None and vote != self.vote):
            raise FailStop("term or vote would go back", term=term, vote=vote, had_term=self.term, had_vote=self.vote)
        self._record(Kind.VOTE, INDEX.pack(term) + (vote or "").encode())
        self.term, self.vote = term, vote

    def note_commit(self, index: int) -> None:
        """Entries up to `index` are committed: truncating them is refused from now on. Not durable."""
        self.committed = max(self.committed, index)

    def truncate_from(self, index: int) -> None:
        """Removes entries from `index` on. FailStop if one of them is committed or covered by a checkpoint."""
        if index > self.last_index:
            return
        if index <= max(self.committed, self.base):
            raise FailStop(
                "committed entries would be truncated", index=index, committed=self.committed, base=self.base
            )
        invariant(index >= self.first_index, "what is dropped is committed", index=index, first=self.first_index)
        self._record(Kind.TRUNCATE, INDEX.pack(index))
        self.forget_from(index)

    def forget_from(self, index: int) -> None:
        """The memory's side of a truncation."""
        self.recent.cut_from(index, self.last_index)
        for segment in self.segments:
            if segment.stop_index > index:
                segment.cut_from(index)
        self.last_index = index - 1
        self._reread = None
        self._lsn_deltas.cut_from(index)
        self.terms.cut_from(index)
        self.last_term = self.terms.at(self.last_index) if self.last_index >= self.first_index else 0

    def compact_to(self, index: int) -> None:
        """Entries below `index` are covered by a durable checkpoint. They are kept for followers within `bytes_max`."""
        if index <= self.base:
            return
        invariant(index <= self.last_index, "the checkpoint lies in the log", index=index, last=self.last_index)
        self._make_room(HEAD_BYTES + INDEX_TERM.size)
        self.base = index
        dropped = self._choose_drops(0)
        oldest = self.segments[len(dropped)].segment_id
        self._record(Kind.COMPACT, INDEX_TERM.pack(index, oldest))
        self._forget_segments(dropped)

    def reset(self, entries: list[Entry]) -> None:
        """The log becomes `entries` (what an installed checkpoint covers), all or nothing whatever the power does.

        FailStop if the new log would end before what is committed.
        """
        last = entries[-1][1] if entries else 0
        if last < self.committed:
            raise FailStop("a reset would lose committed entries", last=last, committed=self.committed)
        nbytes = HEAD_BYTES + COUNT.size + sum(ENTRY_FRAME_BYTES + len(command) for command, _, _ in entries)
        self._make_room(nbytes)  # in one segment, so that recovery sees all of it or can cut it
        self._record(Kind.RESET, COUNT.pack(len(entries)))
        self.clear_entries()
        self.base = self.committed = entries[0][1] if entries else 0
        for command, index, term in entries:
            self.append(command, index, term)

    def clear_entries(self) -> None:
        """The memory's side of a reset: no entries, no terms."""
        for segment in self.segments:
            segment.cut_from(0)
        self.recent.clear()
        self._reread = None
        self._lsn_deltas = Runs()
        self.terms = Runs()
        self.first_index, self.last_index, self.last_term = 1, 0, 0

    def _record(self, kind: Kind, payload: bytes) -> None:
        nbytes = HEAD_BYTES + len(payload)
        active = self._make_room(nbytes)
        self.seq += 1
        self._parts.append(pack_head(kind, len(payload), self.seq, self.durable_seq, crc32(payload), active.salt))
        self._parts.append(payload)
        active.end += nbytes
        self._pending_bytes += nbytes
        self.lsn += 1

    # ------------------------------------------------------------------ segments

    def _head_of_next(self, segment_id: int, oldest: int) -> SegmentHead:
        salt = int.from_bytes(self._folder.disk.entropy(4), "big")
        return SegmentHead(
            purpose=Purpose.JOURNAL,
            flags=0,
            segment_id=segment_id,
            salt=salt,
            first_seq=self.seq + 1,
            oldest_segment=oldest,
            term=self.term,
            base=self.base,
            last_index=self.last_index,
            last_term=self.last_term,
            vote=self.vote,
        )

    def _create_first_segment(self) -> None:
        head = self._head_of_next(1, 1)
        file = self._folder.create(head, self._folder.segment_bytes)
        segment = Segment(1, head.salt, file.path, file.size(), SEGMENT_HEADER_BYTES)
        segment.file = file
        self.segments.append(segment)

    def _make_room(self, nbytes: int) -> Segment:
        active = self.segments[-1]
        return active if active.end + nbytes <= active.capacity else self._rotate(nbytes)

    def _rotate(self, frame_bytes: int) -> Segment:
        """A new last segment with room for a frame of `frame_bytes`; the file is made by the next sync."""
        capacity = max(self._folder.segment_bytes, SEGMENT_HEADER_BYTES + frame_bytes)
        dropped = self._choose_drops(capacity)
        segment_id = self.segments[-1].segment_id + 1
        remaining = self.segments[len(dropped) :]
        head = self._head_of_next(segment_id, remaining[0].segment_id if remaining else segment_id)
        segment = Segment(segment_id, head.salt, self._folder.path(segment_id), capacity, SEGMENT_HEADER_BYTES)
        self._forget_segments(dropped)
        self.segments.append(segment)
        self._creates_queued += 1
        self._open_write(segment, head)
        return segment

    def _choose_drops(self, new_bytes: int) -> list[Segment]:
        """Oldest segments that nobody needs: without living entries, or covered ones that are beyond `bytes_max`."""
        allocated = self.bytes_allocated + new_bytes
        dropped: list[Segment] = []
        for segment in self.segments[:-1]:
            covered = segment.stop_index <= self.base and allocated > self.config.bytes_max
            if segment.offsets and not covered:
                break
            dropped.append(segment)
            allocated -= segment.capacity
        return dropped

    def _forget_segments(self, dropped: list[Segment]) -> None:
        if not dropped:
            return
        del self.segments[: len(dropped)]
        self._dropped += dropped
        living = next((segment for segment in self.segments if segment.offsets), None)
        if living is not None:
            self.first_index = living.first_index
            self.recent.forget_below(self.first_index)
            self.terms.forget_below(self.first_index)
            self._lsn_deltas.forget_below(self.first_index)
            self._reread = None

    # ------------------------------------------------------------------ making durable

    def _start_writes(self) -> None:
        self._writes = []
        self._open_write(self.segments[-1], None)

    def _open_write(self, segment: Segment, create: SegmentHead | None) -> None:
        self._parts = []
        self._writes.append(Write(segment, segment.end, self._parts, create))

    def flush(self) -> SyncMark | None:
        """Hands over what is new for `sync`; None if nothing is. Loop thread; copies nothing."""
        if self.lsn == self._lsn_at_flush:
            return None
        self._marks_made += 1
        mark = SyncMark(self._marks_made, self.lsn, self.seq, self._pending_bytes, self._writes, self._dropped)
        self._lsn_at_flush = self.lsn
        self._pending_bytes = 0
        self._dropped = []
        self._start_writes()
        return mark

    def sync(self, mark: SyncMark) -> None:
        """Writes and fdatasyncs `mark`. Worker thread, one at a time, in order. FailStop if the disk fails."""
        self._group.sync(mark)

    def synced(self, mark: SyncMark) -> None:
        """All up to `mark` is durable. Loop thread, after `sync(mark)` returned."""
        invariant(mark.number <= self._group.marks_synced, "only what was synced is durable", number=mark.number)
        self.durable_lsn = max(self.durable_lsn, mark.lsn)
        self.durable_seq = max(self.durable_seq, mark.seq)
        self._creates_queued -= sum(write.create is not None for write in mark.writes)
        recent = self.recent
        if recent.nbytes > recent.bytes_max:
            stop = self.last_index + 1
            while stop > recent.first and self.lsn_of(stop - 1) > self.durable_lsn:
                stop -= 1
            recent.evict(stop)

    def sync_now(self) -> None:
        """`flush`, `sync` and `synced` in one, for callers that may block."""
        mark = self.flush()
        if mark is not None:
            self.sync(mark)
            self.synced(mark)

    def close(self) -> None:
        """Makes all durable, says so in a last record (a rotten tail then is not taken for a torn one), and closes."""
        if self._group.failed is None:
            self.sync_now()
            if self.lsn:
                self._record(Kind.MARK, b"")
                self.sync_now()
        for segment in self.segments:
            if segment.file is not None:
                segment.file.close()
        self._folder.close()
