"""Applying commands: a function of (state, command). Bad commands get a refusal, nothing is raised."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator
from typing import Any, Final

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
from node.policy import POLICY_DEFAULT, make_policy
from node.registry import SNAPSHOT_INTERVAL, SNAPSHOT_TTL, STAGE_TTL, Registry
from node.results import Done, Outcome, Refused, Result, SessionDone, SnapshotInfo, SnapshotsDone, SpaceDone, TxDone
from node.rollback import Turner, outside_window
from node.settings import limits_from
from node.snapshots import Moment, due_reason, expire_snapshot, resolve_kind, take_snapshot, trim_rings
from node.space import Snapshot, Space
from node.transact import apply_slices, check_tx, commit_small, commit_tx, stale_epoch

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SPACE_BYTES_DEFAULT: Final = 64 << 30
SPACE_BYTES_MAX: Final = 1 << 47
PAGE_SIZES: Final = (4096, 8192, 16384, 32768, 65536)
LABEL_CHARS_MAX: Final = 128


def unknown_space(name: str) -> Refused:
    return Refused("not_found", f"there is no space {name!r}")


def unknown_snapshot(space: Space, ref: str) -> Refused:
    return Refused("not_found", f"space {space.name!r} has no snapshot {ref!r}")


class Applier:
    """Handlers of all operations over one registry. `on_snapshot` hears of every snapshot taken (for hashing)."""

    def __init__(self, registry: Registry, on_snapshot: Callable[[Space, Snapshot], None]) -> None:
        self.registry = registry
        self.turner = Turner(registry.book, registry.events, registry.limits)
        self.on_snapshot = on_snapshot
        self.moment = Moment(0, 0, 0)
        self._handlers: dict[type, Callable[[Any, int], Result]] = {
            StagePart: self._stage_part,
            CreateSpace: self._create_space,
            DeleteSpace: self._delete_space,
            TakeSnapshots: self._take_snapshots,
            DeleteSnapshot: self._delete_snapshot,
            PinSnapshot: self._pin_snapshot,
            OpenSession: self._open_session,
            Tick: self._tick,
            InitCluster: self._init_cluster,
        }

    # ------------------------------------------------------------ an entry

    def begin(self, index: int, command: Command) -> None:
        """Replicated time goes on, and what is due by now happens."""
        registry = self.registry
        registry.now_ms = max(registry.now_ms, command.stamp_ms)
        self.moment = Moment(index, registry.now_ms, command.wall_ms)
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
        moment = self.moment
        space = registry.by_name.get(tx.space)
        result: Result
        if space is None:
            result = unknown_space(tx.space)
        else:
            writes = tx.writes
            refused = check_tx(space, tx, writes, registry.limits)
            if refused is not None:
                result = refused
            else:
                registry.changed.add(space.uid)
                offset = writes[0][0] if len(writes) == 1 else -1
                if offset >= 0 and tx.size is None and offset % space.page_size + len(writes[0][1]) <= space.page_size:
                    result = commit_small(
                        space, tx, book=registry.book, index=moment.index, position=position, wall_ms=moment.wall_ms
                    )
                else:
                    result = commit_tx(
                        space, tx, writes, book=registry.book, index=moment.index, position=position,
                        wall_ms=moment.wall_ms,
                    )  # fmt: skip
                if space.baseline:
                    self._automatic_snapshot(space)
        if ident is not None:
            registry.idempotency.store(ident, result, registry.now_ms)
        return result

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
            self._take(space, kind="hybrid", reason=reason)

    def _take(self, space: Space, *, kind: str, reason: str, **options: Any) -> Snapshot:
        registry = self.registry
        registry.changed.add(space.uid)
        snapshot = take_snapshot(
            space, self.moment, registry.events, registry.limits, kind=kind, reason=reason, **options
        )
        registry.watch_ttl(space, snapshot)
        self.on_snapshot(space, snapshot)
        return snapshot

    def _stage_part(self, part: StagePart, position: int) -> Result:
        due_ms = self.registry.stages.add(part.stage, part.part, part.writes, self.registry.now_ms)
        if isinstance(due_ms, Refused):
            return due_ms
        if len(self.registry.stages.stages[part.stage].parts) == 1:
            self.registry.set_timer(due_ms, STAGE_TTL, part.stage)
        return Done()

    # ------------------------------------------------------------ spaces

    def _create_space(self, create: CreateSpace, position: int) -> Result:
        space = self.registry.by_name.get(create.space)
        try:
            policy = make_policy(create.policy)
        except (ValueError, TypeError) as error:
            return Refused("bad_request", str(error))
        if space is not None:
            return self._agree(space, create)
        if not NAME.fullmatch(create.space):
            return Refused("bad_request", f"{create.space!r} is no name of a space: {NAME.pattern}")
        if len(self.registry.by_name) >= self.registry.limits.spaces_max:
            return Refused("rate_limited", f"there are {len(self.registry.by_name)} spaces, at most that many")
        source: Snapshot | None = None
        page_size = PAGE_SIZES[0] if create.page_size is None else create.page_size
        max_pages = create.max_pages
        if create.from_space is not None:
            origin = self.registry.by_name.get(create.from_space)
            if origin is None:
                return unknown_space(create.from_space)
            source = origin.find(create.from_snapshot or "")
            if source is None:
                return unknown_snapshot(origin, create.from_snapshot or "")
            if create.page_size not in (None, origin.page_size):
                return Refused(
                    "conflict", f"page_size {create.page_size}, that of {origin.name!r} is {origin.page_size}"
                )
            page_size = origin.page_size
            max_pages = origin.max_pages if max_pages is None else max_pages
        if page_size not in PAGE_SIZES:
            return Refused("bad_request", f"page_size {page_size}, a power of two from 4096 to 65536")
        if max_pages is None:
            max_pages = SPACE_BYTES_DEFAULT // page_size
        if not 0 < max_pages <= SPACE_BYTES_MAX // page_size:
            return Refused("bad_request", f"max_pages {max_pages}, 1 to {SPACE_BYTES_MAX // page_size}")
        if source is not None and source.facts.size > max_pages * page_size:
            return Refused("too_large", f"max_pages {max_pages} can't hold the {source.facts.size} bytes of the source")
        space = self._new_space(create, page_size, max_pages, source)
        space.policy = policy
        if policy.interval_s:
            space.interval_due_ms = self.registry.now_ms + int(policy.interval_s * 1000)
            self.registry.set_timer(space.interval_due_ms, SNAPSHOT_INTERVAL, space.uid)
        return SpaceDone(True, space.info())

    def _new_space(self, create: CreateSpace, page_size: int, max_pages: int, source: Snapshot | None) -> Space:
        registry = self.registry
        uid = registry.next_uid()
        space = Space(
            name=create.space,
            uid=uid,
            heap=registry.heaps.get(page_size),
            max_pages=max_pages,
            policy=POLICY_DEFAULT,
            created_ms=self.moment.wall_ms,
            window=registry.book.open(uid, source.facts.lvc if source is not None else 0),
            leaves=source.leaves if source is not None else None,
        )
        if source is not None:
            space.lvc = source.facts.lvc
            space.size = source.facts.size
            space.pages = source.facts.pages
            interval = source.after.interval
            space.set_context(source.after.__class__(interval, interval))
            space.forked_from = (create.from_space or "", create.from_snapshot or "")
        registry.add_space(space)
        return space

    def _agree(self, space: Space, create: CreateSpace) -> Result:
        """A space of that name exists: fine if all that was given is so already."""
        differing = []
        if create.page_size not in (None, space.page_size):
            differing.append(f"page_size {space.page_size}")
        if create.max_pages not in (None, space.max_pages):
            differing.append(f"max_pages {space.max_pages}")
        for member, value in (create.policy or {}).items():
            present = getattr(space.policy, member)
            if present != value:
                differing.append(f"policy.{member} {present}")
        if create.from_space is not None and space.forked_from != (create.from_space, create.from_snapshot):
            differing.append(f"from {space.forked_from}")
        if differing:
            return Refused("conflict", f"space {space.name!r} exists with {', '.join(differing)}")
        return SpaceDone(False, space.info())

    def _delete_space(self, delete: DeleteSpace, position: int) -> Result:
        space = self._space(delete.space, delete.epoch)
        if isinstance(space, Refused):
            return space
        if space.pinned:
            return Refused("pinned", f"{space.pinned} snapshots of space {space.name!r} are pinned")
        self.registry.remove_space(space)
        return Done()

    def _space(self, name: str, epoch: int | None) -> Space | Refused:
        space = self.registry.by_name.get(name)
        if space is None:
            return unknown_space(name)
        if epoch is not None and epoch != space.epoch:
            return stale_epoch(space, epoch)
        return space

    # ------------------------------------------------------------ snapshots

    def _take_snapshots(self, take: TakeSnapshots, position: int) -> Result:
        refused = _check_snapshot(take)
        if refused is not None:
            return refused
        registry = self.registry
        names = take.spaces if take.spaces is not None else list(registry.names_from("", take.prefix or ""))
        if not names:
            return Refused("not_found", f"no space begins with {take.prefix!r}")
        spaces = []
        for name in dict.fromkeys(names):
            space = self._space(name, take.epoch)
            if isinstance(space, Refused):
                return space
            spaces.append(space)
        infos: list[SnapshotInfo] = []
        for space in spaces:
            kind = resolve_kind(space, take.kind, registry.limits)
            snapshot = self._take(
                space, kind=kind, reason="requested", label=take.label, ttl_ms=take.ttl_ms, pin=take.pin
            )
            infos.append(snapshot.info())
        return SnapshotsDone(self.moment.index, infos)

    def _snapshot(self, name: str, ref: str, epoch: int | None) -> tuple[Space, Snapshot] | Refused:
        space = self._space(name, epoch)
        if isinstance(space, Refused):
            return space
        snapshot = space.find(ref)
        return (space, snapshot) if snapshot is not None else unknown_snapshot(space, ref)

    def _delete_snapshot(self, delete: DeleteSnapshot, position: int) -> Result:
        found = self._snapshot(delete.space, delete.snapshot, delete.epoch)
        if isinstance(found, Refused):
            return found
        space, snapshot = found
        if snapshot.pins:
            holders = ", ".join(sorted(snapshot.pins))
            return Refused("pinned", f"snapshot {snapshot.id} of {space.name!r} is pinned by {holders}")
        space.drop_snapshot(snapshot)
        self.registry.changed.add(space.uid)
        return Done()

    def _pin_snapshot(self, pin: PinSnapshot, position: int) -> Result:
        found = self._snapshot(pin.space, pin.snapshot, pin.epoch)
        if isinstance(found, Refused):
            return found
        space, snapshot = found
        if pin.pin:
            space.set_pins(snapshot, snapshot.pins | {pin.holder})
        else:
            space.set_pins(snapshot, snapshot.pins - {pin.holder})
        info = snapshot.info()
        self.registry.changed.add(space.uid)
        if not snapshot.pins:
            if snapshot.due_ms is not None and snapshot.due_ms <= self.registry.now_ms:
                expire_snapshot(space, snapshot.id, self.moment, self.registry.events, "ttl")
            trim_rings(space, self.moment, self.registry.events)
        return info

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
            self.on_snapshot(space, left)

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
                self._expire_snapshot(int(what), identity)
            elif kind == SNAPSHOT_INTERVAL:
                self._interval_snapshot(int(what), due_ms)
            else:
                again = registry.stages.expire(str(what), registry.now_ms)
                if again is not None:
                    registry.set_timer(again, kind, what)

    def _expire_snapshot(self, uid: int, identity: int) -> None:
        space = self.registry.by_uid.get(uid)
        snapshot = space.snapshots.get(identity) if space is not None else None
        if space is not None and snapshot is not None and not snapshot.pins:
            expire_snapshot(space, identity, self.moment, self.registry.events, "ttl")
            self.registry.changed.add(uid)

    def _interval_snapshot(self, uid: int, due_ms: int) -> None:
        """The policy's timer: a snapshot if the space moved on since the last one."""
        registry = self.registry
        space = registry.by_uid.get(uid)
        if space is None or space.interval_due_ms != due_ms:
            return
        registry.changed.add(uid)
        space.interval_due_ms = registry.now_ms + int(space.policy.interval_s * 1000)
        registry.set_timer(space.interval_due_ms, SNAPSHOT_INTERVAL, uid)
        if space.lvc != space.snapshot_lvc and space.lvc > 0:
            kind = resolve_kind(space, "auto", registry.limits)
            self._take(space, kind=kind, reason="interval" if space.baseline else "first")


def _check_snapshot(take: TakeSnapshots) -> Refused | None:
    if take.kind not in ("auto", "incremental", "full"):
        return Refused("bad_request", f"kind is {take.kind!r}, one of auto, incremental, full")
    label = take.label
    if label is not None and not (0 < len(label) <= LABEL_CHARS_MAX and label[0] != "@" and not label.isdigit()):
        return Refused("bad_request", f"label {label!r}: 1 to 128 characters, no leading @, not all digits")
    if take.ttl_ms is not None and take.ttl_ms < 1:
        return Refused("bad_request", f"ttl_ms is {take.ttl_ms}, at least 1")
    if (take.spaces is None) == (take.prefix is None):
        return Refused("bad_request", "exactly one of spaces and prefix is needed")
    return None


def check_rollback(registry: Registry, rollback: Rollback) -> tuple[Space, Snapshot | None] | Refused:
    """Conditions of a rollback; the target snapshot, or None when it goes to an LVC."""
    space = registry.by_name.get(rollback.space)
    if space is None:
        return unknown_space(rollback.space)
    if rollback.epoch is not None and rollback.epoch != space.epoch:
        return stale_epoch(space, rollback.epoch)
    if rollback.if_lvc is not None and rollback.if_lvc != space.lvc:
        return Refused("conflict", f"if.lvc is {rollback.if_lvc}, the space stands at {space.lvc}")
    if (rollback.snapshot is None) == (rollback.to_lvc is None):
        return Refused("bad_request", "exactly one of a snapshot and an lvc is needed")
    if rollback.snapshot is not None:
        target = space.find(rollback.snapshot)
        return (space, target) if target is not None else unknown_snapshot(space, rollback.snapshot)
    refused = outside_window(space, rollback.to_lvc or 0)
    return refused if refused is not None else (space, None)
