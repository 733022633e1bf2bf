"""StateMachine: one node's replicated state behind the surface that the host, the API and the checkpoint use."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator

from node.apply import Applier
from node.commands import Command, Operation, Rollback, Tx, decode_command
from node.events import Event
from node.faults import LocalCorruption
from node.freeze import Freezer, restore_registry
from node.hashing import Hasher, RootReady, Task
from node.heap import HeapSet, RottenSlot
from node.image import FrozenState
from node.reads import Reader
from node.registry import Registry
from node.reserve import Reserve, slots_needed
from node.results import Outcome, Refused, SnapshotInfo, SpaceInfo
from node.settings import Limits
from node.space import Snapshot, Space
from node.views import DiffResult, DryRun, PageRow, ReadResult, WalRow
from node.window import RecordLog
from wal.checks import invariant

RELEASED_LEAVES_MAX = 1_024  # dead leaves that wait before their slots are freed in one batch

SPARE_BYTES = 256 << 20


class Job:
    """An entry that is applied in slices. Until it is done nothing after it is applied, and nothing is read."""

    def __init__(self, slices: Iterator[None], outcomes: list[Outcome], monotonic_ms: Callable[[], float]) -> None:
        self._slices = slices
        self._outcomes = outcomes
        self._monotonic_ms = monotonic_ms

    def step(self, budget_ms: float) -> list[Outcome] | None:
        """Goes on for about that long. The outcomes when all is done, else None."""
        stop_ms = self._monotonic_ms() + budget_ms
        for _ in self._slices:
            if self._monotonic_ms() >= stop_ms:
                return None
        return self._outcomes


class StateMachine:
    """Apply, read, freeze. One thread; hashing goes to `submit`, and `post` brings its callbacks back.

    `apply` raises BadCommand (an entry of an unknown version), HeapFull (no room, before any effect), LocalCorruption
    (this node's bytes are damaged) and InvariantViolation (a bug): the host halts on each.
    """

    def __init__(
        self,
        *,
        heaps: HeapSet,
        undo: RecordLog,
        submit: Callable[[Task], object],
        post: Callable[[Task], object] | None = None,
        monotonic_ms: Callable[[], float],
        limits: Limits | None = None,
        spare_bytes: int = SPARE_BYTES,
    ) -> None:
        """`spare_bytes` of the disk are left to journal, checkpoint and undo log when room is judged."""
        self._spare_bytes = spare_bytes
        self._listener: Callable[[Event], None] | None = None
        self.rotten_pages = 0  # found by full snapshots; reads of them are refused
        self.on_rotten: Callable[[str, int, int], object] | None = None  # space, snapshot id, page
        self._posted: deque[Task] = deque()
        self.hasher = Hasher(submit, post or self._posted.append, self._root_known, self._found_rotten)
        self._take_over(Registry(heaps, undo, limits or Limits()))
        self._monotonic_ms = monotonic_ms
        self._job: Job | None = None

    # ------------------------------------------------------------ applying

    @property
    def applied_index(self) -> int:
        """Last index whose effects are complete."""
        return self.registry.applied_index

    @property
    def now_ms(self) -> int:
        """Replicated time: the last stamp."""
        return self.registry.now_ms

    def next_due_ms(self) -> int | None:
        """Replicated time at which the leader should propose a tick; None when nothing is. Idle sessions wait."""
        timers = self.registry.timers
        return timers[0][0] if timers else None

    def apply(self, index: int, term: int, raw: bytes | memoryview) -> list[Outcome] | Job:
        """Outcomes in the order of the operations, or a Job that yields them when it was stepped to its end."""
        registry = self.registry
        invariant(self._job is None, "a job is finished before the next entry", index=index)
        invariant(index > registry.applied_index, "entries apply in order", index=index, applied=registry.applied_index)
        command = decode_command(raw)
        operations = command.operations
        if len(registry.heaps.heaps) or registry.by_name:
            self._make_room(operations, len(raw))
        if any(type(op) is Rollback or (type(op) is Tx and op.stage is not None) for op in operations):
            outcomes: list[Outcome] = []
            self._job = Job(self._slices(index, term, command, outcomes), outcomes, self._monotonic_ms)
            return self._job
        try:
            self.applier.begin(index, command)
            done = self.applier.apply_at_once(operations)
        except RottenSlot as error:
            raise LocalCorruption(str(error)) from error
        self._end(index, term)
        return done

    def _slices(self, index: int, term: int, command: Command, outcomes: list[Outcome]) -> Iterator[None]:
        try:
            self.applier.begin(index, command)
            yield from self.applier.apply_in_slices(command.operations, outcomes)
        except RottenSlot as error:
            raise LocalCorruption(str(error)) from error
        self._end(index, term)
        self._job = None

    def _end(self, index: int, term: int) -> None:
        registry = self.registry
        registry.book.flush()
        registry.applied_index = index
        registry.applied_term = term
        for heap in registry.heaps.heaps.values():
            if len(heap.released) > RELEASED_LEAVES_MAX:
                heap.settle()

    def _make_room(self, operations: list[Operation], raw_bytes: int) -> None:
        """Slots for all that the entry may write, before any of it is applied. Raises HeapFull."""
        quick = raw_bytes // 16
        for heap in self.registry.heaps.heaps.values():
            if heap.free_slots < quick:
                break
        else:
            return
        for page_size, slots in slots_needed(self.registry, operations).items():
            self.registry.heaps.get(page_size).ensure(slots)

    def can_accept(self, raw: bytes | memoryview) -> bool:
        """Whether there is room to apply that command; the host asks before it journals it. Raises BadCommand."""
        return self._reserve.can_accept(raw)

    def poll(self) -> None:
        """Runs what threads posted, where no `post` was given."""
        while self._posted:
            self._posted.popleft()()

    # ------------------------------------------------------------ freezing

    @property
    def busy(self) -> bool:
        """True in the middle of an entry that is applied in slices: no freeze is possible."""
        return self._job is not None

    def freeze(self, *, whole: bool = False) -> FrozenState:
        """The present state by reference, between two entries; see node/image.py for what `whole` leaves in."""
        invariant(self._job is None, "no freeze in the middle of an entry", applied=self.registry.applied_index)
        return self._freezer.freeze(whole=whole)

    def restore(self, state: FrozenState) -> None:
        """Takes over a whole state, whose undo records and slots are in this node's undo log and heaps.

        The heaps are `rebuild`t by the caller, after it made all leaves. Events go on to the same listener.
        """
        invariant(state.whole, "only a whole state can be restored", index=state.meta.applied_index)
        listener = self.registry.events.listener
        old = self.registry
        registry = Registry(old.heaps, old.book.log, state.meta.limits)
        restore_registry(registry, state)
        registry.events.listener = listener
        self._job = None
        self._take_over(registry)
        self._freezer.restored()

    def _take_over(self, registry: Registry) -> None:
        self.registry = registry
        registry.events.listener = self._listener
        self.applier = Applier(registry, self.hasher.add)
        self.reader = Reader(registry)
        heaps = registry.heaps
        self._reserve = Reserve(registry, heaps.disk, heaps.folder, spare_bytes=self._spare_bytes)
        self._freezer = Freezer(registry)

    # ------------------------------------------------------------ roots

    def _find(self, uid: int, identity: int) -> tuple[Space, Snapshot] | None:
        space = self.registry.by_uid.get(uid)
        snapshot = space.snapshots.get(identity) if space is not None else None
        return (space, snapshot) if space is not None and snapshot is not None else None

    def _found_rotten(self, snapshot: Snapshot, page: int) -> None:
        self.rotten_pages += 1
        if self.on_rotten is not None:
            self.on_rotten(snapshot.facts.space, snapshot.id, page)

    def _root_known(self, uid: int) -> None:
        self.registry.changed.add(uid)

    def root_of(self, uid: int, identity: int) -> bytes | None:
        """The snapshot's root, None while it is not known (or the snapshot has gone)."""
        found = self._find(uid, identity)
        return found[1].root if found is not None else None

    def on_root(self, uid: int, identity: int, ready: RootReady) -> bool:
        """Calls `ready` once with the root, maybe at once. False if there is no such snapshot."""
        found = self._find(uid, identity)
        if found is None:
            return False
        self.hasher.when_known(found[0], found[1], ready)
        return True

    # ------------------------------------------------------------ reading

    def space(self, name: str) -> SpaceInfo | Refused:
        return self.reader.space(name)

    def list_spaces(self, *, after: str | None = None, prefix: str | None = None, limit: int = 100) -> list[SpaceInfo]:
        return self.reader.list_spaces(after=after, prefix=prefix, limit=limit)

    def snapshots(self, name: str, *, before: int | None = None, limit: int = 100) -> list[SnapshotInfo] | Refused:
        return self.reader.snapshots(name, before=before, limit=limit)

    def snapshot(self, name: str, ref: str) -> SnapshotInfo | Refused:
        return self.reader.snapshot(name, ref)

    def read(
        self, name: str, offset: int, length: int | None, *, snapshot: str | None = None, at_lvc: int | None = None
    ) -> ReadResult | Refused:
        return self.reader.read(name, offset, length, snapshot=snapshot, at_lvc=at_lvc)

    def pages(self, name: str, *, start: int = 0, limit: int = 100) -> list[PageRow] | Refused:
        return self.reader.pages(name, start=start, limit=limit)

    def diff(self, name: str, a: str, b: str) -> DiffResult | Refused:
        return self.reader.diff(name, a, b)

    def dry_run(self, rollback: Rollback) -> DryRun | Refused:
        return self.reader.dry_run(rollback)

    def wal(self, name: str, *, from_seq: int = 0, limit: int = 100) -> list[WalRow] | Refused:
        return self.reader.wal(name, from_seq=from_seq, limit=limit)

    def events(
        self, after: int, *, types: frozenset[str] | None = None, space: str | None = None, limit: int = 100
    ) -> list[Event] | Refused:
        """Events with a seq above `after`; 0 = from the oldest kept."""
        return self.registry.events.after(after, types=types, space=space, limit=limit)

    @property
    def event_seq(self) -> int:
        """Number of the newest event."""
        return self.registry.events.seq

    def on_event(self, listener: Callable[[Event], None] | None) -> None:
        """Called for every event while it is applied, after an install too; must not raise or block."""
        self._listener = listener
        self.registry.events.listener = listener
