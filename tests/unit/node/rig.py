"""A state machine on a fake disk, driven by operations, and short ways to say things."""

from __future__ import annotations

from chaos.sim.disk import SimDisk
from node.commands import Operation, encode_command
from node.heap import HeapSet
from node.results import Outcome
from node.settings import Limits
from node.state import Job, StateMachine
from wal.undo import UndoConfig, UndoLog

HEAP_OPTIONS = {"address_bytes": 1 << 28, "extent_bytes": 1 << 18}


class Rig:
    """One machine. `apply` finishes jobs at once; replicated time is `now_ms`, wall time a fixed hour ahead."""

    def __init__(self, *, disk=None, folder="/n", limits: Limits | None = None) -> None:
        self.disk = disk if disk is not None else SimDisk()
        self.disk.makedirs(folder)
        self.disk.makedirs(folder + "/undo")
        self.heaps = HeapSet(self.disk, folder, **HEAP_OPTIONS)
        self.undo = UndoLog.open(self.disk, folder + "/undo", UndoConfig(segment_bytes=1 << 20, buffer_bytes=1 << 16))
        self.clock_ms = 0.0
        self.machine = StateMachine(
            heaps=self.heaps, undo=self.undo, submit=lambda task: task(), monotonic_ms=self._tick, limits=limits
        )
        self.index = 0
        self.now_ms = 1000
        self.raws: list[bytes] = []

    def _tick(self) -> float:
        self.clock_ms += 1.0
        return self.clock_ms

    def apply(self, *operations: Operation) -> list[Outcome]:
        return self.apply_raw(encode_command(operations, stamp_ms=self.now_ms, wall_ms=self.now_ms + 3_600_000))

    def apply_raw(self, raw: bytes, steps: list[int] | None = None) -> list[Outcome]:
        self.index += 1
        self.raws.append(raw)
        answer = self.machine.apply(self.index, 1, raw)
        if isinstance(answer, Job):
            outcomes = None
            while outcomes is None:
                outcomes = answer.step(2)
                if steps is not None:
                    steps.append(1)
            answer = outcomes
        self.machine.poll()
        return answer

    def one(self, operation: Operation) -> Outcome:
        (outcome,) = self.apply(operation)
        return outcome

    def bytes_of(self, name: str, **options) -> bytes:
        return self.machine.read(name, 0, None, **options).data

    def root(self, uid: int, identity: int) -> bytes:
        found: list[bytes] = []
        assert self.machine.on_root(uid, identity, found.append)
        self.machine.poll()
        (root,) = found
        return root

    def check_references(self) -> None:
        """Every slot is referred to exactly as often as living leaves say, and no free slot is referred to."""
        import gc

        import numpy as np

        from node.table import Leaf

        gc.collect()
        for heap in self.heaps.heaps.values():
            heap.settle()
            expected = np.zeros(heap.slots, np.int64)
            for leaf in (item for item in gc.get_objects() if type(item) is Leaf and item.heap is heap):
                np.add.at(expected, leaf.slots, 1)
            expected[0] = heap.refs[0]
            assert (expected == heap.refs[: heap.slots]).all()
            free = [*heap.free, *(slot for chunk in heap._free_rest for slot in chunk.tolist())]
            assert len(free) == len(set(free)) == heap.free_slots
            assert not expected[np.array(free, np.int64)].any() if free else True
            assert len(free) == heap.slots - 1 - int((expected[1:] > 0).sum())
