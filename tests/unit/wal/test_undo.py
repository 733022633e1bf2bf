"""The undo log: positions stay valid, damage is named, recovery starts from a stored position, dead segments go."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.sim.disk import PowerCut, SimDisk
from wal.checks import Corrupt, FailStop, InvariantViolation
from wal.disk import RealDisk
from wal.undo import UndoConfig, UndoLog

SMALL = UndoConfig(segment_bytes=8192, buffer_bytes=1000)


def open_log(disk: SimDisk) -> UndoLog:
    return UndoLog.open(disk, "/u", SMALL)


@settings(max_examples=50, deadline=None)
@given(records=st.lists(st.binary(max_size=3000), max_size=40), keep=st.floats(0, 1))
def test_agrees_with_a_dict(records, keep):
    disk = SimDisk()
    log = open_log(disk)
    twin = {}
    for record in records:
        twin[log.append(record)] = record
    positions = list(twin)
    assert positions == sorted(positions) and len(twin) == len(records)
    assert all(position < log.tail for position in positions)
    assert {position: log.read(position) for position in positions} == twin
    assert dict(log.scan()) == twin
    assert log.live_bytes == sum(len(record) + 32 for record in records)
    count = int(len(positions) * keep)
    tail = positions[count] if count < len(positions) else log.tail
    log.sync()
    again = open_log(disk)
    again.truncate_to(tail)
    assert {position: again.read(position) for position in positions[:count]} == dict(list(twin.items())[:count])
    for position in positions[count:]:
        with pytest.raises(Corrupt):
            again.read(position)
    fresh = again.append(b"fresh")
    assert fresh >= tail and again.read(fresh) == b"fresh"


def test_real_files(tmp_path):
    log = UndoLog.open(RealDisk(), str(tmp_path / "u"), SMALL)
    positions = log.append_many([b"%d" % number * 50 for number in range(100)])
    tail = log.tail
    log.sync()
    log.close()
    again = UndoLog.open(RealDisk(), str(tmp_path / "u"), SMALL)
    again.truncate_to(tail)
    assert [again.read(position) for position in positions] == [b"%d" % number * 50 for number in range(100)]
    again.close()


def test_a_record_may_be_larger_than_a_segment():
    log = open_log(SimDisk())
    small, large = log.append(b"s"), log.append(b"l" * 50_000)
    assert log.read(large) == b"l" * 50_000 and log.read(small) == b"s"


def test_memoryviews_are_records():
    log = open_log(SimDisk())
    assert log.read(log.append(memoryview(b"view")[1:])) == b"iew"


def test_damage_is_named():
    disk = SimDisk()
    log = open_log(disk)
    first, second = log.append(b"a" * 100), log.append(b"b" * 100)
    log.flush()
    offset = second & 0xFFFFFFFF
    for at in (0, 5, 31, 32, 131):
        disk.flip("/u/0000000000000001.seg", offset + at)
        with pytest.raises(Corrupt) as damage:
            log.read(second)
        assert (damage.value.path, damage.value.offset) == ("/u/0000000000000001.seg", offset)
        disk.flip("/u/0000000000000001.seg", offset + at)
    assert log.read(first) == b"a" * 100
    for nowhere in (first + 1, log.tail, 9 << 32):
        with pytest.raises(Corrupt):
            log.read(nowhere)


def test_what_is_synced_survives_and_the_rest_is_cut_by_position():
    for seed in range(30):
        disk = SimDisk(seed)
        log = open_log(disk)
        durable = [log.append(b"%d" % number * 40) for number in range(60)]
        mark = log.mark()
        lost = [log.append(b"later" * 40) for _ in range(60)]
        log.sync(mark)
        log.flush()
        disk.power_cut()
        disk.restart()
        again = open_log(disk)
        again.truncate_to(mark.tail)
        assert [again.read(position) for position in durable] == [b"%d" % number * 40 for number in range(60)]
        replayed = again.append_many([b"other" * 40 for _ in range(60)])
        assert [again.read(position) for position in replayed] == [b"other" * 40] * 60
        assert not set(replayed) & set(durable) and len(lost) == 60


def test_a_cut_anywhere_keeps_what_lives():
    """Segments are recycled all the time; the power goes before every effect, with several outcomes each."""

    def work(disk: SimDisk, synced: list[tuple[int, list[int]]]) -> None:
        log = open_log(disk)
        log.truncate_to(0)
        living: list[int] = []
        for number in range(6):
            positions = [log.append(b"%d" % number * 100) for _ in range(60)]
            living.append(positions[-1])
            dead = log.dead_segments()  # known before the sync: what it makes durable does not refer to them
            log.sync()
            synced.append((log.tail, list(living)))
            log.drop(dead)
            for position in positions[:-1]:
                log.release(position, 100)
            if number == 3:
                log.release(living.pop(0), 100)
            log.prepare_spare()

    total = SimDisk()
    work(total, [])
    assert total.effects > 60
    for cut_at in range(total.effects):
        for seed in range(3):
            disk = SimDisk(seed * 1000 + cut_at)
            disk.cut_after = cut_at
            synced: list[tuple[int, list[int]]] = [(0, [])]
            with pytest.raises(PowerCut):
                work(disk, synced)
            disk.restart()
            log = open_log(disk)
            tail, living = synced[-1]
            log.truncate_to(tail)
            log.recount((position, 100) for position in living)
            assert all(log.read(position)[1:] == log.read(position)[:-1] for position in living)
            assert log.read(log.append(b"alive")) == b"alive"
            log.drop(log.dead_segments())
            log.sync()


def test_appending_and_dropping_never_wait_for_the_disk():
    disk = SimDisk()
    log = open_log(disk)
    disk.keep_history = True
    syncs = disk.syncs
    positions = [log.append(b"x" * 900) for _ in range(40)]
    for position in positions[:30]:
        log.release(position, 900)
    log.drop(log.dead_segments())
    assert disk.syncs == syncs and not [line for line in disk.history if line.startswith("fsync_dir")]
    log.sync()
    assert disk.syncs > syncs and disk.history[-1].startswith("fsync_dir")


def test_dead_segments_go_thin_ones_are_named():
    disk = SimDisk()
    log = open_log(disk)
    positions = [log.append(b"x" * 968) for _ in range(40)]  # four to a segment
    assert log.dead_segments() == [] and log.thin_segments(0.9) == []
    for position in positions[:7]:
        log.release(position, 968)
    assert log.dead_segments() == [1]
    assert log.thin_segments(0.3) == [2]
    with pytest.raises(InvariantViolation):
        log.drop([2])
    log.drop([1])
    with pytest.raises(Corrupt):
        log.read(positions[0])
    assert log.read(positions[7]) == b"x" * 968
    for position in positions[7:]:
        log.release(position, 968)
    with pytest.raises(InvariantViolation):
        log.release(positions[-1], 968)


def test_recovery_announces_what_lives():
    disk = SimDisk()
    log = open_log(disk)
    positions = [log.append(b"x" * 968) for _ in range(12)]
    log.sync()
    again = open_log(disk)
    again.truncate_to(log.tail)
    again.retain(positions[0], 968)
    assert again.dead_segments() == [2, 3]
    again.drop(again.dead_segments())
    assert again.read(positions[0]) == b"x" * 968
    with pytest.raises(Corrupt):
        again.retain(99 << 32, 10)


def test_a_failed_sync_stops_for_ever():
    disk = SimDisk()
    log = open_log(disk)
    log.append(b"x")
    disk.fail_sync = lambda path: True
    with pytest.raises(FailStop):
        log.sync()
    disk.fail_sync = None
    with pytest.raises(FailStop):
        log.sync()


def test_a_full_disk_shows_in_the_room_before_it_hurts():
    disk = SimDisk()
    log = open_log(disk)
    log.append(b"x")
    log.prepare_spare()
    disk.capacity_bytes = disk.used_bytes()
    while log.room_bytes() > 600:
        log.append(b"y" * 500)
        log.prepare_spare()
    assert log.tail >> 32 == 2
    with pytest.raises(FailStop):
        for _ in range(10):
            log.append(b"y" * 500)
