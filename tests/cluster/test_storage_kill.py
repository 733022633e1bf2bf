"""A real process is killed again and again while it journals, applies and checkpoints; nothing acknowledged is lost."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from chaos.sim.disk import SimDisk
from node.heap import HeapSet
from node.state import Job, StateMachine
from node.verify import verify
from tests.cluster.storage_child import HEAP_OPTIONS, UNDO, Child, command
from wal.disk import RealDisk
from wal.undo import UndoLog

ROOT = Path(__file__).parents[2]
LIVES = 8


class Naive:
    """The machine that never stopped: every entry from the first one, no journal, no checkpoint."""

    def __init__(self) -> None:
        disk = SimDisk()
        disk.makedirs("/n")
        heaps = HeapSet(disk, "/n", **HEAP_OPTIONS)
        undo = UndoLog.open(disk, "/n/undo", UNDO)
        self.machine = StateMachine(heaps=heaps, undo=undo, submit=lambda task: task(), monotonic_ms=lambda: 0.0)

    def go_to(self, index: int) -> None:
        for number in range(self.machine.applied_index + 1, index + 1):
            answer = self.machine.apply(number, 1, command(number))
            while isinstance(answer, Job):
                answer = answer.step(1e9) or answer
            self.machine.poll()


def seen(machine: StateMachine) -> dict[str, object]:
    """What a client can see of every space: bytes, versions, snapshots with their bytes, before-images."""
    found = {}
    for info in machine.list_spaces():
        snapshots = machine.snapshots(info.name, limit=1000)
        bodies = {row.id: machine.read(info.name, 0, None, snapshot=str(row.id)).data for row in snapshots}
        # A page's digest is known on the node that happened to compute it, so it is left out.
        pages = [(row.page, row.version, row.dirty) for row in machine.pages(info.name, limit=10_000)]
        records = machine.wal(info.name, limit=10_000)
        found[info.name] = (info, machine.read(info.name, 0, None).data, pages, snapshots, bodies, records)
    return found


@pytest.mark.cluster
def test_killed_at_any_moment(tmp_path):
    folder, rng, naive = str(tmp_path / "n"), Random(1), Naive()
    acknowledged = newest_base = replayed_less = 0
    for _ in range(LIVES):
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.storage_child", folder],
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
            stdout=subprocess.PIPE,
        )
        lines = process.stdout
        assert lines is not None
        word, recovered, last = lines.readline().split()
        assert word == b"recovered" and int(last) >= acknowledged and int(recovered) >= newest_base
        replayed_less += int(recovered) > 0
        for _ in range(rng.randint(1, 120)):
            acknowledged, newest_base = map(int, lines.readline().split())
        process.kill()
        for line in lines.read().split(b"\n"):
            if line.count(b" ") == 1:
                acknowledged, newest_base = map(int, line.split())
        process.wait()
        lines.close()
        report = verify(RealDisk(), folder)
        assert report.damages == []
    child = Child(folder)
    assert child.machine.applied_index >= acknowledged
    naive.go_to(child.machine.applied_index)
    assert seen(child.machine) == seen(naive.machine)
    assert replayed_less >= LIVES - 4 and child.journal.first_index > 1
