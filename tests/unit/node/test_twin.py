"""A machine and its naive twin agree on everything that can be seen, whatever the order of operations.

A second machine applies the same commands and is frozen, restored and rebuilt at random moments: it must give the same
answers and the same roots (invariant 2).
"""

from __future__ import annotations

from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from node.commands import CreateSpace, DeleteSpace, Rollback, TakeSnapshots, Tick, Tx
from node.results import Refused, RollbackDone, SnapshotsDone, SpaceDone, TxDone
from node.settings import Limits
from tests.unit.node.rig import Rig
from tests.unit.node.twin import PAGE, TwinSpace, naive_root

POLICY = {"dirty_ratio": 0.5, "dirty_pages_min": 4, "lvc_delta": 9, "ring": 3}
LIMITS = Limits(chain_max=3)
TWIN_POLICY = {**POLICY, "chain_max": 3}

offsets = st.one_of(st.integers(0, 3 * PAGE), st.integers(254 * PAGE, 258 * PAGE))
blocks = st.builds(
    lambda byte, many: bytes([byte]) * many, st.integers(0, 255), st.sampled_from([1, 7, 100, PAGE, 2 * PAGE + 5])
)
writes = st.lists(st.tuples(offsets, blocks), min_size=1, max_size=3)
names = st.sampled_from(["a", "a", "a", "b"])
steps = st.one_of(
    st.tuples(st.just("tx"), names, writes, st.none()),
    st.tuples(st.just("tx"), names, writes, st.none()),
    st.tuples(st.just("tx"), names, st.one_of(st.just([]), writes), offsets),
    st.tuples(
        st.just("snapshot"), names, st.sampled_from(["auto", "incremental", "full"]), st.sampled_from([None, 300])
    ),
    st.tuples(st.just("wait"), st.integers(1, 400)),
    st.tuples(st.just("to_snapshot"), names, st.integers(0, 5)),
    st.tuples(st.just("to_lvc"), names, st.integers(0, 12)),
    st.tuples(st.just("fork"), st.integers(0, 5)),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("cut_all")),
)
disturbances = st.sampled_from(["none", "none", "freeze", "freeze whole", "restore", "drop"])


class World:
    def __init__(self) -> None:
        self.rig = Rig(limits=LIMITS)
        self.other = Rig(limits=LIMITS)
        self.held: list[object] = []
        self.twins: dict[str, TwinSpace] = {}
        self.counter = 0
        self.create("a")

    def apply(self, operation):
        outcome = self.rig.one(operation)
        assert self.other.apply_raw(self.rig.raws[-1]) == [outcome]
        return outcome

    def create(self, name: str) -> None:
        outcome = self.apply(CreateSpace(name, policy=dict(POLICY)))
        self.counter += 1
        assert isinstance(outcome, SpaceDone) and outcome.created and outcome.info.uid == self.counter
        self.twins[name] = TwinSpace(self.counter)

    # ------------------------------------------------------------ steps

    def tx(self, name, writes, size) -> None:
        if name not in self.twins:
            self.create(name)
        twin = self.twins[name]
        outcome = self.apply(Tx(name, writes, size=size))
        twin.tx(writes, size, TWIN_POLICY)
        assert isinstance(outcome, TxDone) and (outcome.lvc, outcome.epoch) == (twin.lvc, twin.epoch)

    def cut_all(self) -> None:
        for name in list(self.twins):
            self.tx(name, [], 0)

    def wait(self, ms) -> None:
        self.rig.now_ms += ms
        self.apply(Tick())
        for twin in self.twins.values():
            twin.expire(self.rig.now_ms)

    def snapshot(self, name, kind, ttl_ms) -> None:
        outcome = self.apply(TakeSnapshots([name], kind=kind, ttl_ms=ttl_ms))
        twin = self.twins.get(name)
        if twin is None:
            assert isinstance(outcome, Refused) and outcome.code == "not_found"
            return
        twin.snapshot(kind, "requested", TWIN_POLICY, due_ms=ttl_ms and self.rig.now_ms + ttl_ms)
        assert isinstance(outcome, SnapshotsDone) and outcome.snapshots[0].id == twin.snapshot_seq

    def to_snapshot(self, name, pick) -> None:
        twin = self.twins.get(name)
        if twin is None or not twin.snapshots:
            return
        identity = list(twin.snapshots)[pick % len(twin.snapshots)]
        target = twin.snapshots[identity]
        self.turn(twin, Rollback(name, snapshot=str(identity)), target["state"], target["lvc"])

    def to_lvc(self, name, back) -> None:
        twin = self.twins.get(name)
        if twin is None:
            return
        lvc = twin.lvc - back
        if lvc not in twin.history:
            outcome = self.apply(Rollback(name, to_lvc=max(lvc, 0)))
            assert lvc < 0 or (isinstance(outcome, Refused) and outcome.code == "outside_window")
            if lvc >= 0:
                return
            lvc = 0
            if not isinstance(outcome, RollbackDone):
                return
            self.check_turn(twin, outcome, twin.history[0], 0)
            return
        held = twin.history[lvc]
        read = self.rig.machine.read(name, 0, None, at_lvc=lvc)
        assert read.data == held.content() and read.size == held.size
        dry = self.rig.machine.dry_run(Rollback(name, to_lvc=lvc))
        differing = [
            page
            for page in sorted(held.pages.keys() | twin.state.pages.keys())
            if held.pages.get(page, bytes(PAGE)) != twin.state.pages.get(page, bytes(PAGE))
        ]
        assert dry.pages_changed == len(differing) == sum(many for _, many in dry.ranges)
        assert [page for first, many in dry.ranges for page in range(first, first + many)] == differing
        self.turn(twin, Rollback(name, to_lvc=lvc), held, lvc)

    def turn(self, twin, operation, target, to_lvc) -> None:
        self.check_turn(twin, self.apply(operation), target, to_lvc)

    def check_turn(self, twin, outcome, target, to_lvc) -> None:
        from_lvc = twin.lvc
        reverted = twin.rollback(target, TWIN_POLICY)
        self.counter += 1
        assert isinstance(outcome, RollbackDone), outcome
        assert outcome.pages_reverted == reverted
        assert (outcome.from_lvc, outcome.to_lvc, outcome.lvc) == (from_lvc, to_lvc, twin.lvc)
        assert outcome.left_snapshot == twin.snapshot_seq

    def fork(self, pick) -> None:
        twin = self.twins.get("a")
        if twin is None or not twin.snapshots:
            return
        name = f"fork-{self.counter}"
        identity = list(twin.snapshots)[pick % len(twin.snapshots)]
        outcome = self.apply(CreateSpace(name, from_space="a", from_snapshot=str(identity), policy=dict(POLICY)))
        assert isinstance(outcome, SpaceDone), outcome
        self.counter += 1
        source = twin.snapshots[identity]
        child = TwinSpace(self.counter, lvc=source["lvc"])
        child.state.pages = dict(source["state"].pages)
        child.state.versions = dict(source["state"].versions)
        child.state.size = source["size"]
        child.remember()
        self.twins[name] = child

    def delete(self, name) -> None:
        outcome = self.apply(DeleteSpace(name))
        assert isinstance(outcome, Refused) == (name not in self.twins)
        self.twins.pop(name, None)

    # ------------------------------------------------------------ checks

    def disturb(self, how: str) -> None:
        machine = self.other.machine
        if how == "freeze":
            self.held.append(machine.freeze())
        elif how == "freeze whole":
            self.held.append(machine.freeze(whole=True))
        elif how == "restore":
            machine.restore(machine.freeze(whole=True))
        elif how == "drop":
            self.held.clear()

    def check(self) -> None:
        for rig in (self.rig, self.other):
            machine = rig.machine
            assert [info.name for info in machine.list_spaces()] == sorted(self.twins)
            for name, twin in self.twins.items():
                self.check_space(rig, name, twin)
        assert self.rig.machine.list_spaces() == self.other.machine.list_spaces()
        assert self.rig.machine.events(0) == self.other.machine.events(0)

    def check_space(self, rig, name, twin) -> None:
        info = rig.machine.space(name)
        state = twin.state
        assert (info.uid, info.lvc, info.epoch, info.size) == (twin.uid, twin.lvc, twin.epoch, state.size)
        assert info.pages == len(state.pages)
        assert info.dirty_pages == len(state.dirty)
        assert info.baseline_dirty_pages == len(state.baseline_dirty)
        assert (info.baseline, info.last_snapshot) == (state.baseline, state.last_snapshot)
        assert rig.bytes_of(name) == state.content()
        rows = {row.page: row for row in rig.machine.pages(name, limit=1000)}
        assert {page: row.version for page, row in rows.items()} == state.versions
        assert {page for page, row in rows.items() if row.dirty} == state.dirty
        infos = rig.machine.snapshots(name)
        assert [found.id for found in infos] == sorted(twin.snapshots, reverse=True)
        for found in infos:
            row = twin.snapshots[found.id]
            facts = {key: getattr(found, key) for key in row if key not in ("state", "due_ms")}
            assert facts == {key: row[key] for key in facts}

    def check_deep(self) -> None:
        for name, twin in self.twins.items():
            for identity, row in twin.snapshots.items():
                state = row["state"]
                for rig in (self.rig, self.other):
                    assert rig.bytes_of(name, snapshot=str(identity)) == state.content()
                    assert rig.root(twin.uid, identity) == naive_root(state)
                diff = self.rig.machine.diff(name, str(identity), "live")
                pages = state.pages.keys() | twin.state.pages.keys()
                counts = [
                    sum(map(int.__ne__, state.pages.get(p, bytes(PAGE)), twin.state.pages.get(p, bytes(PAGE))))
                    for p in pages
                ]
                assert diff.pages_changed == sum(count > 0 for count in counts)
                assert diff.bytes_changed == sum(counts)
            assert self.rig.machine.wal(name, limit=1000) == self.other.machine.wal(name, limit=1000)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=st.lists(st.tuples(steps, disturbances), min_size=5, max_size=30))
def test_agrees_with_the_twin(plan):
    world = World()
    for (kind, *arguments), disturbance in plan:
        note(f"{kind} {arguments} {disturbance}")
        event(kind)
        getattr(world, kind)(*arguments)
        world.disturb(disturbance)
        world.check()
    world.check_deep()
    world.held.clear()
    world.rig.check_references()
    world.other.check_references()
