"""A node that comes back from its checkpoint and its log is the node that never went away."""

from __future__ import annotations

import errno

import pytest

from chaos.sim.disk import SimDisk
from node.checkpoint_ledger import Ledger
from node.checkpoint_rows import CHECKPOINT_VERSION, LEAF, TABLES, list_ids
from node.checkpoint_store import Ballast, CheckpointStore, NoRoom
from node.commands import CreateSpace, OpenSession, Rollback, Seat, TakeSnapshots, Tick, Tx
from node.recovery import load_checkpoint
from tests.unit.node.durable import DurableNode, Story, everything
from wal.checks import Corrupt, FailStop, InvariantViolation


def same(found: DurableNode, expected: DurableNode) -> None:
    left, right = everything(found), everything(expected)
    for part in left:
        assert left[part] == right[part], part


def write(name: str, offset: int, text: bytes) -> Tx:
    return Tx(name, [(offset, memoryview(text))])


@pytest.mark.parametrize("seed", range(6))
def test_recovers_what_a_fresh_replay_gives(tmp_path, seed):
    """Checkpoints at random moments, crashes at random moments; each life goes on where the last one stopped."""
    story, log = Story(seed), []
    node = DurableNode(str(tmp_path / "n"), log)
    for _ in range(120):
        story.step(node)
        if story.rng.random() < 0.1:
            assert node.checkpoint()
        if story.rng.random() < 0.05:
            node.close()
            node = DurableNode(str(tmp_path / "n"), log)
            assert node.replayed == len(log) - (node.storage.base.index if node.storage.base else 0)
    node.close()
    node = DurableNode(str(tmp_path / "n"), log)
    same(node, DurableNode(str(tmp_path / "fresh"), list(log)))


STEPS = ["frozen", "hashed", "heaps synced", "undo synced", "written leaf", "written window", "before commit",
         "committed", "released"]  # fmt: skip


class Cut(BaseException):
    """The power goes here."""


@pytest.mark.parametrize("step", STEPS)
def test_the_power_goes_at_every_step(tmp_path, step):
    """Heaps and undo log lose what was not synced, LMDB has what it has committed; writes go on meanwhile."""
    story, log, disk = Story(7), [], SimDisk(7)
    armed = False

    def fault(found: str) -> None:
        if armed and found == step:
            raise Cut

    node = DurableNode("/n", log, disk=disk, fault=fault, checkpoint_folder=str(tmp_path / "lmdb"))
    for life in range(5):
        armed = False
        for _ in range(12):
            story.step(node)
        assert node.checkpoint()
        base = len(log)
        for _ in range(12):
            story.step(node)
        assert node.checkpointer.start()
        for _ in range(3):
            story.step(node)  # while the checkpoint is on its way
        armed = True
        with pytest.raises(Cut):
            node.work()
        disk.power_cut()
        disk.restart(keep=0.5, torn=0.5)
        node.close()
        armed = False
        node = DurableNode("/n", log, disk=disk, fault=fault, checkpoint_folder=str(tmp_path / "lmdb"))
        committed = STEPS.index(step) >= STEPS.index("committed")
        assert node.storage.base.index == (base + 12 if committed else base)
        same(node, DurableNode(f"/fresh{life}", list(log), disk=disk, checkpoint_folder=str(tmp_path / f"fresh{life}")))
    node.close()


def test_a_checkpoint_that_syncs_nothing_is_found_out(tmp_path):
    """The canary: without the sync of heaps and undo log the same cut loses pages, and recovery or reading says so."""
    found = 0
    for seed in range(4):
        story, log, disk = Story(seed), [], SimDisk(seed)
        node = DurableNode("/n", log, disk=disk, checkpoint_folder=str(tmp_path / f"lmdb{seed}"))
        node.heaps.sync = lambda: None
        node.storage.undo.sync = lambda mark: None
        for _ in range(30):
            story.step(node)
        node.checkpoint()
        disk.power_cut()
        disk.restart(keep=0, torn=0)
        node.close()
        try:
            node = DurableNode("/n", log, disk=disk, checkpoint_folder=str(tmp_path / f"lmdb{seed}"))
            everything(node)
        except Exception:
            found += 1
    assert found == 4


def test_slots_of_the_durable_checkpoint_are_not_reused(tmp_path):
    """Invariant 3: after a checkpoint everything is overwritten, and the checkpoint still reads as it was."""
    log = []
    node = DurableNode(str(tmp_path / "n"), log)
    node.apply(CreateSpace("a"), now_ms=1)
    for page in range(20):
        node.apply(write("a", page * 4096, b"old%d" % page * 100), now_ms=1)
    node.checkpoint()
    expected = everything(node)["spaces"]
    for _ in range(30):
        for page in range(20):
            node.apply(write("a", page * 4096, b"new" * 1000), now_ms=1)
    node.heaps.sync()
    node.close()
    again = DurableNode(str(tmp_path / "n"), log[:21])
    assert again.replayed == 0
    assert everything(again)["spaces"] == expected


def test_only_differences_are_written(tmp_path):
    """1,000 pages in 4 leaves and 50 spaces; one page changes: one leaf is written, one space, one window piece."""
    puts: list[int] = []
    node = DurableNode(str(tmp_path / "n"), [])
    store = node.storage.store
    fill = store._fill

    def counted(txn, table, rows):
        if rows is not None:
            rows = list(rows)
            puts.append((table, len(rows)))
        return fill(txn, table, rows)

    store._fill = counted
    for number in range(50):
        node.apply(CreateSpace(f"s{number:02}"), write(f"s{number:02}", 0, b"x"), now_ms=1)
    node.apply(write("s00", 0, b"y" * (1000 * 4096)), now_ms=1)
    node.checkpoint()
    assert dict(puts)["leaf"] == 49 + 4 and dict(puts)["space"] == 50
    puts.clear()
    node.apply(write("s00", 300 * 4096, b"z"), now_ms=1)
    node.checkpoint()
    assert [(table, count) for table, count in puts if count] == [
        ("leaf", 2),
        ("space", 1),
        ("window", 1),
        ("blob", 1),
        ("state", 1),
    ]  # fmt: skip  (one leaf written, the one before it deleted)


def test_the_map_grows_on_demand(tmp_path):
    store = CheckpointStore(str(tmp_path / "c"), TABLES, map_bytes=1 << 18)
    rows = [(b"%d" % number, bytes([number]) * 9_000) for number in range(200)]
    store.write(lambda: [(LEAF, rows)])
    assert store.map_bytes > 1_800_000
    assert sorted(store.rows(LEAF)) == sorted(rows)
    store.close()
    again = CheckpointStore(str(tmp_path / "c"), TABLES, map_bytes=1 << 18)
    assert again.map_bytes > again.used_bytes > 1_800_000
    again.write(lambda: [(LEAF, None), (LEAF, rows[:1])])
    assert list(again.rows(LEAF)) == rows[:1]


def test_a_file_that_is_no_checkpoint_is_named(tmp_path):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "data.mdb").write_bytes(b"something else" * 1000)
    with pytest.raises(Corrupt) as damage:
        CheckpointStore(str(tmp_path / "c"), TABLES)
    assert damage.value.path.endswith("data.mdb")


def test_ballast_is_given_up_before_a_checkpoint_fails(tmp_path):
    """The disk is full until the ballast goes."""
    story = Story(4)
    node = DurableNode(str(tmp_path / "n"), [])
    ballast = node.storage.ballast = Ballast(str(tmp_path / "ballast"), 100_000)
    assert ballast.hold() and ballast.hold() and ballast.held_bytes == 100_000
    write_rows = node.storage.store.write
    tries = []

    def write_when_there_is_room(writer):
        tries.append(ballast.held_bytes)
        if ballast.held_bytes:
            raise NoRoom("No space left on device")
        write_rows(writer)

    node.storage.store.write = write_when_there_is_room
    for _ in range(20):
        story.step(node)
    node.checkpoint()
    assert tries == [100_000, 0]
    assert node.checkpointer.failures == 0 and node.storage.base.index == 20
    assert ballast.held_bytes == 100_000


def test_no_room_leaves_the_checkpoint_before_and_the_next_one_is_whole(tmp_path):
    story, log = Story(3), []
    full = False

    def fault(step: str) -> None:
        if full and step == "before commit":
            raise OSError(errno.ENOSPC, "No space left on device")

    node = DurableNode(str(tmp_path / "n"), log, fault=fault)
    for _ in range(30):
        story.step(node)
    node.checkpoint()
    first = node.storage.base
    full = True
    for _ in range(30):
        story.step(node)
    assert node.checkpointer.start()
    node.work()
    assert node.storage.base == first and node.checkpointer.failures == 1 and not node.checkpointer.running
    full = False
    for _ in range(10):
        story.step(node)
    node.checkpoint()
    for _ in range(10):
        story.step(node)
    node.checkpoint()
    node.close()
    again = DurableNode(str(tmp_path / "n"), log)
    assert again.replayed == 0
    same(again, DurableNode(str(tmp_path / "fresh"), list(log)))


def test_a_failed_sync_ends_the_process(tmp_path):
    disk = SimDisk()
    node = DurableNode("/n", [], disk=disk, checkpoint_folder=str(tmp_path / "lmdb"))
    node.apply(CreateSpace("a"), write("a", 0, b"x"), now_ms=1)
    disk.fail_sync = lambda path: "heap" in path
    assert node.checkpointer.start()
    with pytest.raises(FailStop):
        node.work()
    assert node.storage.base is None


def test_nothing_new_no_checkpoint(tmp_path):
    node = DurableNode(str(tmp_path / "n"), [])
    assert not node.checkpointer.start()
    node.apply(CreateSpace("a"), now_ms=1)
    assert node.checkpointer.start() and not node.checkpointer.start()
    node.work()
    assert node.durable == [1] and not node.checkpointer.start()


def test_two_nodes_name_equal_states_equally(tmp_path):
    """Whatever was checkpointed when, and whether a node was restarted: the digest is that of the content."""
    story, log = Story(5), []
    one = DurableNode(str(tmp_path / "one"), log)
    for _ in range(60):
        story.step(one)
        if story.rng.random() < 0.2:
            one.checkpoint()
    one.apply(Tick(), now_ms=story.now_ms)
    one.checkpoint()
    two = DurableNode(str(tmp_path / "two"), list(log[:40]))
    two.checkpoint()
    two.close()
    two = DurableNode(str(tmp_path / "two"), list(log))
    two.checkpoint()
    assert one.checkpointer.base == two.checkpointer.base
    one.apply(write("zz", 0, b"refused"), now_ms=story.now_ms)
    one.checkpoint()
    assert one.checkpointer.base.digest != two.checkpointer.base.digest


def test_an_install_replaces_everything(tmp_path):
    """The state of `sender` is put into `receiver`'s own heaps and undo log, and made its newest checkpoint."""
    story, log = Story(11), []
    sender = DurableNode(str(tmp_path / "sender"), log)
    for _ in range(80):
        story.step(sender)
    sender.checkpoint()
    receiver = DurableNode(str(tmp_path / "receiver"), log[:20])
    receiver.checkpoint()
    # As a transfer does it: the same slots and positions, since the files are copied.
    copy = DurableNode(str(tmp_path / "copy"), list(log))
    image = copy.machine.freeze(whole=True)
    checkpointer = copy.checkpointer
    base = sender.checkpointer.base
    run = checkpointer.begin_install(image, prev_index=base.prev_index, prev_term=1, digest=base.digest)
    with pytest.raises(InvariantViolation):
        checkpointer.begin_install(image, prev_index=1, prev_term=1, digest=b"")
    checkpointer.commit_install(run)
    checkpointer.finish_install(run)
    assert checkpointer.base == base
    same(copy, sender)
    for _ in range(20):
        story.step(copy)
    copy.checkpoint()
    copy.close()
    same(DurableNode(str(tmp_path / "copy"), copy.log), DurableNode(str(tmp_path / "fresh"), copy.log))


def test_a_session_that_only_replays_is_still_used(tmp_path):
    log = []
    node = DurableNode(str(tmp_path / "n"), log)
    node.apply(CreateSpace("a"), OpenSession(), now_ms=1)
    tx = Tx("a", [(0, memoryview(b"x"))], ident=Seat(1, 1, 1))
    node.apply(tx, now_ms=10)
    node.checkpoint()
    node.apply(tx, now_ms=8_000)
    node.checkpoint()
    node.close()
    again = DurableNode(str(tmp_path / "n"), log)
    assert again.replayed == 0 and again.machine.registry.idempotency.sessions[1].used_ms == 8_000


def test_thin_undo_segments_are_copied_forward(tmp_path):
    """A window that stays for ever in an old segment does not keep the segment."""
    log = []
    node = DurableNode(str(tmp_path / "n"), log)
    node.apply(CreateSpace("quiet"), CreateSpace("busy"), now_ms=1)
    node.apply(write("quiet", 0, b"first"), now_ms=1)
    node.apply(write("quiet", 0, b"second"), now_ms=1)
    for number in range(200):
        node.apply(write("busy", 0, b"%04d" % number * 200), now_ms=1)
        if number % 20 == 19:
            node.checkpoint()
    assert node.storage.undo.bytes_allocated <= 6 * 16_384
    node.close()
    node = DurableNode(str(tmp_path / "n"), log)
    node.apply(Rollback("quiet", to_lvc=1), now_ms=1)
    assert node.machine.read("quiet", 0, None).data == b"first"


def test_a_long_window_is_joined_from_its_pieces(tmp_path):
    log = []
    node = DurableNode(str(tmp_path / "n"), log)
    node.apply(CreateSpace("a"), now_ms=1)
    for number in range(90):
        node.apply(write("a", 0, b"%d" % number), now_ms=1)
        node.checkpoint()
        pieces = node.storage.ledger.spaces[1].chunks
        assert len(pieces) <= 33 and sum(rows for _, rows in pieces) <= 33 + 20
    ledger = node.storage.ledger
    node.close()
    again = DurableNode(str(tmp_path / "n"), log)
    assert [row.log_seq for row in again.machine.wal("a", limit=100)] == list(range(71, 91))
    assert facts(again.storage.ledger) == facts(ledger)


def facts(ledger: Ledger) -> tuple[object, ...]:
    spaces = {uid: (space.snapshots, space.held, space.chunks) for uid, space in ledger.spaces.items()}
    owners = {owner: sorted(list_ids(ids)) for owner, ids in ledger.owners.items()}
    return ledger.next_leaf_id, ledger.leaf_refs, owners, spaces, ledger.events


@pytest.mark.parametrize("seed", range(3))
def test_the_ledger_in_memory_is_what_is_stored(tmp_path, seed):
    story = Story(seed + 50)
    node = DurableNode(str(tmp_path / "n"), [])
    for _ in range(15):
        for _ in range(8):
            story.step(node)
        node.checkpoint()
        loaded = load_checkpoint(node.storage.store, node.heaps)
        assert facts(loaded.ledger) == facts(node.storage.ledger)
        del loaded


def test_damage_and_other_versions_are_named(tmp_path):
    node = DurableNode(str(tmp_path / "n"), [])
    node.apply(CreateSpace("a"), write("a", 0, b"x"), TakeSnapshots(["a"]), now_ms=1)
    node.checkpoint()
    store = node.storage.store
    for table in ("leaf", "space", "snapshot", "window", "blob", "event", "state"):
        key, value = next((bytes(key), bytes(value)) for key, value in store.rows(table))
        bad = value[:-5] + bytes([value[-5] ^ 1]) + value[-4:]
        store.write(lambda table=table, key=key, bad=bad: [(table, [(key, bad)])])
        with pytest.raises(Corrupt) as damage:
            load_checkpoint(store, node.heaps)
        assert f"#{table}/" in damage.value.path
        store.write(lambda table=table, key=key, value=value: [(table, [(key, value)])])
    assert load_checkpoint(store, node.heaps).head.checkpoint_version == CHECKPOINT_VERSION
