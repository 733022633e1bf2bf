"""The bytes on disk are those of docs/format.md, whatever the code becomes. Files: tests/golden/wal."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest

from chaos.sim.disk import SimDisk
from wal.checks import Corrupt
from wal.frame import SEGMENT_HEADER_BYTES, Purpose, SegmentHead, pack_segment_head, unpack_segment_head
from wal.journal import JournalConfig, RaftJournal
from wal.undo import UndoConfig, UndoLog

GOLDEN = Path(__file__).parents[2] / "golden" / "wal"
CONFIG = JournalConfig(bytes_max=32768, segment_bytes=8192)


def golden(name: str, found: bytes) -> None:
    assert (GOLDEN / name).read_bytes() == found, f"{name} is written differently now: that needs a new version"


class FixedSalt(SimDisk):
    def entropy(self, nbytes: int) -> bytes:
        return b"\x11\x22\x33\x44\x55\x66\x77\x88"[:nbytes]


def journal_file() -> bytes:
    """One record of each kind."""
    disk = FixedSalt()
    journal = RaftJournal.open(disk, "/j", CONFIG)
    journal.set_term(7, "n2")
    journal.append(b"first", 1, 7)
    journal.append(b"second", 2, 7)
    journal.append(b"third", 3, 7)
    journal.sync_now()
    journal.note_commit(2)
    journal.truncate_from(3)
    journal.compact_to(2)
    journal.set_term(8, None)
    journal.reset([(b"installed", 40, 8), (b"", 41, 8)])
    end = journal.segments[0].end + 32
    journal.close()
    return disk.open("/j/0000000000000001.seg").pread(end, 0)


def undo_file() -> bytes:
    disk = FixedSalt()
    log = UndoLog.open(disk, "/u", UndoConfig(segment_bytes=8192))
    log.append(b"before-image")
    log.append(b"")
    log.flush()
    return disk.open("/u/0000000000000001.seg").pread((log.tail & 0xFFFFFFFF), 0)


def test_journal_segment():
    golden("journal-every-kind.bin", journal_file())


def test_undo_segment():
    golden("undo-two-records.bin", undo_file())


def test_frame_by_hand():
    """docs/format.md read by a second implementation: the first entry of the golden journal."""
    raw = (GOLDEN / "journal-every-kind.bin").read_bytes()
    at = SEGMENT_HEADER_BYTES + 32 + 8 + 2  # after the vote
    assert raw[at : at + 4] == b"LF\x01\x01"
    assert raw[at + 4 : at + 8] == (16 + 5).to_bytes(4, "big")
    assert raw[at + 8 : at + 16] == (2).to_bytes(8, "big") and raw[at + 16 : at + 24] == bytes(8)
    payload = raw[at + 32 : at + 32 + 21]
    assert payload == (1).to_bytes(8, "big") + (7).to_bytes(8, "big") + b"first"
    assert raw[at + 24 : at + 28] == crc32(payload).to_bytes(4, "big")
    assert raw[at + 28 : at + 32] == crc32(raw[at : at + 28], 0x11223344).to_bytes(4, "big")


def test_golden_journal_opens():
    disk = SimDisk()
    disk.makedirs("/j")
    disk.open("/j/0000000000000001.seg", create=True).pwrite((GOLDEN / "journal-every-kind.bin").read_bytes(), 0)
    journal = RaftJournal.open(disk, "/j", CONFIG)
    assert (journal.term, journal.vote, journal.base, journal.first_index) == (8, None, 40, 40)
    assert journal.entries(1, 99) == [(b"installed", 40, 8), (b"", 41, 8)]


def test_segment_header_round_trip_and_refusals():
    head = SegmentHead(Purpose.JOURNAL, 0, 3, 0xDEADBEEF, 99, 2, 5, 40, 77, 4, "n1")
    raw = pack_segment_head(head)
    assert unpack_segment_head(raw, "p", Purpose.JOURNAL) == head
    with pytest.raises(Corrupt):
        unpack_segment_head(raw, "p", Purpose.UNDO)
    with pytest.raises(Corrupt):
        unpack_segment_head(raw[:100], "p", Purpose.JOURNAL)
    newer = raw[:4] + b"\0\x02" + raw[6:]
    with pytest.raises(Corrupt) as refused:
        unpack_segment_head(newer, "p", Purpose.JOURNAL)
    assert "version 2" in str(refused.value)
