"""The journal against its naive twin, and each of its promises by itself."""

from __future__ import annotations

import threading
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.sim.disk import SimDisk
from tests.unit.wal.twin import SMALL, Twin, differences, random_step
from wal.checks import FailStop, InvariantViolation
from wal.disk import RealDisk
from wal.journal import JournalConfig, RaftJournal


def open_sim(disk: SimDisk, config: JournalConfig = SMALL) -> RaftJournal:
    return RaftJournal.open(disk, "/j", config)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 1 << 32), steps=st.integers(1, 120))
def test_agrees_with_a_list(seed, steps):
    rng, twin, disk = Random(seed), Twin(), SimDisk(seed)
    journal = open_sim(disk)
    for _ in range(steps):
        random_step(rng, twin, journal)
        if rng.random() < 0.3:
            journal.sync_now()
        if rng.random() < 0.05:
            journal.sync_now()
            if rng.random() < 0.5:
                journal.close()
            journal = open_sim(disk)
            journal.note_commit(twin.committed)
            assert journal.recovered.torn is None
        assert differences(twin, journal) is None


def test_real_files(tmp_path):
    rng, twin = Random(5), Twin()
    journal = RaftJournal.open(RealDisk(), str(tmp_path / "j"), SMALL)
    for step in range(400):
        random_step(rng, twin, journal)
        if step % 7 == 0:
            journal.sync_now()
    assert differences(twin, journal) is None
    journal.close()
    again = RaftJournal.open(RealDisk(), str(tmp_path / "j"), SMALL)
    assert differences(twin, again) is None
    again.close()


def test_numbers_of_records_and_durability():
    journal = open_sim(SimDisk())
    assert journal.flush() is None
    journal.set_term(1, "n1")
    journal.append(b"a", 1, 1)
    first = journal.flush()
    journal.append(b"b", 2, 1)
    second = journal.flush()
    assert (journal.lsn, journal.durable_lsn, journal.lsn_of(1), journal.lsn_of(2), journal.lsn_of(3)) == (
        3,
        0,
        2,
        3,
        0,
    )
    journal.sync(first)
    journal.synced(first)
    assert journal.durable_lsn == 2
    with pytest.raises(InvariantViolation):
        journal.synced(second)
    journal.sync(second)
    journal.synced(second)
    assert journal.durable_lsn == 3
    assert journal.flush() is None


def test_marks_are_synced_in_order():
    journal = open_sim(SimDisk())
    journal.append(b"a", 1, 1)
    journal.flush()
    journal.append(b"b", 2, 1)
    with pytest.raises(InvariantViolation):
        journal.sync(journal.flush())


def test_numbers_count_this_run_only():
    disk = SimDisk()
    journal = open_sim(disk)
    for index in range(1, 4):
        journal.append(b"x", index, 1)
    journal.close()
    journal = open_sim(disk)
    assert (journal.lsn, journal.lsn_of(3)) == (0, 0)
    journal.set_term(2, None)
    journal.append(b"x", 4, 2)
    journal.truncate_from(3)
    journal.append(b"y", 3, 2)
    assert [journal.lsn_of(index) for index in (2, 3, 4)] == [0, 4, 0]


def test_a_sync_runs_beside_appends():
    """fdatasync is held; the loop thread appends, flushes and reads meanwhile."""
    disk = SimDisk()
    journal = open_sim(disk)
    held, go_on = threading.Event(), threading.Event()

    def hold(path: str) -> None:
        held.set()
        assert go_on.wait(10)

    journal.append(b"one", 1, 1)
    mark = journal.flush()
    disk.before_sync = hold
    worker = threading.Thread(target=journal.sync, args=(mark,))
    worker.start()
    assert held.wait(10)
    disk.before_sync = None
    for index in range(2, 60):
        journal.append(b"x" * 300, index, 1)
    following = journal.flush()
    assert journal.entry(1) == (b"one", 1, 1)
    assert len(journal.entries(1, 60)) == 59
    go_on.set()
    worker.join()
    journal.synced(mark)
    journal.sync(following)
    journal.synced(following)
    assert journal.durable_lsn == 59
    assert len(journal.entries(1, 60)) == 59


def test_old_entries_come_from_disk_and_memory_is_bounded():
    journal = open_sim(SimDisk(), JournalConfig(bytes_max=1 << 20, segment_bytes=65536, cache_bytes=5000))
    for index in range(1, 1001):
        journal.append(b"%d" % index * 20, index, 1 + index // 300)
        if index % 10 == 0:
            journal.sync_now()
    assert journal.recent.nbytes < 5000 + 11 * 300
    assert journal.entry(3) == (b"3" * 20, 3, 1)
    assert journal.entry(1000)[0] == b"1000" * 20
    assert [entry[1] for entry in journal.entries(1, 2000)] == list(range(1, 1001))
    assert [entry[1] for entry in journal.entries(5, 900, 100)] == [5, 6, 7, 8, 9]
    assert [entry[1] for entry in journal.entries(500, 900, 1)] == [500]
    assert journal.term_at(299) == 1 and journal.term_at(300) == 2 and journal.term_at(1001) is None
    assert journal.term_start(450) == 300
    with pytest.raises(IndexError):
        journal.entry(1001)


def test_committed_entries_are_not_truncated():
    journal = open_sim(SimDisk())
    for index in range(1, 10):
        journal.append(b"x", index, 1)
    journal.note_commit(5)
    with pytest.raises(FailStop):
        journal.truncate_from(5)
    journal.truncate_from(6)
    journal.truncate_from(7)
    assert journal.last_index == 5
    with pytest.raises(FailStop):
        journal.reset([(b"", 3, 1)])


def test_terms_and_votes_do_not_go_back():
    journal = open_sim(SimDisk())
    journal.set_term(3, None)
    journal.set_term(3, "n1")
    for term, vote in ((2, None), (3, "n2"), (3, None)):
        with pytest.raises(FailStop):
            journal.set_term(term, vote)
    journal.append(b"", 1, 3)
    with pytest.raises(InvariantViolation):
        journal.append(b"", 3, 3)
    with pytest.raises(InvariantViolation):
        journal.append(b"", 2, 2)


def test_compaction_keeps_history_within_the_bound():
    journal = open_sim(SimDisk())
    for index in range(1, 301):
        journal.append(b"x" * 300, index, 1)
        journal.note_commit(index)
        if index % 10 == 0:
            journal.sync_now()
            journal.compact_to(index)
    journal.sync_now()
    assert journal.bytes_allocated == SMALL.bytes_max
    assert 250 < journal.first_index < 275
    assert len(journal.entries(journal.first_index, 301)) == 301 - journal.first_index
    assert journal.bytes_from(300) < 1000 < journal.bytes_from(250) < journal.bytes_kept


def test_what_no_checkpoint_covers_is_kept_beyond_the_bound():
    disk = SimDisk()
    journal = open_sim(disk)
    for index in range(1, 501):
        journal.append(b"x" * 300, index, 1)
    journal.note_commit(500)
    journal.sync_now()
    assert journal.first_index == 1 and journal.bytes_allocated > 4 * SMALL.bytes_max
    journal.compact_to(20)
    assert journal.first_index <= 20
    journal.compact_to(490)
    journal.sync_now()
    assert journal.bytes_allocated <= SMALL.bytes_max
    assert journal.first_index > 300
    assert len(disk.listdir("/j")) == len(journal.segments) + 1


def test_steady_state_recycles_files():
    disk = SimDisk()
    journal = open_sim(disk)
    for index in range(1, 400):
        journal.append(b"x" * 300, index, 1)
        journal.note_commit(index)
        if index > 1:
            journal.compact_to(index)
        journal.sync_now()
        if index == 200:
            disk.keep_history = True
    assert not [line for line in disk.history if line.startswith(("create", "unlink"))]


def test_a_large_entry_gets_a_segment_of_its_size():
    disk = SimDisk()
    journal = open_sim(disk)
    journal.append(b"a", 1, 1)
    journal.append(b"b" * 50_000, 2, 1)
    journal.append(b"c", 3, 1)
    journal.close()
    journal = open_sim(disk)
    assert [len(entry[0]) for entry in journal.entries(1, 9)] == [1, 50_000, 1]


def test_room_is_known_before_it_is_needed():
    """A full disk shows in `room_bytes` before a record could fail; room comes back when the disk has some again."""
    disk = SimDisk()
    journal = open_sim(disk)
    assert journal.room_bytes > 4200
    disk.capacity_bytes = disk.used_bytes()
    index = 0
    while journal.room_bytes > 700:
        index += 1
        journal.append(b"x" * 500, index, 1)
        journal.sync_now()
    assert 5 < index < 40
    disk.capacity_bytes = None
    journal.append(b"y", index + 1, 1)
    journal.sync_now()
    assert journal.room_bytes > 4200


def test_config_is_checked_as_a_whole():
    with pytest.raises(ValueError):
        JournalConfig(bytes_max=8192)
    with pytest.raises(ValueError):
        JournalConfig(bytes_max=1 << 20, segment_bytes=1 << 20)
    assert JournalConfig(bytes_max=1 << 30).segment_size == 64 << 20
    assert JournalConfig(bytes_max=64 << 20).segment_size == 16 << 20
