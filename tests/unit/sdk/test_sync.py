"""The blocking client, against a fake cluster on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import lastgood
import pytest

from tests.unit.sdk.conftest import QUICK
from tests.unit.sdk.fake_server import FakeCluster, FakeNode


@pytest.fixture
def url(cluster: FakeCluster) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    node = FakeNode(cluster, 0)
    asyncio.run_coroutine_threadsafe(node.start(), loop).result()
    yield node.url
    asyncio.run_coroutine_threadsafe(node.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_the_blocking_client(url: str) -> None:
    with lastgood.sync.connect(url, timing=QUICK) as store:
        room = store.space("room", create=True)
        room.write(0, b"good")
        before = room.snapshot("good")
        room.tx([(0, b"baad")])
        assert room.rollback_dry_run(before).pages_changed == 1
        room.rollback("good")
        assert room.read() == b"good" == room.read(0, 4, snapshot=before)
        assert [one.id for one in room.snapshots()] == [2, 1]
        assert [record.offset for record in room.wal()] == [0, 0]
        assert [one.name for one in store.spaces()] == ["room"]
        assert store.cluster().term == 3
        with pytest.raises(lastgood.NotFound):
            room.get_snapshot("bad")
    store.close()
    with pytest.raises(RuntimeError, match="closed"):
        room.read()


def test_threads_share_a_store(url: str, cluster: FakeCluster) -> None:
    with lastgood.sync.connect(url, timing=QUICK) as store, ThreadPoolExecutor(16) as pool:
        room = store.space("room", create=True)
        done = list(pool.map(lambda number: room.write(number, b"x").lvc, range(200)))
        assert sorted(done) == list(range(1, 201))


def test_events_stop_when_the_reader_does(url: str, cluster: FakeCluster) -> None:
    cluster.events = [{"seq": 1, "index": 1, "type": "t", "space": None, "at": None}]
    with lastgood.sync.connect(url, timing=QUICK) as store:
        for event in store.events(after=0):
            assert event.seq == 1
            break
