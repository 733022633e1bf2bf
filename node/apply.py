"""Applying commands: a function of (state, command). Bad commands get a refusal, nothing is raised."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from typing import Any

from node.catalogue import Catalogue, unknown_snapshot, unknown_space
from node.commands import (
    Command,
    CreateSpace,
    DeleteSnapshot,
    DeleteSpace,
    InitCluster,
    OpenSession,
    Operation,
    PinSnapshot,
    Rollback,
    StagePart,
    TakeSnapshots,
    Tick,
    Tx,
)
from node.registry import SNAPSHOT_INTERVAL, SNAPSHOT_TTL, STAGE_TTL, Registry
from node.results import Done, Outcome, Refused, Result, SessionDone, TxDone
from node.rollback import Turner, outside_window
from node.settings import limits_from
from node.snapshots import Moment, due_reason
from node.space import Snapshot, Space
from node.transact import apply_slices, check_tx, commit_small, commit_tx, is_small, stale_epoch

REASON_CHARS_MAX = 1_024


class Applier:
    """Handlers of all operations over one registry. `on_snapshot` hears of every snapshot taken (for hashing)."""

    def __init__(self, registry: Registry, on_snapshot: Callable[[Space, Snapshot], None]) -> None:
        self.registry = registry
        self.turner = Turner(registry.book, registry.events, registry.limits)
        self.catalogue = Catalogue(registry, on_snapshot)
        self.moment = Moment(0, 0, 0)
        self._handlers: dict[type, Callable[[Any, int], Result]] = {
            StagePart: self._stage_part,
            CreateSpace: self.catalogue.create_space,
            DeleteSpace: self.catalogue.delete_space,
            TakeSnapshots: self.catalogue.take_snapshots,
            DeleteSnapshot: self.catalogue.delete_snapshot,
            PinSnapshot: self.catalogue.pin_snapshot,
            OpenSession: self._open_session,
            Tick: self._tick,
            InitCluster: self._init_cluster,
        }

    # ------------------------------------------------------------ an entry

    def begin(self, index: int, command: Command) -> None:
        """Replicated time goes on, and what is due by now happens."""
        registry = self.registry
        registry.now_ms = max(registry.now_ms, command.stamp_ms)
        self.moment = self.catalogue.moment = Moment(index, registry.now_ms, command.wall_ms)
        if registry.timers and registry.timers[0][0] <= registry.now_ms:
            self._fire_timers()
        while registry.idle_timers and registry.idle_timers[0][0] <= registry.now_ms:
            _, number = heapq.heappop(registry.idle_timers)
            again = registry.idempotency.expire_session(number, registry.now_ms)
            if again is not None:
                heapq.heappush(registry.idle_timers, (again, number))
        if registry.idempotency.keys:
            registry.idempotency.expire_keys(registry.now_ms)

    def apply_at_once(self, operations: list[Operation]) -> list[Outcome]:
        """Applies operations none of which takes slices."""
        handlers = self._handlers
        outcomes: list[Outcome] = []
        for position, operation in enumerate(operations):
            if type(operation) is Tx:
                outcomes.append(self._tx(operation, position))
            else:
                outcomes.append(self._decide(operation, position, handlers[type(operation)]))
        return outcomes

    def apply_in_slices(self, operations: list[Operation], outcomes: list[Outcome]) -> Iterator[None]:
        """Applies operations and yields between slices; outcomes go to the list."""
        for position, operation in enumerate(operations):
            if type(operation) is Rollback or (type(operation) is Tx and operation.stage is not None):
                yield from self._decide_in_slices(operation, position, outcomes)
            else:
                outcomes.extend(self._one(operation, position))
                yield

    def _one(self, operation: Operation, position: int) -> list[Outcome]:
        if type(operation) is Tx:
            return [self._tx(operation, position)]
        return [self._decide(operation, position, self._handlers[type(operation)])]

    def _decide(self, operation: Any, position: int, handler: Callable[[Any, int], Result]) -> Outcome:
        ident = getattr(operation, "ident", None)
        if ident is None:
            return handler(operation, position)
        idempotency = self.registry.idempotency
        decided = idempotency.decided(ident, self.registry.now_ms)
        if decided is not None:
            return decided
        result = handler(operation, position)
        idempotency.store(ident, result, self.registry.now_ms)
        return result

    def _decide_in_slices(self, operation: Tx | Rollback, position: int, outcomes: list[Outcome]) -> Iterator[None]:
        registry = self.registry
        ident = operation.ident
        if ident is not None:
            decided = registry.idempotency.decided(ident, registry.now_ms)
            if decided is not None:
                if type(operation) is Tx and operation.stage is not None:
                    registry.stages.drop(operation.stage)
                outcomes.append(decided)
                return
        slices = self._staged_tx(operation, position) if type(operation) is Tx else self._rollback(operation, position)  # type: ignore[arg-type]
        result: Result | None = None
        for result in slices:
            if result is None:
                yield
        if result is None:
            raise RuntimeError("slices end with a result")
        if ident is not None:
            registry.idempotency.store(ident, result, registry.now_ms)
        outcomes.append(result)

    # ------------------------------------------------------------ transactions

    def _tx(self, tx: Tx, position: int) -> Outcome:
        registry = self.registry
        ident = tx.ident
        if ident is not None:
            decided = registry.idempotency.decided(ident, registry.now_ms)
            if decided is not None:
                return decided
        space = registry.by_name.get(tx.space)
        result = self._commit(space, tx, position) if space is not None else unknown_space(tx.space)
        if ident is not None:
            registry.idempotency.store(ident, result, registry.now_ms)
        return result

    def _commit(self, space: Space, tx: Tx, position: int) -> Result:
        registry, moment = self.registry, self.moment
        small = is_small(space, tx)
        if not small:
            refused = check_tx(space, tx, tx.writes, registry.limits)
            if refused is not None:
                return refused
        registry.changed.add(space.uid)
        commit = commit_small if small else commit_tx
        done = commit(space, tx, registry.book, moment.index, position, moment.wall_ms)
        if space.baseline:
            self._automatic_snapshot(space)
        return done

    def _staged_tx(self, tx: Tx, position: int) -> Iterator[Result | None]:
        registry = self.registry
        space = registry.by_name.get(tx.space)
        if space is None:
            registry.stages.drop(tx.stage or "")
            yield unknown_space(tx.space)
            return
        staged = registry.stages.collect(tx.stage or "", tx.stage_parts)
        if isinstance(staged, Refused):
            yield staged
            return
        writes = staged + tx.writes
        refused = check_tx(space, tx, writes, registry.limits)
        registry.stages.drop(tx.stage or "")
        if refused is not None:
            yield refused
            return
        registry.changed.add(space.uid)
        moment = self.moment
        slices = apply_slices(
            space, tx, writes, book=registry.book, index=moment.index, position=position, wall_ms=moment.wall_ms
        )
        for _ in slices:
            yield None
        if space.baseline:
            self._automatic_snapshot(space)
        yield TxDone(space.lvc, space.epoch, space.log_seq, tx.tx_id or f"{moment.index}-{position}")

    def _automatic_snapshot(self, space: Space) -> None:
        reason = due_reason(space, self.registry.limits)
        if reason is not None:
            self.catalogue.take(space, kind="hybrid", reason=reason)

    def _stage_part(self, part: StagePart, position: int) -> Result:
        due_ms = self.registry.stages.add(part.stage, part.part, part.writes, self.registry.now_ms)
        if isinstance(due_ms, Refused):
            return due_ms
        if len(self.registry.stages.stages[part.stage].parts) == 1:
            self.registry.set_timer(due_ms, STAGE_TTL, part.stage)
        return Done()

    # ------------------------------------------------------------ rollback

    def _rollback(self, rollback: Rollback, position: int) -> Iterator[Result | None]:
        checked = check_rollback(self.registry, rollback)
        if isinstance(checked, Refused):
            yield checked
            return
        space, target = checked
        registry = self.registry
        registry.changed.add(space.uid)
        if target is not None:
            yield self.turner.to_snapshot(space, target, self.moment, position, rollback.reason)
        else:
            yield from self.turner.to_lvc(space, rollback.to_lvc or 0, self.moment, position, rollback.reason)
        registry.counter += 1
        left = space.snapshots.get(space.snapshot_seq)
        if left is not None:
            registry.watch_ttl(space, left)
            self.catalogue.on_snapshot(space, left)

    # ------------------------------------------------------------ the rest

    def _open_session(self, open_: OpenSession, position: int) -> Result:
        registry = self.registry
        number = registry.idempotency.open_session(registry.now_ms)
        if isinstance(number, Refused):
            return number
        idle_ms = registry.limits.session_idle_ms
        heapq.heappush(registry.idle_timers, (registry.now_ms + idle_ms, number))
        return SessionDone(number, registry.limits.session_window, idle_ms)

    def _tick(self, tick: Tick, position: int) -> Result:
        return Done()

    def _init_cluster(self, init: InitCluster, position: int) -> Result:
        registry = self.registry
        if registry.cluster_id is not None:
            if registry.cluster_id == init.cluster_id and registry.incarnations == init.incarnations:
                return Done()
            return Refused("conflict", f"the cluster is {registry.cluster_id!r} already")
        try:
            limits = limits_from(init.limits)
        except ValueError as error:
            return Refused("bad_request", str(error))
        registry.cluster_id = init.cluster_id
        registry.incarnations = dict(init.incarnations)
        registry.set_limits(limits)
        self.turner.limits = limits
        return Done()

    # ------------------------------------------------------------ time

    def _fire_timers(self) -> None:
        registry = self.registry
        while registry.timers and registry.timers[0][0] <= registry.now_ms:
            due_ms, kind, what, identity = heapq.heappop(registry.timers)
            if kind == SNAPSHOT_TTL:
                self.catalogue.expire_snapshot(int(what), identity)
            elif kind == SNAPSHOT_INTERVAL:
                self.catalogue.interval_snapshot(int(what), due_ms)
            else:
                again = registry.stages.expire(str(what), registry.now_ms)
                if again is not None:
                    registry.set_timer(again, kind, what)


def check_rollback(registry: Registry, rollback: Rollback) -> tuple[Space, Snapshot | None] | Refused:
    """Conditions of a rollback; the target snapshot, or None when it goes to an LVC."""
    space = registry.by_name.get(rollback.space)
    if space is None:
        return unknown_space(rollback.space)
    if rollback.epoch is not None and rollback.epoch != space.epoch:
        return stale_epoch(space, rollback.epoch)
    if rollback.if_lvc is not None and rollback.if_lvc != space.lvc:
        return Refused("conflict", f"if.lvc is {rollback.if_lvc}, the space stands at {space.lvc}")
    if rollback.reason is not None and len(rollback.reason) > REASON_CHARS_MAX:
        return Refused("bad_request", f"a reason of {len(rollback.reason)} characters, at most {REASON_CHARS_MAX}")
    if (rollback.snapshot is None) == (rollback.to_lvc is None):
        return Refused("bad_request", "exactly one of a snapshot and an lvc is needed")
    if rollback.snapshot is not None:
        target = space.find(rollback.snapshot)
        return (space, target) if target is not None else unknown_snapshot(space, rollback.snapshot)
    refused = outside_window(space, rollback.to_lvc or 0)
    return refused if refused is not None else (space, None)
