"""Any bytes may stand where a segment should be: the journal opens, or names the damage, and nothing else."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from chaos.sim.disk import SimDisk
from wal.checks import Corrupt, InvariantViolation
from wal.frame import Purpose
from wal.inspect import inspect_log
from wal.journal import JournalConfig, RaftJournal

CONFIG = JournalConfig(bytes_max=32768, segment_bytes=8192)
PATH = "/j/0000000000000001.seg"


def written() -> bytes:
    disk = SimDisk(seed=7)
    journal = RaftJournal.open(disk, "/j", CONFIG)
    journal.set_term(1, "n1")
    for index in range(1, 30):
        journal.append(b"%d" % index * 10, index, 1)
    journal.note_commit(20)
    journal.truncate_from(25)
    journal.compact_to(10)
    journal.close()
    return disk.open(PATH).pread(8192, 0)


GOOD = written()


def opens_or_names_the_damage(raw: bytes) -> bool:
    disk = SimDisk()
    disk.makedirs("/j")
    disk.open(PATH, create=True).pwrite(raw, 0)
    report = inspect_log(disk, "/j", Purpose.JOURNAL)
    try:
        journal = RaftJournal.open(disk, "/j", CONFIG)
    except Corrupt as damage:
        assert damage.path == PATH
        assert report.damages
        return False
    assert not report.damages
    assert journal.entries(0, 1 << 62) == [
        journal.entry(at) for at in range(journal.first_index, journal.last_index + 1)
    ]
    return True


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=6000))
def test_any_bytes(raw):
    opens_or_names_the_damage(raw)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD) - 1), st.binary(min_size=1, max_size=64)), min_size=1, max_size=4))
def test_a_good_segment_overwritten_in_places(patches):
    raw = bytearray(GOOD)
    for offset, patch in patches:
        raw[offset : offset + len(patch)] = patch
    opens_or_names_the_damage(bytes(raw[: len(GOOD)]))


def test_canary():
    """The good segment opens and one flipped bit of it is named: the fuzzing above can tell them apart."""
    assert opens_or_names_the_damage(GOOD)
    bad = bytearray(GOOD)
    bad[4096 + 40] ^= 4
    assert not opens_or_names_the_damage(bytes(bad))
    try:
        RaftJournal.open(SimDisk(), "/j", CONFIG).append(b"", 1, 1)
    except InvariantViolation:
        raise AssertionError("a fresh journal takes an entry") from None
