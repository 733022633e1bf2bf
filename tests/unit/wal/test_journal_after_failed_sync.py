"""After a failed fdatasync the cache shows bytes that the platter never got: the next opening must write them again."""

from __future__ import annotations

import pytest

from chaos.sim.disk import SimDisk
from wal.checks import FailStop
from wal.journal import JournalConfig, RaftJournal

SMALL = JournalConfig(bytes_max=64 * 1024)


def test_what_a_reopened_journal_calls_durable_survives_a_power_cut() -> None:
    disk = SimDisk(1)
    journal = RaftJournal.open(disk, "journal", SMALL)
    for index in range(1, 6):
        journal.append(b"durable %d" % index, index, 1)
    journal.sync_now()
    for index in range(6, 9):
        journal.append(b"in the cache only %d" % index, index, 1)
    disk.fail_sync = lambda _path: True
    with pytest.raises(FailStop):
        journal.sync_now()
    disk.fail_sync = None

    reopened = RaftJournal.open(disk, "journal", SMALL)  # the process stopped and started again, the machine did not
    assert reopened.last_index == 8
    assert reopened.lsn_of(8) <= reopened.durable_lsn, "so it may be acknowledged"
    disk.power_cut()
    disk.restart(keep=0.0, torn=0.0)

    after = RaftJournal.open(disk, "journal", SMALL)
    assert after.last_index == 8
    assert after.entry(8) == (b"in the cache only 8", 8, 1)
