"""Reading a stopped node's journal: every damage is named, nothing is changed, a torn tail is no damage."""

from __future__ import annotations

from chaos.sim.disk import SimDisk
from tests.unit.wal.twin import SMALL
from wal.frame import Purpose
from wal.inspect import inspect_log
from wal.journal import RaftJournal


def filled(disk: SimDisk, count: int) -> RaftJournal:
    journal = RaftJournal.open(disk, "/j", SMALL)
    for index in range(1, count + 1):
        journal.append(b"%03d" % index * 40, index, 1)
        journal.sync_now()
    return journal


def test_whole():
    disk = SimDisk()
    journal = filled(disk, 200)
    journal.close()
    effects = disk.effects
    report = inspect_log(disk, "/j", Purpose.JOURNAL)
    assert disk.effects == effects
    assert (report.segments, report.frames) == (len(journal.segments), 201)
    assert report.damages == [] and report.torn is None
    assert report.nbytes == sum(segment.end - 4096 for segment in journal.segments)


def test_every_damage_is_named():
    disk = SimDisk()
    journal = filled(disk, 200)
    journal.close()
    hurt = []
    for segment, which in ((0, 2), (0, 5), (2, 0), (len(journal.segments) - 1, 0)):
        path, offset = journal.segments[segment].path, journal.segments[segment].offsets[which]
        disk.flip(path, offset + 45)
        hurt.append((path, offset))
    disk.flip(journal.segments[4].path, 9)
    hurt.append((journal.segments[4].path, 0))
    disk.rename(journal.segments[6].path, "/j/aside")
    hurt.append((journal.segments[6].path, 0))
    report = inspect_log(disk, "/j", Purpose.JOURNAL)
    assert {(damage.path, damage.offset) for damage in report.damages} >= set(hurt)
    assert 140 < report.frames < 160


def test_torn_tail_and_nothing_at_all():
    disk = SimDisk()
    journal = filled(disk, 3)
    disk.flip(journal.segments[0].path, journal.segments[0].offsets[-1] + 40)
    report = inspect_log(disk, "/j", Purpose.JOURNAL)
    assert report.damages == []
    assert report.torn.offset == journal.segments[0].offsets[-1]
    assert inspect_log(disk, "/none", Purpose.JOURNAL).segments == 0
