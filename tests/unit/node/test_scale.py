"""A sparse gibibyte, a hundred spaces, threads that hash: the same answers and roots whatever happens beside."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

from node.commands import CreateSpace, DeleteSpace, Rollback, TakeSnapshots, Tick, Tx
from node.heap import HeapSet
from node.results import RollbackDone, TxDone
from node.state import StateMachine
from tests.unit.node.rig import HEAP_OPTIONS, Rig
from wal.disk import RealDisk
from wal.undo import UndoConfig, UndoLog

PAGE = 4096
GIB = 1 << 30


def test_a_sparse_gibibyte():
    rig = Rig()
    rig.apply(CreateSpace("a"))
    rng = random.Random(3)
    places = [0, GIB - 100, *(rng.randrange(GIB - 100) for _ in range(300))]
    for at in places:
        rig.apply(Tx("a", [(at, at.to_bytes(8, "big"))]))
    info = rig.machine.space("a")
    assert info.size == GIB - 92 and info.pages <= 2 * len(places)
    assert rig.heaps.get(PAGE).slots < 4 * len(places)
    rig.apply(TakeSnapshots(["a"]), *[Tx("a", [(at, b"broken!!")]) for at in places[:150]])
    assert rig.machine.diff("a", "1", "live").pages_changed >= 149
    done = rig.one(Rollback("a", snapshot="1"))
    assert isinstance(done, RollbackDone) and 149 <= done.pages_reverted <= 300
    for at in places:
        assert rig.machine.read("a", at, 8).data == at.to_bytes(8, "big")
    done = rig.one(Rollback("a", to_lvc=100))
    assert isinstance(done, RollbackDone)
    assert rig.machine.read("a", places[0], 8).data == places[0].to_bytes(8, "big")
    assert rig.machine.space("a").pages <= 200
    rig.apply(Tx("a", [], size=0))
    assert rig.machine.space("a").pages == 0


def story(seed: int):
    """Entries over a hundred spaces."""
    rng = random.Random(seed)
    yield [CreateSpace(f"s-{number}", policy={"ring": 4, "undo_bytes": 20_000}) for number in range(100)]
    for _ in range(150):
        operations = []
        for _ in range(rng.randrange(1, 20)):
            name = f"s-{rng.randrange(100)}"
            kind = rng.random()
            if kind < 0.75:
                operations.append(Tx(name, [(rng.randrange(300) * 1000, rng.randbytes(rng.randrange(1, 3000)))]))
            elif kind < 0.9:
                operations.append(TakeSnapshots([name], ttl_ms=rng.choice([None, 500])))
            elif kind < 0.95:
                operations.append(Rollback(name, snapshot=str(rng.randrange(1, 9))))
            elif kind < 0.98:
                operations.append(Rollback(name, to_lvc=rng.randrange(30)))
            else:
                operations += [DeleteSpace(name), CreateSpace(name)]
        yield operations
    yield [TakeSnapshots(prefix="s-", kind="full"), Tick()]


def facts(rig: Rig) -> list[object]:
    machine = rig.machine
    found: list[object] = [machine.list_spaces(limit=1000), machine.events(0, limit=100_000)]
    for info in machine.list_spaces(limit=1000):
        snapshots = machine.snapshots(info.name, limit=1000)
        found += [snapshots, machine.wal(info.name, limit=1000)]
        found += [rig.root(info.uid, snapshot.id) for snapshot in snapshots]
    return found


def test_a_hundred_spaces_are_the_same_whenever_they_were_frozen():
    calm, troubled = Rig(), Rig()
    rng = random.Random(9)
    held: list[object] = []
    for operations in story(4):
        calm.now_ms += 50
        outcomes = calm.apply(*operations)
        assert troubled.apply_raw(calm.raws[-1]) == outcomes
        if rng.random() < 0.3:
            held.append(troubled.machine.freeze())
        if rng.random() < 0.1:
            troubled.machine.restore(troubled.machine.freeze(whole=True))
        if rng.random() < 0.2:
            held.clear()
    assert facts(calm) == facts(troubled)
    held.clear()
    troubled.check_references()


def test_threads_hash_while_writes_go_on(tmp_path):
    """Real threads and a real mapping: every root is that of the bytes at the snapshot."""
    disk = RealDisk()
    disk.makedirs(str(tmp_path / "undo"))
    pool = ThreadPoolExecutor(2)
    machine = StateMachine(
        heaps=HeapSet(disk, str(tmp_path), **HEAP_OPTIONS),
        undo=UndoLog.open(disk, str(tmp_path / "undo"), UndoConfig(segment_bytes=1 << 20)),
        submit=pool.submit,
        monotonic_ms=lambda: 0.0,
    )
    rig, twin = Rig(), machine
    rng = random.Random(1)
    roots: dict[int, bytes] = {}
    index = 0

    def apply(*operations):
        nonlocal index
        index += 1
        outcomes = rig.apply(*operations)
        assert twin.apply(index, 1, rig.raws[-1]) == outcomes
        twin.poll()
        return outcomes

    apply(CreateSpace("a"))
    for _ in range(40):
        for _ in range(5):
            (done, *_) = apply(*[Tx("a", [(rng.randrange(400) * PAGE, rng.randbytes(100))]) for _ in range(30)])
            assert isinstance(done, TxDone)
        (taken,) = apply(TakeSnapshots(["a"]))
        identity = taken.snapshots[0].id
        assert twin.on_root(1, identity, lambda root, identity=identity: roots.__setitem__(identity, root))
    while len(roots) < 40:
        twin.poll()
    pool.shutdown()
    living = [info.id for info in rig.machine.snapshots("a", limit=1000) if info.id in roots]
    assert len(living) >= 16
    assert {identity: rig.root(1, identity) for identity in living} == {
        identity: roots[identity] for identity in living
    }
