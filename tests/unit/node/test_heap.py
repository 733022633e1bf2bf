"""The page heap: references, lazy release, growth, full disks, rotten slots; room that is judged beforehand."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from chaos.sim.disk import SimDisk
from node.commands import CreateSpace, DeleteSpace, Rollback, TakeSnapshots, Tick, Tx, encode_command
from node.digest import page_digest
from node.faults import LocalCorruption, RottenPage
from node.heap import HASHED, VERIFIED, Heap, HeapFull, RottenSlot
from node.reserve import slots_needed
from node.results import RollbackDone
from node.table import Leaf, Table
from tests.unit.node.rig import Rig
from wal.disk import RealDisk

PAGE = 4096


def make_heap(disk=None, **options) -> Heap:
    disk = disk or SimDisk()
    disk.makedirs("/h")
    return Heap(disk, "/h/pages", PAGE, **{"address_bytes": 1 << 24, "extent_bytes": 1 << 15, **options})


def fill(heap: Heap, byte: int) -> int:
    slot = heap.alloc()
    heap.view[slot * PAGE : (slot + 1) * PAGE] = bytes([byte]) * PAGE
    return slot


def test_slot_zero_is_the_absent_page():
    heap = make_heap()
    slots = [heap.alloc() for _ in range(50)]
    assert 0 not in slots and len(set(slots)) == 50
    assert bytes(heap.page(0)) == bytes(PAGE)
    assert heap.flag_of[0] == HASHED | VERIFIED


def test_a_dead_leaf_gives_its_slots_back():
    heap = make_heap()
    table = Table(heap)
    leaf = table.own(0)
    for at in range(20):
        table.writable(leaf, at)
    shared = table.freeze()
    other = Table(heap, shared)
    copy = other.own(0)
    assert copy is not leaf and {heap.ref_of[slot] for slot in copy.slots[:20].tolist()} == {2}
    free = heap.free_slots
    del leaf, shared, table
    heap.settle()
    assert heap.free_slots == free
    assert {heap.ref_of[slot] for slot in copy.slots[:20].tolist()} == {1}
    del copy, other
    heap.settle()
    assert heap.free_slots == free + 20


def test_equal_pages_of_one_leaf_may_share_a_slot():
    heap = make_heap()
    slot = fill(heap, 7)
    heap.drop(slot)
    heap.settle()
    block = bytearray(4096)
    view = memoryview(block)[2048:3072].cast("I")
    view[3] = view[9] = slot
    leaf = Leaf.adopt(heap, block)
    heap.rebuild()
    assert heap.ref_of[slot] == 2 and heap.free_slots == heap.slots - 2
    table = Table(heap, {0: leaf})
    own = table.own(0)
    fresh = table.writable(own, 3)
    assert fresh != slot and own.slot_of[9] == slot and heap.ref_of[slot] == 3
    del leaf, own, table, view
    heap.settle()
    assert heap.free_slots == heap.slots - 1


def test_views_stay_valid_while_the_heap_grows(tmp_path):
    heap = Heap(RealDisk(), str(tmp_path / "pages"), PAGE, address_bytes=1 << 24, extent_bytes=1 << 14)
    slot = fill(heap, 5)
    view, slots = heap.view, heap.slots
    for _ in range(100):
        fill(heap, 6)
    assert heap.slots > slots
    heap.view[slot * PAGE] = 9
    assert view[slot * PAGE] == 9 and bytes(heap.page(slot))[1:] == b"\5" * (PAGE - 1)
    heap.sync()
    heap.close()


def test_no_room_is_said_before_anything_happens():
    heap = make_heap(address_bytes=64 * PAGE)
    heap.ensure(63)
    free = heap.free_slots
    with pytest.raises(HeapFull):
        heap.ensure(64)
    assert heap.free_slots == free == 63

    class FullFile:
        def __getattr__(self, name):
            return getattr(self.inner, name)

        def __init__(self, inner):
            self.inner = inner

        def fallocate(self, nbytes):
            raise OSError(errno.ENOSPC, "no space")

    heap = make_heap()
    heap._file = FullFile(heap._file)
    free = heap.free_slots
    with pytest.raises(HeapFull, match="no space"):
        heap.ensure(free + 1)
    assert heap.free_slots == free
    heap.ensure(free)


def test_a_rotten_slot_is_found_at_first_use(tmp_path):
    disk = RealDisk()
    heap = Heap(disk, str(tmp_path / "pages"), PAGE)
    good, bad = fill(heap, 1), fill(heap, 2)
    digests = [page_digest(heap.page(slot)) for slot in (good, bad)]
    heap.sync()
    heap.close()
    with open(tmp_path / "pages", "r+b") as file:
        file.seek(bad * PAGE + 100)
        file.write(b"\x03")
    again = Heap(disk, str(tmp_path / "pages"), PAGE)
    slots = np.array([good, bad], np.uint32)
    again.adopt(slots, np.frombuffer(b"".join(digests), np.uint8).reshape(2, 16))
    assert bytes(again.page(good)) == b"\1" * PAGE and again.flag_of[good] == HASHED | VERIFIED
    for use in (again.page, again.copy, again.reopen):
        with pytest.raises(RottenSlot, match=f"slot {bad}"):
            use(bad)


def rot(rig: Rig, name: str, page: int) -> None:
    """Changes a page behind the machine's back, as a disk would, and makes it unread."""
    space = rig.machine.registry.by_name[name]
    slot = space.table.leaves[page >> 8].slot_of[page & 255]
    heap = space.heap
    if not heap.flag_of[slot] & HASHED:
        heap.digests[slot] = np.frombuffer(page_digest(heap.page(slot)), np.uint8)
    heap.flag_of[slot] = HASHED
    heap.sync()
    heap._file.pwrite(b"\xee", slot * PAGE + 17)
    heap.view[slot * PAGE + 17] = 0xEE


def test_a_rotten_page_is_named_by_reads_and_stops_apply():
    rig = Rig()
    rig.apply(CreateSpace("a"), Tx("a", [(0, b"x" * 3 * PAGE)]), TakeSnapshots(["a"]))
    rot(rig, "a", 1)
    assert rig.machine.read("a", 0, 10).data == b"x" * 10
    with pytest.raises(RottenPage, match="page 1 of space 'a'") as caught:
        rig.machine.read("a", 0, None)
    assert (caught.value.space, caught.value.page) == ("a", 1)
    with pytest.raises(LocalCorruption):
        rig.apply(Tx("a", [(PAGE, b"y")]))


def test_a_full_snapshot_reads_every_page_again():
    rig = Rig()
    rig.apply(CreateSpace("a"), Tx("a", [(0, b"x" * 3 * PAGE)]), TakeSnapshots(["a"]))
    found = []
    rig.machine.on_rotten = lambda *facts: found.append(facts)
    rot(rig, "a", 2)
    rig.apply(TakeSnapshots(["a"], kind="incremental"))
    assert found == []
    rig.apply(TakeSnapshots(["a"], kind="full"))
    assert found == [("a", 3, 2)] and rig.machine.rotten_pages == 1
    with pytest.raises(RottenPage, match="page 2"):
        rig.machine.read("a", 2 * PAGE, 5)
    assert rig.machine.read("a", PAGE, 5).data == b"xxxxx"


@pytest.mark.parametrize("rotten", [False, True])
def test_going_back_to_an_lvc_takes_pages_from_snapshots_unless_they_are_rotten(rotten):
    rig = Rig()
    rig.apply(CreateSpace("a"), Tx("a", [(0, b"x" * 3 * PAGE)]), TakeSnapshots(["a"]))
    space = rig.machine.registry.by_name["a"]
    before = space.snapshots[1].leaves[0].slots[:3].tolist()
    if rotten:
        rot(rig, "a", 1)
        space.heap.flag_of[before[1]] = HASHED | VERIFIED
    rig.apply(*[Tx("a", [(page * PAGE + 5, b"new")]) for page in (0, 1, 2, 2)])
    if rotten:
        space.heap.flag_of[before[1]] = HASHED
        slot = space.table.leaves[0].slot_of[1]
        space.heap.view[slot * PAGE + 17] = ord("x")
    rig.apply(Rollback("a", to_lvc=1))
    now = space.table.leaves[0].slots[:3].tolist()
    assert [a == b for a, b in zip(before, now, strict=True)] == [True, not rotten, False]
    assert rig.bytes_of("a") == b"x" * 3 * PAGE
    rig.apply(Tx("a", [(0, b"y" * 3 * PAGE)]))
    if not rotten:
        assert rig.bytes_of("a", snapshot="1") == b"x" * 3 * PAGE
    rig.check_references()


def test_foreign_bytes_break_the_chain_of_a_rollback():
    rig = Rig()
    rig.apply(CreateSpace("a"), Tx("a", [(0, b"one")]), Tx("a", [(0, b"two")]))
    slot = rig.machine.registry.by_name["a"].table.leaves[0].slot_of[0]
    rig.heaps.get(PAGE).view[slot * PAGE + 1] = 0
    with pytest.raises(LocalCorruption, match="LVC 2"):
        rig.apply(Rollback("a", to_lvc=1))


# ---------------------------------------------------------------- room


def raw_of(*operations) -> bytes:
    return encode_command(operations, stamp_ms=0, wall_ms=0)


def test_a_full_disk_refuses_writes_and_admits_what_frees_space():
    free = [1 << 40]

    class Small(SimDisk):
        def free_bytes(self, path: str) -> int:
            return free[0]

    rig = Rig(disk=Small())
    rig.apply(CreateSpace("a"), *[Tx("a", [(page * PAGE, b"x")]) for page in range(100)], TakeSnapshots(["a"]))
    write = raw_of(Tx("a", [(0, b"y" * 100_000)]))
    assert rig.machine.can_accept(write)
    free[0] = 0
    rig.machine._reserve._admitted = 1 << 40
    assert not rig.machine.can_accept(write)
    for operation in (Tick(), DeleteSpace("a"), Rollback("a", snapshot="1"), TakeSnapshots(["a"])):
        assert rig.machine.can_accept(raw_of(operation))
    assert isinstance(rig.one(Rollback("a", snapshot="1")), RollbackDone)


def test_the_estimate_covers_what_applying_takes():
    rig = Rig()
    rig.apply(CreateSpace("a"), CreateSpace("b", page_size=65536))
    rig.apply(*[Tx(name, [(0, b"x" * 300_000)]) for name in "ab"], TakeSnapshots(["a", "b"]))
    rng = np.random.default_rng(5)
    for _ in range(50):
        name = "ab"[rng.integers(2)]
        writes = [(int(rng.integers(1 << 22)), b"w" * int(rng.integers(1, 30_000))) for _ in range(rng.integers(1, 5))]
        operations = [Tx(name, writes)] * 2
        size = 4096 if name == "a" else 65536
        heap = rig.heaps.get(size)
        heap.settle()
        heap.ensure(200)
        free = heap.free_slots
        rig.apply(*operations)
        assert free - heap.free_slots <= slots_needed(rig.machine.registry, operations)[size]
