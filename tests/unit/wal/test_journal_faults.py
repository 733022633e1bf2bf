"""Torn tails are cut, damage is named, a failing disk stops the journal for ever."""

from __future__ import annotations

from random import Random

import pytest

from chaos.sim.disk import SimDisk
from tests.unit.wal.twin import SMALL
from wal.checks import Corrupt, FailStop, InvariantViolation
from wal.frame import SEGMENT_HEADER_BYTES
from wal.journal import RaftJournal
from wal.segments import SegmentFolder

ONE = "/j/0000000000000001.seg"


def filled(disk: SimDisk, count: int, *, each_synced: bool = True) -> RaftJournal:
    journal = RaftJournal.open(disk, "/j", SMALL)
    for index in range(1, count + 1):
        journal.append(b"%03d" % index * 10, index, 1)
        if each_synced:
            journal.sync_now()
    journal.sync_now()
    return journal


def copy_of(disk: SimDisk, path: str, to: SimDisk, content: bytes | None = None) -> None:
    to.makedirs("/j")
    file = to.open(path, create=True)
    file.pwrite(disk.open(path).pread(1 << 20, 0) if content is None else content, 0)
    file.fdatasync()
    to.fsync_dir("/j")


def test_torn_at_every_byte_of_the_last_record():
    disk = SimDisk()
    journal = filled(disk, 5)
    segment = journal.segments[0]
    last = segment.offsets[-1]
    raw = disk.open(ONE).pread(1 << 20, 0)
    for stop in range(last, segment.end):
        torn = SimDisk(stop)
        copy_of(disk, ONE, torn, raw[:stop].ljust(len(raw), b"\0"))
        again = RaftJournal.open(torn, "/j", SMALL)
        assert (again.first_index, again.last_index) == (1, 4)
        assert (again.recovered.torn is None) == (stop == last)
        if stop > last:
            assert (again.recovered.torn.path, again.recovered.torn.offset) == (ONE, last)
        again.append(b"new", 5, 2)
        again.close()
        again = RaftJournal.open(torn, "/j", SMALL)
        assert again.recovered.torn is None
        assert again.entries(4, 9) == [(b"004" * 10, 4, 1), (b"new", 5, 2)]


def test_a_file_cut_short_is_torn_too():
    disk = SimDisk()
    segment = filled(disk, 5).segments[0]
    short = SimDisk()
    copy_of(disk, ONE, short, disk.open(ONE).pread(segment.end - 3, 0))
    again = RaftJournal.open(short, "/j", SMALL)
    assert again.last_index == 4
    for index in range(5, 60):
        again.append(b"x" * 200, index, 1)
        again.sync_now()
    assert again.entry(30) == (b"x" * 200, 30, 1)


def test_a_later_frame_of_the_lost_write_does_not_come_back():
    """One write of three frames; the disk kept the second and third but not the first. Same sizes come after."""
    disk = SimDisk()
    journal = filled(disk, 3)
    start = journal.segments[0].end
    for index in (4, 5, 6):
        journal.append(b"old" * 10, index, 1)
    journal.sync_now()
    disk.open(ONE).pwrite(bytes(16), start)
    again = RaftJournal.open(disk, "/j", SMALL)
    assert again.last_index == 3 and again.recovered.torn is not None
    again.append(b"new" * 10, 4, 2)
    again.sync_now()
    again = RaftJournal.open(disk, "/j", SMALL)
    assert again.entries(4, 9) == [(b"new" * 10, 4, 2)]


def test_every_flipped_bit_in_durable_records_is_found():
    """All but the last record are vouched for by a later one. Header, payload, any byte: named, never swallowed."""
    disk = SimDisk()
    journal = filled(disk, 12)
    segment = journal.segments[0]
    rng = Random(1)
    for offset in range(SEGMENT_HEADER_BYTES, segment.offsets[-1]):
        mask = 1 << rng.randint(0, 7)
        disk.flip(ONE, offset, mask)
        with pytest.raises(Corrupt) as damage:
            RaftJournal.open(disk, "/j", SMALL)
        record = max(at for at in segment.offsets if at <= offset)
        assert (damage.value.path, damage.value.offset) == (ONE, record)
        disk.flip(ONE, offset, mask)
    RaftJournal.open(disk, "/j", SMALL)


def test_a_clean_close_vouches_for_the_last_record():
    disk = SimDisk()
    journal = filled(disk, 3)
    last = journal.segments[0].offsets[-1]
    journal.close()
    disk.flip(ONE, last + 50)
    with pytest.raises(Corrupt) as damage:
        RaftJournal.open(disk, "/j", SMALL)
    assert damage.value.offset == last


def test_damage_to_headers_and_missing_segments():
    disk = SimDisk()
    journal = filled(disk, 300)
    journal.close()
    paths = [segment.path for segment in journal.segments]
    assert len(paths) > 3
    for path in paths:
        disk.flip(path, 30)
        with pytest.raises(Corrupt) as damage:
            RaftJournal.open(disk, "/j", SMALL)
        assert (damage.value.path, damage.value.offset) == (path, 0)
        disk.flip(path, 30)
    for gone in (paths[0], paths[2]):
        disk.rename(gone, "/j/aside")
        with pytest.raises(Corrupt) as damage:
            RaftJournal.open(disk, "/j", SMALL)
        assert damage.value.path == gone
        disk.rename("/j/aside", gone)
    RaftJournal.open(disk, "/j", SMALL)


def test_the_end_of_a_sealed_segment_is_vouched_for_by_the_next():
    disk = SimDisk()
    journal = filled(disk, 300)
    last = journal.segments[1].offsets[-1]
    disk.flip(journal.segments[1].path, last + 40)
    with pytest.raises(Corrupt) as damage:
        RaftJournal.open(disk, "/j", SMALL)
    assert (damage.value.path, damage.value.offset) == (journal.segments[1].path, last)


def test_rot_is_found_when_an_old_entry_is_read():
    disk = SimDisk()
    journal = filled(disk, 300)
    disk.flip(ONE, journal.segments[0].offsets[4] + 60)
    with pytest.raises(Corrupt) as damage:
        journal.entry(5)
    assert (damage.value.path, damage.value.offset) == (ONE, journal.segments[0].offsets[4])
    assert journal.entry(4)[1] == 4


def test_frames_of_a_recycled_segment_are_not_replayed():
    disk = SimDisk()
    journal = RaftJournal.open(disk, "/j", SMALL)
    for index in range(1, 200):
        journal.append(b"%03d" % index * 100, index, 1)
        journal.note_commit(index)
        journal.sync_now()
        if index > 1:
            journal.compact_to(index - 1)
    journal.sync_now()
    assert journal.segments[-1].segment_id > 8
    again = RaftJournal.open(disk, "/j", SMALL)
    assert again.recovered.torn is None
    assert again.last_index == 199
    assert again.entries(1, 999) == journal.entries(1, 999)


def test_failed_fsync_stops_for_ever():
    disk = SimDisk()
    journal = filled(disk, 3)
    journal.append(b"x", 4, 1)
    mark = journal.flush()
    disk.fail_sync = lambda path: True
    with pytest.raises(FailStop):
        journal.sync(mark)
    disk.fail_sync = None
    syncs = disk.syncs
    for _ in range(2):
        with pytest.raises(FailStop):
            journal.sync(mark)
    with pytest.raises(InvariantViolation):
        journal.synced(mark)
    journal.close()
    assert disk.syncs == syncs
    assert journal.durable_lsn == 3


def test_a_full_disk_stops_only_who_ignores_the_room():
    disk = SimDisk()
    journal = filled(disk, 3)
    disk.capacity_bytes = disk.used_bytes()
    with pytest.raises(FailStop):
        for index in range(4, 500):
            journal.append(b"x" * 500, index, 1)
            journal.sync_now()
    disk.capacity_bytes = None
    again = RaftJournal.open(disk, "/j", SMALL)
    assert again.last_index >= journal.durable_lsn


def test_an_error_while_opening_stops(monkeypatch):
    disk = SimDisk()
    filled(disk, 3)
    disk.fail_sync = lambda path: True
    with pytest.raises(FailStop):
        RaftJournal.open(disk, "/j", SMALL)


def test_half_a_reset_never_happened():
    disk = SimDisk()
    journal = filled(disk, 5)
    start = journal.segments[0].end
    journal.reset([(b"a" * 30, 100, 3), (b"b" * 30, 101, 3)])
    journal.sync_now()
    disk.open(ONE).pwrite(bytes(10), journal.segments[0].offsets[1])
    again = RaftJournal.open(disk, "/j", SMALL)
    assert (again.first_index, again.last_index, again.recovered.torn.offset) == (1, 5, start)
    again.append(b"z", 6, 1)
    again.sync_now()
    assert RaftJournal.open(disk, "/j", SMALL).last_index == 6


def test_crash_before_the_drop_leaves_nothing_behind(monkeypatch):
    """The record that gives segments up is durable, the files are still there: the next open removes them."""
    disk = SimDisk()
    journal = filled(disk, 300)
    journal.note_commit(300)
    journal.compact_to(299)
    monkeypatch.setattr(SegmentFolder, "drop", lambda self, segment_id: None)
    journal.sync_now()
    monkeypatch.undo()
    dropped = journal.segments[0].segment_id
    assert disk.exists(ONE) and dropped > 2
    again = RaftJournal.open(disk, "/j", SMALL)
    assert not disk.exists(ONE)
    assert again.first_index == journal.first_index
    assert again.entries(1, 999) == journal.entries(1, 999)


def test_after_a_failed_fsync_a_restart_does_not_believe_the_cache():
    """The process stops, the machine does not: the page cache still has the bytes, and calls them clean."""
    disk = SimDisk()
    journal = filled(disk, 3)
    journal.append(b"lost?", 4, 1)
    disk.fail_sync = lambda path: True
    with pytest.raises(FailStop):
        journal.sync_now()
    disk.fail_sync = None
    again = RaftJournal.open(disk, "/j", SMALL)
    believed = again.last_index
    assert believed == 4
    disk.power_cut()
    disk.restart(keep=0, torn=0)
    assert RaftJournal.open(disk, "/j", SMALL).last_index == believed
