"""The power goes after every single effect on the disk; whatever was acknowledged as durable must be there."""

from __future__ import annotations

from random import Random

import pytest

from chaos.sim.disk import PowerCut, SimDisk
from tests.unit.wal.twin import SMALL, Twin, differences, random_step
from wal.checks import Corrupt
from wal.journal import RaftJournal


class Story:
    """Random steps on a journal, with the twin's state after each; `durable` is the number of the last synced state."""

    def __init__(self, seed: int, disk: SimDisk, states: list[Twin]) -> None:
        self.rng = Random(seed)
        self.disk = disk
        self.states = states
        self.durable = len(states) - 1
        self.opened = False

    def run(self, steps: int) -> None:
        journal = RaftJournal.open(self.disk, "/j", SMALL)
        self.opened = True
        for _ in range(steps):
            self.step(journal)
            if self.rng.random() < 0.4:
                journal.sync_now()
                self.durable = len(self.states) - 1
        journal.close()
        self.durable = len(self.states) - 1

    def step(self, journal: RaftJournal) -> None:
        twin = self.states[-1].copy()
        journal.note_commit(min(twin.committed, journal.last_index))
        random_step(self.rng, twin, journal, 1500)
        self.states.append(twin)


def recover(disk: SimDisk, story: Story) -> Twin:
    """Opens after a cut; the state must be one of those since the last that was known durable."""
    journal = RaftJournal.open(disk, "/j", SMALL)
    candidates = story.states[story.durable :]
    found = [differences(state, journal) for state in candidates]
    assert None in found, found
    state = candidates[found.index(None)].copy()
    journal.sync_now()
    return state


@pytest.mark.parametrize("seed", range(6))
def test_cut_after_every_effect(seed):
    total = SimDisk(seed)
    Story(seed, total, [Twin()]).run(45)
    assert total.effects > 60
    for cut_at in range(total.effects):
        disk = SimDisk(seed * 1000 + cut_at)
        story = Story(seed, disk, [Twin()])
        disk.cut_after = cut_at
        with pytest.raises(PowerCut):
            story.run(45)
        disk.restart()
        recover(disk, story)


@pytest.mark.parametrize("seed", range(40))
def test_cuts_again_and_again(seed):
    """Ten lives of one disk, each cut somewhere, also during recovery itself."""
    disk = SimDisk(seed)
    rng = Random(seed)
    states = [Twin()]
    for _ in range(10):
        story = Story(rng.randint(0, 1 << 30), disk, states)
        story.durable = 0
        disk.cut_after = disk.effects + rng.randint(0, 60)
        try:
            story.run(30)
        except PowerCut:
            pass
        if not story.opened:
            story.durable = 0
        disk.power_cut()
        disk.restart(keep=rng.choice([0.0, 0.5, 0.9]), torn=rng.random())
        while True:
            disk.cut_after = disk.effects + rng.randint(0, 12) if rng.random() < 0.5 else None
            try:
                states = [recover(disk, story)]
                break
            except PowerCut:
                disk.restart()
        disk.cut_after = None
        states[0].committed = max(states[0].base, 0)


def test_a_journal_that_does_not_sync_is_found_out():
    """The canary: with fdatasync doing nothing, the same test must fail."""
    lost = 0
    for seed in range(5):
        disk = SimDisk(seed)
        story = Story(seed, disk, [Twin()])
        journal = RaftJournal.open(disk, "/j", SMALL)
        journal._group._write_out = lambda writes: [  # type: ignore[method-assign]
            write.segment.file.pwrite(b"".join(write.parts), write.offset) for write in writes if write.segment.file
        ]
        for _ in range(10):
            story.step(journal)
            journal.sync_now()
            story.durable = len(story.states) - 1
        disk.power_cut()
        disk.restart(keep=0.3)
        try:
            recover(disk, story)
        except (AssertionError, Corrupt):
            lost += 1
    assert lost >= 4
