from __future__ import annotations

import random
from collections.abc import AsyncIterator

import lastgood
import pytest

from tests.unit.sdk.fake_server import FakeCluster, FakeNode

QUICK = lastgood.Timing(
    timeout_s=5.0,
    unreachable_s=0.4,
    connect_s=0.5,
    heartbeat_s=0.4,
    stall_s=0.3,
    tick_s=0.01,
    leader_check_s=0.05,
    reconnect_min_s=0.005,
    reconnect_max_s=0.02,
)


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
async def nodes(cluster: FakeCluster) -> AsyncIterator[list[FakeNode]]:
    """Three fake nodes that share a state."""
    made = [FakeNode(cluster, number) for number in range(3)]
    for node in made:
        await node.start()
    cluster.urls = [node.url for node in made]
    yield made
    for node in made:
        await node.stop()


@pytest.fixture
async def store(nodes: list[FakeNode]) -> AsyncIterator[lastgood.Store]:
    async with lastgood.connect(
        [node.url for node in nodes], timing=QUICK, limits=lastgood.Limits(retry_min_s=0.005), chance=random.Random(7)
    ) as store:
        yield store


@pytest.fixture
async def room(store: lastgood.Store) -> lastgood.Space:
    return await store.space("room", create=True)
