"""A process that does what a node does with its disk: journal, apply, checkpoint in a thread, cut the journal. Killed
from outside at any moment (tests/cluster/test_storage_kill.py). Prints one line an acknowledged entry."""

from __future__ import annotations

import sys
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from random import Random

from node.checkpoint import Checkpointer
from node.commands import CreateSpace, Rollback, TakeSnapshots, Tx, encode_command
from node.heap import HeapSet
from node.recovery import open_storage
from node.state import Job, StateMachine
from wal.disk import RealDisk
from wal.journal import JournalConfig, RaftJournal
from wal.undo import UndoConfig

JOURNAL = JournalConfig(bytes_max=1 << 20, segment_bytes=128 << 10, cache_bytes=256 << 10)
UNDO = UndoConfig(segment_bytes=256 << 10)
HEAP_OPTIONS = {"address_bytes": 1 << 30, "extent_bytes": 1 << 20}


def command(index: int) -> bytes:
    """Entry `index` of the log: a function of its number alone, so that anybody can say what the state must be."""
    rng = Random(index)
    if index <= 4:
        operations = [CreateSpace(f"s{index}", policy={"dirty_pages_min": 4, "lvc_delta": 40, "undo_bytes": 200_000})]
    elif index % 50 == 0:
        operations = [TakeSnapshots([f"s{rng.randint(1, 4)}"])]
    elif index % 70 == 0:
        operations = [Rollback(f"s{rng.randint(1, 4)}", snapshot=str(rng.randint(1, index // 100 + 1)))]
    else:
        operations = [
            Tx(
                f"s{rng.randint(1, 4)}",
                [(rng.randrange(0, 400 * 4096), memoryview(rng.randbytes(rng.randint(1, 3000))))],
            )
            for _ in range(4)
        ]
    return encode_command(operations, stamp_ms=index * 10, wall_ms=index * 10)


class Child:
    """Storage, machine and journal of one folder, as recovered."""

    def __init__(self, folder: str) -> None:
        disk = RealDisk()
        disk.makedirs(f"{folder}/heap")
        self.posted: deque = deque()
        self.fatal: list[BaseException] = []
        self.pool = ThreadPoolExecutor(1)
        self.journal = RaftJournal.open(disk, f"{folder}/journal", JOURNAL)
        self.heaps = HeapSet(disk, f"{folder}/heap", **HEAP_OPTIONS)
        self.storage = open_storage(disk, folder, self.heaps, undo_config=UNDO, ballast_bytes=1 << 20)
        self.machine = StateMachine(
            heaps=self.heaps, undo=self.storage.undo, submit=lambda task: task(), monotonic_ms=lambda: 0.0
        )
        if self.storage.held is not None:
            self.machine.restore(self.storage.held)
        self.checkpointer = Checkpointer(
            machine=self.machine,
            storage=self.storage,
            term_at=self.journal.term_at,
            submit=self.pool.submit,
            post=self.posted.append,
            monotonic_ms=lambda: time.monotonic() * 1000,
            on_durable=lambda base, seconds: self.journal.compact_to(base.index),
            on_fatal=self.fatal.append,
        )
        self.recovered_index = self.machine.applied_index
        for index in range(self.machine.applied_index + 1, self.journal.last_index + 1):
            self.apply(index, self.journal.entry(index)[0])
        self.journal.note_commit(self.journal.last_index)

    def apply(self, index: int, raw: bytes) -> None:
        answer = self.machine.apply(index, 1, raw)
        while isinstance(answer, Job):
            answer = answer.step(1e9) or answer
        self.machine.poll()

    def step(self) -> int:
        """One entry: journalled, durable, applied. Its index."""
        index = self.journal.last_index + 1
        raw = command(index)
        self.journal.append(raw, index, 1)
        self.journal.sync_now()
        self.journal.note_commit(index)
        self.apply(index, raw)
        while self.posted:
            self.posted.popleft()()
        if self.fatal:
            raise self.fatal[0]
        if index % 25 == 0:
            self.checkpointer.start()
        return index


def main(folder: str) -> None:
    child = Child(folder)
    sys.stdout.write(f"recovered {child.recovered_index} {child.journal.last_index}\n")
    while True:
        index = child.step()
        sys.stdout.write(f"{index} {child.storage.base.index if child.storage.base else 0}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(sys.argv[1])
