"""What a program sees: spaces, bytes, snapshots, rollback, files, events."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import lastgood
import pytest
from lastgood.files import held_snapshot, stream_out

from tests.unit.sdk.fake_server import FakeCluster


async def test_write_read_snapshot_rollback(room: lastgood.Space) -> None:
    first = await room.write(0, b"hello")
    before = await room.snapshot(label="good")
    await room.write(0, b"WRONG")
    assert await room.read(0, 5) == b"WRONG"
    done = await room.rollback(before)
    assert await room.read(0, 5) == b"hello"
    assert (done.from_lvc, done.to_lvc, done.lvc) == (first.lvc + 1, first.lvc, first.lvc + 2)
    assert (await room.write(5, b"!")).epoch == done.epoch == room.epoch
    assert await room.read() == b"hello!"


async def test_rollback_by_label_id_and_lvc(room: lastgood.Space) -> None:
    await room.write(0, b"a")
    snapshot = await room.snapshot(label="v1")
    for target in ("v1", "@v1", snapshot.id, str(snapshot.id)):
        await room.write(0, b"b")
        assert (await room.rollback(target)).snapshot == snapshot.id
        assert await room.read(0, 1) == b"a"
    await room.write(0, b"b")
    dry = await room.rollback_dry_run(lvc=1)
    assert (dry.pages_changed, dry.ranges) == (1, [(0, 1)])
    assert (await room.rollback(lvc=1)).to_lvc == 1
    with pytest.raises(ValueError, match="either a snapshot or an LVC"):
        await room.rollback("v1", lvc=1)
    with pytest.raises(lastgood.OutsideWindow) as refused:
        await room.rollback(lvc=77)
    assert refused.value.oldest_lvc == 0


async def test_unsendable(room: lastgood.Space) -> None:
    beside = [room.write(10 * number, b"beside") for number in range(3)]
    too_big = room.write(2**70, b"x")
    with pytest.raises(lastgood.BadRequest, match="putData"):
        await too_big
    with pytest.raises(lastgood.BadRequest, match="createSnapshot"):
        await room.snapshot(label="\ud800")
    with pytest.raises(lastgood.TooLarge, match="createSnapshot"):
        await room.snapshot(label="x" * (5 << 20))
    await asyncio.gather(*beside)
    assert (await room.write(0, b"after")).lvc == 4


async def test_a_handle_is_bound_to_its_epoch(store: lastgood.Store, room: lastgood.Space) -> None:
    await room.write(0, b"a")
    other = await store.space("room")
    await other.rollback(lvc=0)
    with pytest.raises(lastgood.StaleEpoch) as refused:
        await room.write(0, b"late")
    assert refused.value.status == 409
    assert refused.value.extra["epoch"] == other.epoch
    with pytest.raises(lastgood.StaleEpoch):
        await room.snapshot()
    found = await room.resync()
    assert found.epoch == other.epoch == room.epoch
    await room.write(0, b"on purpose")


async def test_tx_with_conditions(room: lastgood.Space) -> None:
    done = await room.tx([(0, b"ab"), (1, bytearray(b"c"))], size=10, if_lvc=0, if_pages={0: 0}, tx_id="t")
    assert done.tx_id == "t"
    assert await room.read() == b"ac" + bytes(8)
    with pytest.raises(lastgood.Conflict):
        await room.tx([(0, b"x")], if_lvc=0)
    with pytest.raises(ValueError, match="needs a write or a size"):
        room.tx()
    with pytest.raises(lastgood.TooLarge):
        room.tx([(0, bytes(65 << 20))])


async def test_a_write_keeps_the_bytes_of_the_moment_it_was_called(room: lastgood.Space) -> None:
    buffer = bytearray(b"first")
    pending = room.write(0, buffer)
    buffer[:] = b"later"
    await pending
    assert await room.read(0, 5) == b"first"


async def test_large_transactions_go_by_http_once(room: lastgood.Space, cluster: FakeCluster) -> None:
    cluster.drop_after = 1
    piece = os.urandom(5 << 20)
    done = await room.write(3, piece)
    assert done.lvc == 1  # the first attempt was applied, the second one met its key
    got = await room.read_version(3, len(piece))
    assert got.data == piece
    assert (got.lvc, got.epoch) == (1, room.epoch)


async def test_reads_at_an_lvc_and_of_a_snapshot(room: lastgood.Space) -> None:
    await room.write(0, b"one")
    snapshot = await room.snapshot("s")
    await room.write(0, b"two")
    assert await room.read(0, 3, at_lvc=1) == b"one"
    assert await room.read(0, 3, snapshot=snapshot) == b"one"
    assert await room.read(snapshot="s") == b"one"
    got = await room.read_version(1, 2)
    assert (got.data, got.offset, got.size, got.lvc) == (b"wo", 1, 3, 2)
    with pytest.raises(lastgood.RangeNotSatisfiable):
        await room.read(4, 1)


async def test_spaces_are_made_listed_forked_and_deleted(store: lastgood.Store) -> None:
    names = [f"s-{number:04}" for number in range(1203)]
    await asyncio.gather(*(store.space(name, create=True) for name in names))
    assert [info.name async for info in store.spaces("s-")] == names
    first = await store.space("s-0000")
    with pytest.raises(lastgood.Conflict):
        await store.space("s-0000", create=True, page_size=8192)
    await first.write(0, b"forked")
    fork = await store.space("fork", create=True, policy=lastgood.Policy(ring=3), fork=await first.snapshot())
    assert await fork.read() == b"forked"
    assert (await fork.info()).policy.ring == 3
    await first.delete()
    with pytest.raises(lastgood.NotFound):
        await store.space("s-0000")
    with pytest.raises(ValueError, match="create=True"):
        await store.space("x", page_size=4096)


async def test_snapshots_are_listed_pinned_compared_and_deleted(store: lastgood.Store, room: lastgood.Space) -> None:
    a = await room.snapshot("a", pin=True)
    await room.write(4096, b"x")
    b = await room.snapshot("b")
    assert [one.id async for one in room.snapshots()] == [b.id, a.id]
    assert (await room.diff(a, b)).ranges == (await room.diff("a")).ranges
    assert (await room.diff(a, b)).pages_changed == 2
    with pytest.raises(lastgood.Pinned):
        await room.delete_snapshot(a)
    assert (await room.pin(a, "me")).pins == ["default", "me"]
    assert (await room.unpin(a, "me")).pins == ["default"]
    await room.unpin(a)
    await room.delete_snapshot(a)
    with pytest.raises(lastgood.NotFound):
        await room.get_snapshot("a")
    await store.space("room-2", create=True)
    cut = await store.snapshot_many(prefix="room", label="cut")
    assert [one.space for one in cut.snapshots] == ["room", "room-2"]


async def test_wal_follows_short_pages(room: lastgood.Space) -> None:
    for number in range(5):
        await room.write(number, bytes([number + 1]))
    records = [record async for record in room.wal()]
    assert [record.log_seq for record in records] == [1, 2, 3, 4, 5]
    assert [record.offset async for record in room.wal(2, limit=3)] == [1, 2, 3]
    assert [page.page async for page in room.pages()] == [0]


async def test_import_and_export(room: lastgood.Space, tmp_path: Path) -> None:
    source, target = tmp_path / "in", tmp_path / "out"
    content = os.urandom(3 << 20) + bytes(2 << 20) + os.urandom(12345)
    source.write_bytes(content)
    await room.write(6 << 20, b"more than the file has")
    steps: list[tuple[int, int]] = []
    done = await room.import_file(source, in_flight_bytes_max=2 << 20, progress=lambda *step: steps.append(step))
    assert steps[-1] == (len(content), len(content)) and len(steps) == 6
    assert done.rollback_lvc == 1
    exported = await room.export_file(target)
    assert target.read_bytes() == content
    assert exported.bytes == len(content)
    assert [one.id async for one in room.snapshots()] == [done.snapshot]  # export left nothing behind
    assert (await room.get_snapshot(done.snapshot)).pins == []
    await room.export_file(target, snapshot=done.snapshot)
    assert target.stat().st_size == (6 << 20) + 22
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in", "out"]


async def test_zeros_are_not_sent_to_a_blank_space(room: lastgood.Space, cluster: FakeCluster, tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(bytes(5 << 20) + b"end")
    await room.import_file(tmp_path / "f")
    assert [op for op, _ in cluster.applied].count("putData") == 1
    assert await room.read() == bytes(5 << 20) + b"end"


async def test_a_failed_import_names_the_way_back(room: lastgood.Space, cluster: FakeCluster, tmp_path: Path) -> None:
    await room.write(0, b"before")
    (tmp_path / "f").write_bytes(os.urandom(5 << 20))
    cluster.fail_writes_from = 3 << 20
    with pytest.raises(lastgood.ImportFailed) as failed:
        await room.import_file(tmp_path / "f", in_flight_bytes_max=1 << 20)
    assert isinstance(failed.value.__cause__, lastgood.StorageFull)
    assert (failed.value.rollback_lvc, failed.value.outcome_known) == (1, True)
    assert "roll back to LVC 1" in str(failed.value)
    await room.rollback(lvc=failed.value.rollback_lvc)
    assert await room.read() == b"before"


async def test_events_resume_after_a_break(store: lastgood.Store, cluster: FakeCluster) -> None:
    def event(seq: int) -> dict[str, object]:
        return {"seq": seq, "index": seq, "type": "snapshot.created", "space": "a", "at": "t", "snapshot": seq}

    cluster.events = [event(1), event(2), event(3)]
    cluster.drop_after = 1
    seen = []
    async for got in store.events(after=0, types=["snapshot.created"]):
        seen.append(got.seq)
        if got.seq == 3:
            cluster.events.append(event(4))
        if got.seq == 4:
            assert got.facts == {"snapshot": 4}
            break
    assert seen == [1, 2, 3, 4]


async def test_cluster_status(store: lastgood.Store) -> None:
    status = await store.cluster()
    assert status.leader == "n1"
    assert [node.role for node in status.nodes] == ["leader", "follower", "follower"]
    assert await store.transfers() == []


async def test_an_export_survives_a_rollback_by_somebody_else(
    store: lastgood.Store, room: lastgood.Space, tmp_path: Path
) -> None:
    await room.write(0, b"good")
    other = await store.space("room")
    async with held_snapshot(room, None) as source:
        await other.rollback(lvc=0)
        assert [piece async for piece in stream_out(room, source)] == [b"good"]
    assert [one.reason async for one in other.snapshots() if one.id == source.id] == []
