"""Opening a journal: reads its segments in order, rebuilds the state in memory, cuts a torn tail."""

from __future__ import annotations

from itertools import pairwise

from wal.checks import Corrupt, FailStop, invariant
from wal.disk import File
from wal.entries import Segment
from wal.frame import HEAD_BYTES, Kind, SegmentHead
from wal.journal import COUNT, INDEX, INDEX_TERM, RaftJournal, Recovered
from wal.segments import FrameAt, SegmentFolder, SegmentScan, TornTail, wipe


class _Replay:
    """Applies records to the journal's memory. A reset waits until all its entries have been seen."""

    def __init__(self, journal: RaftJournal) -> None:
        self.journal = journal
        self.oldest_segment = 0
        self.records = 0
        self.nbytes = 0
        self._reset_at: FrameAt | None = None
        self._reset_entries: list[FrameAt] = []
        self._reset_missing = 0

    @property
    def unfinished_reset(self) -> FrameAt | None:
        return self._reset_at

    def start(self, head: SegmentHead, *, first: bool) -> None:
        """A segment begins. The first kept one brings the state; the others must agree with what was replayed."""
        journal = self.journal
        self.oldest_segment = max(self.oldest_segment, head.oldest_segment)
        if first:
            journal.term, journal.vote, journal.base = head.term, head.vote, head.base
            journal.last_index, journal.last_term = head.last_index, head.last_term
            journal.first_index = head.last_index + 1
            journal.seq = head.first_seq - 1
            return
        invariant(
            (journal.term, journal.vote, journal.base, journal.last_index)
            == (head.term, head.vote, head.base, head.last_index),
            "a segment's header repeats what the segments before it say",
            segment=head.segment_id,
            journal=(journal.term, journal.vote, journal.base, journal.last_index),
            header=(head.term, head.vote, head.base, head.last_index),
        )

    def apply(self, segment: Segment, frame: FrameAt) -> None:
        self.records += 1
        self.nbytes += HEAD_BYTES + frame.head.payload_bytes
        if self._reset_at is not None:
            self._collect(segment, frame)
        elif frame.head.kind == Kind.RESET:
            (self._reset_missing,) = COUNT.unpack(frame.payload)
            self._reset_at, self._reset_entries = frame, []
            self._finish_reset(segment)
        else:
            self._apply_one(segment, frame)

    def _collect(self, segment: Segment, frame: FrameAt) -> None:
        if frame.head.kind != Kind.ENTRY:
            raise Corrupt(segment.path, frame.offset, "an entry of a reset", f"kind {frame.head.kind}")
        self._reset_entries.append(frame)
        self._reset_missing -= 1
        self._finish_reset(segment)

    def _finish_reset(self, segment: Segment) -> None:
        if self._reset_missing:
            return
        self.journal.clear_entries()
        self.journal.base = 0
        for at, frame in enumerate(self._reset_entries):
            self._entry(segment, frame)
            if at == 0:
                self.journal.base = self.journal.first_index
        self._reset_at = None

    def _apply_one(self, segment: Segment, frame: FrameAt) -> None:
        journal, payload = self.journal, frame.payload
        match frame.head.kind:
            case Kind.ENTRY:
                self._entry(segment, frame)
            case Kind.VOTE:
                (journal.term,) = INDEX.unpack_from(payload)
                journal.vote = bytes(payload[INDEX.size :]).decode() or None
            case Kind.TRUNCATE:
                (index,) = INDEX.unpack(payload)
                journal.forget_from(index)
            case Kind.COMPACT:
                journal.base, oldest = INDEX_TERM.unpack(payload)
                self.oldest_segment = max(self.oldest_segment, oldest)
            case Kind.MARK:
                pass
            case other:
                raise Corrupt(segment.path, frame.offset, "a record of the journal", f"kind {other}")

    def _entry(self, segment: Segment, frame: FrameAt) -> None:
        journal = self.journal
        index, term = INDEX_TERM.unpack_from(frame.payload)
        if journal.last_index >= journal.first_index:
            if index != journal.last_index + 1 or term < journal.last_term:
                expected = f"entry {journal.last_index + 1} of term {journal.last_term} or later"
                raise Corrupt(segment.path, frame.offset, expected, f"entry {index} of term {term}")
        else:
            journal.first_index = index
        segment.add(index, frame.offset, HEAD_BYTES + frame.head.payload_bytes)
        if not journal.terms.values or journal.terms.values[-1] != term:
            journal.terms.set_from(index, term)
        journal.last_index, journal.last_term = index, term
        journal.recent.add((bytes(frame.payload[INDEX_TERM.size :]), index, term))
        journal.recent.evict(index)


def replay(journal: RaftJournal, folder: SegmentFolder) -> None:
    """Fills `journal` from the segments in `folder` and makes them durable. Raises Corrupt or FailStop."""
    ids = folder.ids()
    if not ids:
        return
    state = _Replay(journal)
    opened = [folder.open(segment_id) for segment_id in ids]
    newest = opened[-1][1]
    garbage = [segment_id for segment_id in ids if segment_id < newest.oldest_segment]
    kept = opened[len(garbage) :]
    _require_row(folder, ids[len(garbage) :])
    for file, _ in opened[: len(garbage)]:
        file.close()
    torn = None
    for at, (file, head) in enumerate(kept):
        state.start(head, first=at == 0)
        following = kept[at + 1][1] if at + 1 < len(kept) else None
        torn = _replay_segment(state, file, head, following)
    if state.oldest_segment < kept[0][1].segment_id:
        raise Corrupt(folder.path(state.oldest_segment), 0, "a segment", "no file")
    garbage += _drop_below(journal, state.oldest_segment)
    for segment_id in garbage:
        folder.drop(segment_id)
    journal.durable_seq = journal.seq
    journal.recovered = Recovered(len(journal.segments), state.records, state.nbytes, torn)


def _require_row(folder: SegmentFolder, ids: list[int]) -> None:
    for before, segment_id in pairwise(ids):
        if segment_id != before + 1:
            raise Corrupt(folder.path(before + 1), 0, "a segment", "no file")


def _replay_segment(state: _Replay, file: File, head: SegmentHead, following: SegmentHead | None) -> TornTail | None:
    journal = state.journal
    scan = SegmentScan(file, head)
    segment = Segment(head.segment_id, head.salt, file.path, file.size(), scan.end)
    segment.file = file
    journal.segments.append(segment)
    offsets: list[int] = []
    synced = 0
    for frame in scan:
        state.apply(segment, frame)
        offsets.append(frame.offset)
        synced = frame.head.synced
    journal.seq = scan.next_seq - 1
    segment.end = scan.end
    reset = state.unfinished_reset
    if following is not None:
        if scan.next_seq != following.first_seq or reset is not None:
            expected = f"frame {scan.next_seq} (durable, the next segment begins with {following.first_seq})"
            raise Corrupt(file.path, scan.end, expected, "none")
        return None
    torn = scan.judge_end() if reset is None else scan.judge_end(reset.offset, reset.head.seq)
    if reset is not None:
        journal.seq, segment.end = reset.head.seq - 1, reset.offset
    unproved = max(0, synced + 1 - head.first_seq)  # position of the first frame that nothing says was synced
    try:
        # A killed process leaves bytes that only the page cache has, and after a failed fdatasync the cache calls them
        # clean. So they are written again, and count only after this: tests/sim/test_consensus_slice.py, disk-error
        if unproved < len(offsets) and offsets[unproved] < segment.end:
            file.pwrite(scan.bytes[offsets[unproved] : segment.end], offsets[unproved])
        if torn is not None:
            wipe(file, torn.offset)
        else:
            file.fdatasync()
    except OSError as error:
        raise FailStop("the journal cannot be made durable", path=file.path, error=str(error)) from error
    return torn


def _drop_below(journal: RaftJournal, oldest: int) -> list[int]:
    """Segments that a durable record has given up, but whose file a crash left."""
    gone = [segment for segment in journal.segments if segment.segment_id < oldest]
    for segment in gone:
        invariant(segment.stop_index <= journal.base or not segment.offsets, "only covered entries are dropped")
        if segment.file is not None:
            segment.file.close()
    del journal.segments[: len(gone)]
    living = next((segment for segment in journal.segments if segment.offsets), None)
    if gone and living is not None:
        journal.first_index = living.first_index
        journal.recent.forget_below(journal.first_index)
        journal.terms.forget_below(journal.first_index)
    return [segment.segment_id for segment in gone]
