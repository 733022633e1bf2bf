"""Checkpoints: the durable image of the state machine at one index, taken while writes go on.

The order is what recovery relies on: freeze (references only, on the loop) → in a thread: hash, sync heaps and undo
log, one LMDB transaction → back on the loop: the checkpoint before is let go, so its slots may be reused, dead segments
of the undo log go, and the host hears that the journal may be cut. Whatever instant the power goes at, the newest
committed checkpoint refers only to slots that nobody has written since, and to undo records that are still there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

import msgspec

from node.checkpoint_digest import ContentDigest
from node.checkpoint_ledger import Base, Ledger, Plan
from node.checkpoint_rows import U64_PAIR, WINDOW, WindowRow, decode, unseal
from node.checkpoint_store import Ballast, CheckpointStore, NoRoom
from node.hashing import hash_leaf
from node.image import FrozenState, SpaceImage
from node.state import StateMachine
from wal.checks import FailStop, invariant
from wal.undo import OFFSET_BITS, UndoLog, UndoMark

Task = Callable[[], None]

THIN_RATIO: Final = 0.25  # a segment of the undo log with less of it alive is worth copying
COPY_BYTES_MAX: Final = 1 << 20  # copied forward for one checkpoint, on the loop


class TermAt(Protocol):
    """The journal's terms."""

    def __call__(self, index: int) -> int | None: ...


def _no_fault(step: str) -> None:
    """Nothing fails."""


@dataclass
class Storage:
    """The durable parts under one state machine, as `node.recovery.open_storage` makes them.

    `held` is the frozen state of the newest durable checkpoint: as long as it lives, its slots are not reused.
    """

    store: CheckpointStore
    undo: UndoLog
    ballast: Ballast
    ledger: Ledger
    base: Base | None
    held: FrozenState | None


class Run:
    """One checkpoint, or one install, on its way."""

    def __init__(self, frozen: FrozenState, base: Base, mark: UndoMark, dead: list[int], started_ms: float) -> None:
        self.frozen = frozen
        self.base = base
        self.mark = mark
        self.dead = dead
        self.started_ms = started_ms
        self.ledger: Ledger | None = None  # set when another ledger takes over


class Checkpointer:
    """Takes checkpoints of one machine. All calls on the loop thread; `submit` runs the slow part on a worker thread.

    `on_durable(base, seconds)` is called on the loop after each: the journal may be cut at `base.index`.
    `on_fatal` gets what must end the process. `fault` is called with the name of each step, for tests.
    """

    def __init__(
        self,
        *,
        machine: StateMachine,
        storage: Storage,
        term_at: TermAt,
        submit: Callable[[Task], object],
        post: Callable[[Task], object],
        monotonic_ms: Callable[[], float],
        on_durable: Callable[[Base, float], None],
        on_fatal: Callable[[BaseException], None],
        describe: Callable[[FrozenState, Base], bytes] | None = None,
        fault: Callable[[str], None] = _no_fault,
    ) -> None:
        """`describe` gives the digest that the base carries in place of the content's own."""
        self.machine = machine
        self.storage = storage
        self.running = False
        self.failures = 0  # checkpoints that found no room, since the start
        self._term_at = term_at
        self._submit = submit
        self._post = post
        self._monotonic_ms = monotonic_ms
        self._on_durable = on_durable
        self._on_fatal = on_fatal
        self._describe = describe
        self._fault = fault
        self._content = ContentDigest()
        self._whole_next = False

    @property
    def base(self) -> Base | None:
        """The newest durable checkpoint."""
        return self.storage.base

    # ------------------------------------------------------------ taking one

    def start(self) -> bool:
        """Begins a checkpoint of the present state. False if one is running or nothing was applied since the last.

        Not in the middle of a Job. The answer comes through `on_durable`, or `failures` counts up.
        """
        index = self.machine.applied_index
        base = self.storage.base
        if self.running or index == 0 or (base is not None and base.index >= index):
            return False
        prev_term = self._term_at(index - 1) if index > 1 else 0
        invariant(prev_term is not None, "the journal keeps the entry before the last applied one", index=index)
        started_ms = self._monotonic_ms()
        self._copy_forward()
        frozen = self.machine.freeze()
        if self._whole_next:
            frozen = self.machine.freeze(whole=True)  # what the last one missed is in no difference any more
        undo = self.storage.undo
        base = Base(index, frozen.meta.applied_term, index - 1, prev_term or 0, b"")
        run = Run(frozen, base, undo.mark(), undo.dead_segments(), started_ms)
        self.running = True
        self._submit(lambda: self._work(run))
        return True

    def _work(self, run: Run) -> None:
        """Worker thread. Posts exactly one outcome."""
        try:
            self._make_durable(run)
        except NoRoom:
            self._post(self._found_no_room)
        except BaseException as error:
            fatal = error
            self._post(lambda: self._on_fatal(fatal))
        else:
            self._post(lambda: self._finish(run))

    def _make_durable(self, run: Run, *, replace: bool = False) -> None:
        self._fault("frozen")
        storage = self.storage
        _hash(run.frozen)
        if not run.base.digest:
            digest = self._describe(run.frozen, run.base) if self._describe else self._content.of(run.frozen)
            run.base = msgspec.structs.replace(run.base, digest=digest)
        self._fault("hashed")
        try:
            self.machine.registry.heaps.sync()
        except OSError as error:
            raise FailStop("the heaps cannot be made durable", error=str(error)) from error
        self._fault("heaps synced")
        storage.undo.sync(run.mark)
        self._fault("undo synced")
        ledger = Ledger(storage.ledger.next_leaf_id) if replace else storage.ledger
        plan = Plan(ledger, run.frozen, self._columns_of, replace=replace)
        self._commit(plan, run)
        plan.settle()
        run.ledger = ledger

    def _commit(self, plan: Plan, run: Run) -> None:
        store, ballast = self.storage.store, self.storage.ballast
        try:
            store.write(lambda: plan.tables(run.base, run.mark.tail))
        except NoRoom:
            if not ballast.held_bytes:
                raise
            ballast.release()  # this is what it is for: a checkpoint frees more than it takes
            store.write(lambda: plan.tables(run.base, run.mark.tail))
        ballast.hold()

    def _columns_of(self, uid: int, start: int) -> tuple[bytes, ...]:
        store, key = self.storage.store, U64_PAIR.pack(uid, start)
        row = store.get(WINDOW, key)
        invariant(row is not None, "the ledger knows what is stored", uid=uid, start=start)
        columns: tuple[bytes, ...] = decode(unseal(store.path, WINDOW, key, row or b""), WindowRow, store.path).columns
        return columns

    def _finish(self, run: Run) -> None:
        """Loop thread, after the commit: only now may anything of the checkpoint before go."""
        storage = self.storage
        storage.base, storage.held = run.base, run.frozen
        storage.ledger = run.ledger or storage.ledger
        self._whole_next = False
        self.running = False
        storage.undo.drop(run.dead)
        self._fault("released")
        self._on_durable(run.base, (self._monotonic_ms() - run.started_ms) / 1000)

    def _found_no_room(self) -> None:
        """The checkpoint before stands. The differences that the freeze took are lost to the next, so it is whole."""
        self._whole_next = True
        self.running = False
        self.failures += 1

    # ------------------------------------------------------------ installs

    def begin_install(self, frozen: FrozenState, *, prev_index: int, prev_term: int, digest: bytes) -> Run:
        """Loop thread. A whole state from elsewhere, whose slots and undo records are in this node's files.

        Pass the answer to `commit_install` on a worker thread, and then to `finish_install` on the loop.
        """
        invariant(not self.running, "one checkpoint at a time")
        invariant(frozen.whole, "an install brings a whole state", index=frozen.meta.applied_index)
        self.running = True
        base = Base(frozen.meta.applied_index, frozen.meta.applied_term, prev_index, prev_term, digest)
        return Run(frozen, base, self.storage.undo.mark(), [], self._monotonic_ms())

    def commit_install(self, run: Run) -> None:
        """Worker thread: the installed state becomes the newest checkpoint, or nothing happened (NoRoom).

        A crash before this returns comes up with the old state, one after it with the new.
        """
        self._make_durable(run, replace=True)

    def finish_install(self, run: Run) -> None:
        """Loop thread: the machine takes the state over, and the old one is let go."""
        self.machine.restore(run.frozen)
        self.storage.undo.recount(piece for pieces in run.frozen.blobs.values() for piece in pieces)
        run.dead = self.storage.undo.dead_segments()
        self._finish(run)

    def give_up_install(self) -> None:
        """Loop thread, after NoRoom: the state before goes on."""
        self.running = False

    # ------------------------------------------------------------ undo log

    def _copy_forward(self) -> None:
        """Moves living records out of thin segments, so that those can go after this checkpoint."""
        undo, book = self.storage.undo, self.machine.registry.book
        thin = set(undo.thin_segments(THIN_RATIO))
        if not thin:
            return
        left = COPY_BYTES_MAX
        moving = []
        for number, blob in book.blobs.items():  # in the order of positions
            first = blob.pieces[0][0] >> OFFSET_BITS
            if first > max(thin) or left < 0:
                break
            if first in thin:
                moving.append(number)
                left -= sum(size for _, size in blob.pieces)
        for number in moving:
            book.move_blob(number)


def _hash(frozen: FrozenState) -> None:
    """Digests of all leaves that changed since the checkpoint before."""
    for uid in frozen.spaces.keys() if frozen.whole else frozen.changed_spaces:
        image = frozen.spaces.get(uid)
        if image is not None:
            _hash_space(image)


def _hash_space(image: SpaceImage) -> None:
    tables = [image.leaves, *(snapshot.leaves for snapshot in image.snapshots), *image.window.held.values()]
    for leaves in tables:
        for leaf in leaves.values():
            if leaf.digest is None:
                hash_leaf(leaf.heap, leaf)
