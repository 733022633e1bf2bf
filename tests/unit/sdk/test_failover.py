"""Exactly once and three outcomes, whatever breaks."""

from __future__ import annotations

import asyncio
import gc
import random

import lastgood
import pytest

from tests.unit.sdk.conftest import QUICK
from tests.unit.sdk.fake_server import FakeCluster, FakeNode


async def test_calls_that_start_together_travel_together(room: lastgood.Space, cluster: FakeCluster) -> None:
    await room.write(0, b"session is open")
    cluster.messages.clear()
    await asyncio.gather(*(room.write(number, b"x") for number in range(50)))
    assert max(cluster.messages) == 50


@pytest.mark.parametrize("fault", ["drop_after", "drop_before"])
async def test_a_lost_connection_applies_once(room: lastgood.Space, cluster: FakeCluster, fault: str) -> None:
    await room.write(0, b"x")
    setattr(cluster, fault, 3)
    done = await asyncio.gather(*(room.write(number, b"y") for number in range(20)))
    assert sorted(one.lvc for one in done) == list(range(2, 22))
    assert (await room.info()).lvc == 21


@pytest.mark.parametrize("code", ["no_leader", "installing", "unknown_outcome", "rate_limited"])
async def test_retryable_refusals_are_retried_with_the_same_seat(
    room: lastgood.Space, cluster: FakeCluster, code: str
) -> None:
    cluster.refuse = [code] * 5
    assert (await room.write(0, b"x")).lvc == 1


async def test_the_next_node_takes_over(room: lastgood.Space, nodes: list[FakeNode], cluster: FakeCluster) -> None:
    await room.write(0, b"x")
    cluster.leader = 2
    await nodes[0].stop()
    done = await asyncio.gather(*(room.write(number, b"y") for number in range(10)))
    assert max(one.lvc for one in done) == 11


async def test_a_mute_node_is_left(room: lastgood.Space, cluster: FakeCluster) -> None:
    cluster.leader = 1
    cluster.mute = {0, 2}
    assert (await room.write(0, b"x")).lvc == 1


async def test_the_client_goes_to_the_leader(room: lastgood.Space, nodes: list[FakeNode], cluster: FakeCluster) -> None:
    cluster.leader = 2
    for _ in range(200):
        await room.write(0, b"x")
        if nodes[2].connections and not nodes[0].connections:
            return
        await asyncio.sleep(0.01)
    pytest.fail("still not at the leader")


async def test_an_ended_session_is_replaced_for_calls_never_applied(room: lastgood.Space, cluster: FakeCluster) -> None:
    await room.write(0, b"x")
    cluster.forget_sessions()
    done = await asyncio.gather(*(room.write(number, b"y") for number in range(10)))
    assert sorted(one.lvc for one in done) == list(range(2, 12))


async def test_an_ended_session_leaves_sent_calls_unknown(room: lastgood.Space, cluster: FakeCluster) -> None:
    await room.write(0, b"x")
    sessions = dict(cluster.sessions)
    cluster.drop_after = 1

    class Forgetful(dict[int, object]):
        def get(self, key: int, default: object = None) -> object:
            return sessions.pop(key, None)

    cluster.sessions = Forgetful()  # type: ignore[assignment]
    with pytest.raises(lastgood.UnknownOutcome):
        await room.write(0, b"applied, then the session is gone")
    assert (await room.info()).lvc == 2


async def test_no_node_is_unavailable(cluster: FakeCluster) -> None:
    node = FakeNode(cluster, 0)
    await node.start()
    await node.stop()
    async with lastgood.connect(node.url, timing=QUICK) as store:
        with pytest.raises(lastgood.Unavailable, match="no node answered"):
            await store.space("a", create=True)
        with pytest.raises(lastgood.Unavailable):
            await store.cluster()


async def test_lost_after_sending_is_unknown(cluster: FakeCluster) -> None:
    node = FakeNode(cluster, 0)
    await node.start()
    timing = lastgood.Timing(timeout_s=0.6, unreachable_s=0.2, connect_s=0.2, tick_s=0.01, heartbeat_s=0.2)
    async with lastgood.connect(node.url, timing=timing, chance=random.Random(1)) as store:
        room = await store.space("a", create=True)
        cluster.mute = {0}
        sent = room.write(0, b"x")
        while len(cluster.messages) < 3:
            await asyncio.sleep(0.01)
        await node.stop()
        with pytest.raises(lastgood.UnknownOutcome):
            await sent
        with pytest.raises(lastgood.Unavailable):
            await room.read(0, 1)


async def test_closing_ends_open_calls(nodes: list[FakeNode], cluster: FakeCluster) -> None:
    store = await lastgood.connect(nodes[0].url, timing=QUICK)
    room = await store.space("a", create=True)
    cluster.mute = {0}
    sent = room.write(0, b"x")
    count = len(cluster.messages)
    while len(cluster.messages) == count:
        await asyncio.sleep(0.01)
    unsent = room.write(0, b"y")
    await store.close()
    with pytest.raises(lastgood.UnknownOutcome):
        await sent
    with pytest.raises(lastgood.Unavailable):
        await unsent
    with pytest.raises(RuntimeError, match="closed"):
        room.write(0, b"z")


async def test_cancelled_calls_do_no_harm(room: lastgood.Space, cluster: FakeCluster) -> None:
    await room.write(0, b"x")
    writes = [asyncio.ensure_future(room.write(number, b"y")) for number in range(100)]
    for write in writes[::2]:
        write.cancel()
    done = await asyncio.gather(*writes, return_exceptions=True)
    assert sum(isinstance(one, asyncio.CancelledError) for one in done) == 50
    assert (await room.write(0, b"z")).lvc == 52
    gc.collect()


async def test_more_calls_than_the_window(room: lastgood.Space, cluster: FakeCluster) -> None:
    done = await asyncio.gather(*(room.write(0, b"x") for _ in range(3000)))
    assert sorted(one.lvc for one in done) == list(range(1, 3001))
    assert all(len(seats) <= 64 for seats in cluster.sessions.values())


async def test_large_writes_are_split_over_messages(room: lastgood.Space, cluster: FakeCluster) -> None:
    piece = bytes(1 << 20)
    done = await asyncio.gather(*(room.write(0, piece) for _ in range(9)))
    assert len(done) == 9
    assert max(cluster.messages) <= 4  # three, and a question who leads; the fake refuses more than 4 MiB


async def test_the_queue_is_bounded(nodes: list[FakeNode]) -> None:
    async with lastgood.connect(nodes[0].url, timing=QUICK, limits=lastgood.Limits(queue_calls_max=5)) as store:
        room = await store.space("a", create=True)
        held = [room.write(0, b"x") for _ in range(5)]
        with pytest.raises(lastgood.RateLimited):
            room.write(0, b"one too many")
        await asyncio.gather(*held)
        await room.write(0, b"there is room again")


@pytest.mark.parametrize(("status", "kind"), [(401, lastgood.Unauthorized), (403, lastgood.Forbidden)])
async def test_a_client_that_is_turned_away_hears_it_at_once(
    store: lastgood.Store, cluster: FakeCluster, status: int, kind: type[lastgood.Refused]
) -> None:
    cluster.turn_away = status
    with pytest.raises(kind, match="turn this client away"):
        await store.space("a", create=True)
    cluster.turn_away = 0
    await store.space("a", create=True)
