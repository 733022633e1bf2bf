"""A node's machine on real storage, with a list as its journal: what tests of checkpoint and recovery drive."""

from __future__ import annotations

import gc
from collections.abc import Callable
from random import Random

from node.checkpoint import Checkpointer
from node.commands import (
    CreateSpace,
    DeleteSnapshot,
    DeleteSpace,
    Key,
    OpenSession,
    PinSnapshot,
    Rollback,
    Seat,
    StagePart,
    TakeSnapshots,
    Tick,
    Tx,
    encode_command,
)
from node.heap import HeapSet
from node.recovery import open_storage
from node.settings import Limits
from node.state import Job, StateMachine
from tests.unit.node.rig import HEAP_OPTIONS
from wal.disk import RealDisk
from wal.undo import UndoConfig

LIMITS = Limits(
    undo_bytes_total=60_000, undo_records_max=20, events_max=30, key_ttl_ms=4_000, session_idle_ms=9_000,
    stage_ttl_ms=5_000, chain_max=4,
)  # fmt: skip
UNDO = UndoConfig(segment_bytes=16_384, buffer_bytes=4_096)
POLICY = {"dirty_ratio": 0.5, "dirty_pages_min": 4, "lvc_delta": 15, "ring": 4, "undo_bytes": 30_000}


def no_fault(step: str) -> None:
    """Nothing fails."""


class DurableNode:
    """Opens what is in `folder`, replays `log` after the checkpoint. `tasks` wait until `work` runs them."""

    def __init__(
        self,
        folder: str,
        log: list[bytes],
        *,
        disk=None,
        fault: Callable[[str], None] = no_fault,
        checkpoint_folder=None,
    ) -> None:
        self.log = log
        self.disk = disk or RealDisk()
        self.disk.makedirs(folder)
        self.disk.makedirs(f"{folder}/heap")
        self.heaps = HeapSet(self.disk, f"{folder}/heap", **HEAP_OPTIONS)
        self.storage = open_storage(
            self.disk, folder, self.heaps, undo_config=UNDO, ballast_bytes=0, fault=fault,
            checkpoint_folder=checkpoint_folder,
        )  # fmt: skip
        self.machine = StateMachine(
            heaps=self.heaps,
            undo=self.storage.undo,
            submit=lambda task: task(),
            monotonic_ms=lambda: 0.0,
            limits=LIMITS,
        )
        self.tasks: list[Callable[[], None]] = []
        self.posted: list[Callable[[], None]] = []
        self.durable: list[int] = []
        self.fatal: list[BaseException] = []
        if self.storage.held is not None:
            self.machine.restore(self.storage.held)
        self.checkpointer = Checkpointer(
            machine=self.machine, storage=self.storage, term_at=lambda index: 1, submit=self.tasks.append,
            post=self.posted.append, monotonic_ms=lambda: 0.0,
            on_durable=lambda base, seconds: self.durable.append(base.index), on_fatal=self.fatal.append, fault=fault,
        )  # fmt: skip
        self.replayed = len(log) - self.machine.applied_index
        for index in range(self.machine.applied_index, len(log)):
            self._apply(index + 1, log[index])

    def apply(self, *operations, now_ms: int):
        raw = encode_command(operations, stamp_ms=now_ms, wall_ms=now_ms + 1_000_000)
        self.log.append(raw)
        return self._apply(len(self.log), raw)

    def _apply(self, index: int, raw: bytes):
        answer = self.machine.apply(index, 1, raw)
        while isinstance(answer, Job):
            answer = answer.step(1e9) or answer
        self.machine.poll()
        return answer

    def work(self) -> None:
        """The thread does what waits, and the loop hears of it."""
        while self.tasks or self.posted:
            (self.tasks or self.posted).pop(0)()
        if self.fatal:
            raise self.fatal[0]

    def checkpoint(self) -> bool:
        started = self.checkpointer.start()
        self.work()
        return started

    def close(self) -> None:
        """As a killed process leaves it: nothing more is written, nothing synced."""
        self.storage.store.close()
        self.storage.undo.close()
        self.storage.held = None
        gc.collect()


class Story:
    """A seeded row of operations of all kinds."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.now_ms = 1_000
        self.keys = 0
        self.seqs: dict[int, int] = {}

    def step(self, node: DurableNode) -> None:
        rng = self.rng
        self.now_ms += rng.choice([0, 1, 50, 700])
        operations = [self.operation(node) for _ in range(rng.choice([1, 1, 1, 3]))]
        node.apply(*operations, now_ms=self.now_ms)

    def operation(self, node: DurableNode):
        rng = self.rng
        name = rng.choice("abcd")
        chance = rng.random()
        if node.machine.registry.by_name.get(name) is None or chance < 0.03:
            return CreateSpace(name, page_size=rng.choice([4096, 8192]), policy=dict(POLICY), ident=self.ident(node))
        if chance < 0.6:
            return Tx(name, self.writes(), ident=self.ident(node), size=rng.choice([None] * 9 + [5_000, 200_000]))
        if chance < 0.72:
            label = rng.choice([None, "x", "y"])
            return TakeSnapshots(
                [name], label=label, ttl_ms=rng.choice([None, 3_000]), kind=rng.choice(["auto", "full"])
            )
        if chance < 0.76:
            return PinSnapshot(name, str(rng.randint(1, 9)), pin=rng.random() < 0.6)
        if chance < 0.80:
            return DeleteSnapshot(name, str(rng.randint(1, 12)))
        if chance < 0.86:
            return Rollback(name, snapshot=str(rng.randint(1, 12)))
        if chance < 0.91:
            return Rollback(name, to_lvc=max(0, node.machine.registry.by_name[name].lvc - rng.randint(0, 6)))
        if chance < 0.93:
            return DeleteSpace(name)
        if chance < 0.95:
            return OpenSession()
        if chance < 0.98:
            return StagePart(rng.choice("st"), rng.randint(0, 2), self.writes())
        return Tick()

    def writes(self) -> list[tuple[int, memoryview]]:
        rng = self.rng
        return [
            (rng.choice([0, 100, 5_000, 70_000, 255 * 4096, 300 * 4096]) + rng.randint(0, 50),
             memoryview(rng.randbytes(rng.choice([1, 40, 900, 9_000]))))
            for _ in range(rng.choice([1, 1, 2]))
        ]  # fmt: skip

    def ident(self, node: DurableNode):
        rng = self.rng
        sessions = sorted(node.machine.registry.idempotency.sessions)
        if rng.random() < 0.2:
            self.keys += rng.choice([0, 1])
            return Key(f"k{self.keys}", b"f" * 16)
        if sessions and rng.random() < 0.3:
            number = rng.choice(sessions)
            seq = self.seqs[number] = self.seqs.get(number, 0) + rng.choice([0, 1])
            return Seat(number, max(1, seq), max(1, seq - rng.randint(0, 3)))
        return None


def everything(node: DurableNode) -> dict[str, object]:
    """All replicated state as plain values, without what is local (slots, blobs, positions, roots)."""
    machine = node.machine
    registry = machine.registry
    spaces = {}
    for name, space in sorted(registry.by_name.items()):
        snapshots = {}
        for identity, snapshot in space.snapshots.items():
            body = machine.read(name, 0, None, snapshot=str(identity)).data
            snapshots[identity] = (snapshot.info(), snapshot.after, snapshot.due_ms, body, rows(snapshot.leaves))
        spaces[name] = (
            space.info(), space.context(), space.interval_due_ms, space.snapshot_seq, space.snapshot_lvc, space.log_seq,
            machine.read(name, 0, None).data, rows(space.table.leaves), snapshots, space.labels,
            list(space.ring_requested), list(space.ring_automatic),
            list(space.window.counted[space.window.head :]), list(space.window.keys[space.window.head :]),
            {lvc: rows(held.leaves) for lvc, held in space.window.held.items()}, machine.wal(name, limit=1000),
        )  # fmt: skip
    book = registry.idempotency
    return {
        "meta": (registry.applied_index, registry.now_ms, registry.counter, registry.cluster_id, registry.limits),
        "spaces": spaces,
        "keys": [(key, row.fingerprint, row.result, row.due_ms) for key, row in book.keys.items()],
        "sessions": {number: (s.ack, s.used_ms, s.results) for number, s in sorted(book.sessions.items())},
        "stages": {name: (stage.due_ms, stage.parts) for name, stage in sorted(registry.stages.stages.items())},
        "events": (registry.events.seq, registry.events.dropped, machine.events(0, limit=10_000)),
        "undo": registry.book.bytes,
    }


def rows(leaves) -> dict[int, tuple[object, ...]]:
    """Versions, marks and presence of each leaf that says anything."""
    found = {}
    for number, leaf in sorted(leaves.items()):
        row = (leaf.versions.tolist(), leaf.marks.tolist(), (leaf.slots != 0).tolist())
        if any(row[0]) or any(row[1]) or any(row[2]):
            found[number] = row
    return found
