"""Installs between real state machines on real storage, over real sockets: the receiver becomes the sender's equal."""

from __future__ import annotations

import asyncio
import random
import time

import pytest

from cluster.consensus.seams import Base
from cluster.transfer.bulk_client import Link, PeerAddress, TransferSettings
from cluster.transfer.bulk_server import BulkServer
from cluster.transfer.fetcher import Fetcher
from cluster.transfer.limiter import Bucket
from cluster.transfer.loop_calls import LoopCalls
from cluster.transfer.registry import Registry
from cluster.transfer.source import StateSource
from node.commands import CreateSpace, Tx
from tests.unit.node.durable import DurableNode, Story, everything, no_fault


def same(found, expected):
    left, right = everything(found), everything(expected)
    for part in left:
        assert left[part] == right[part], part


def new_registry():
    return Registry(now=time.monotonic, wall_ms=lambda: 0, emit=lambda kind, facts: None)


class Sender:
    """Serves a DurableNode, whose thread is the loop's."""

    def __init__(self, node, calls, folder):
        self.registry = new_registry()
        self.source = StateSource(
            machine=node.machine, on_loop=calls, term_at=lambda index: 1, spool_folder=str(folder), wait=time.sleep
        )
        self.server = BulkServer(
            ("127.0.0.1", 0), self.source, cluster_id="c", node="n1", registry=self.registry, now=time.monotonic
        )
        self.server.start()
        self.peer = PeerAddress("n1", *self.server.address)


class Receiver:
    def __init__(self, folder, calls, log=None, fault=no_fault):
        self.node = DurableNode(str(folder), log if log is not None else [], fault=fault)
        self.registry = new_registry()
        self.peers = []
        self.fetcher = Fetcher(
            machine=self.node.machine,
            checkpointer=self.node.checkpointer,
            heaps=self.node.heaps,
            disk=self.node.disk,
            folder=str(folder),
            calls=calls,
            peers=lambda: self.peers,
            registry=self.registry,
            link=Link("c", "n2", Bucket(0, time.monotonic), time.monotonic, TransferSettings()),
            new_id=lambda: f"t{random.randrange(1 << 30)}",
        )

    async def install(self, sender, index):
        self.peers = [sender.peer]
        base = await asyncio.wait_for(self.fetcher.fetch(Base(index, 1, index - 1, 1, b""), "n1"), 60)
        self.node.log.clear()
        return base


@pytest.fixture
async def calls():
    made = LoopCalls(asyncio.get_running_loop())
    yield made
    made.close()


def play(story, node, steps):
    for _ in range(steps):
        story.step(node)


@pytest.mark.parametrize("seed", range(4))
async def test_an_empty_node_becomes_the_senders_equal_and_stays_so(tmp_path, calls, seed):
    story = Story(seed)
    first = DurableNode(str(tmp_path / "first"), [])
    play(story, first, 80)
    sender = Sender(first, calls, tmp_path)
    receiver = Receiver(tmp_path / "second", calls)
    base = await receiver.install(sender, 10)
    assert base.index == 80 and base.manifest_digest
    same(receiver.node, first)
    await goes_on_alike(tmp_path, story, first, receiver.node)
    sender.server.stop()


async def goes_on_alike(tmp_path, story, first, second):
    """The same entries give the same, also after a restart from the checkpoint that the install made."""
    second.log[:] = list(first.log)
    for _ in range(30):
        story.step(first)
        second.log.append(first.log[-1])
        second._apply(len(second.log), second.log[-1])
    same(second, first)
    folder = second.storage.store.path.rsplit("/", 2)[0]
    second.close()
    again = DurableNode(folder, list(first.log))
    assert again.replayed == 30
    same(again, first)


@pytest.mark.parametrize("seed", range(4, 8))
async def test_a_node_that_lags_gets_what_it_lacks(tmp_path, calls, seed):
    story = Story(seed)
    first = DurableNode(str(tmp_path / "first"), [])
    play(story, first, 60)
    receiver = Receiver(tmp_path / "second", calls, list(first.log))
    same(receiver.node, first)
    receiver.node.checkpoint()
    play(story, first, 30)
    sender = Sender(first, calls, tmp_path)
    await receiver.install(sender, 90)
    same(receiver.node, first)
    await goes_on_alike(tmp_path, story, first, receiver.node)
    sender.server.stop()


async def test_a_delta_of_a_space_that_lags_costs_hardly_more_than_what_changed(tmp_path, calls):
    rng = random.Random(3)
    first = DurableNode(str(tmp_path / "first"), [])
    first.apply(CreateSpace("s", policy={"undo_bytes": 4096}), now_ms=1)
    for at in range(16):
        first.apply(Tx("s", [(at << 20, memoryview(rng.randbytes(1 << 20)))]), now_ms=2)
    receiver = Receiver(tmp_path / "second", calls, list(first.log))
    pages = rng.sample(range(4096), 614)
    for page in pages:
        first.apply(Tx("s", [(page * 4096, memoryview(rng.randbytes(4096)))]), now_ms=3)
    sender = Sender(first, calls, tmp_path)
    await receiver.install(sender, 10)
    same(receiver.node, first)
    (row,) = receiver.registry.rows()
    assert row.total_bytes == 614 * 4096
    assert sender.registry.counters.sent_bytes <= 1.02 * 614 * 4096 + 40_000
    sender.server.stop()


async def test_writes_go_on_at_the_sender_while_it_serves(tmp_path, calls):
    rng = random.Random(3)
    first = DurableNode(str(tmp_path / "first"), [])
    first.apply(CreateSpace("s", policy={"undo_bytes": 4096}), now_ms=1)
    for at in range(8):
        first.apply(Tx("s", [(at << 20, memoryview(rng.randbytes(1 << 20)))]), now_ms=2)
    sender = Sender(first, calls, tmp_path)
    receiver = Receiver(tmp_path / "second", calls)
    log = list(first.log)
    install = asyncio.create_task(receiver.install(sender, 5))
    while not install.done():
        first.apply(Tx("s", [(rng.randrange(8 << 20), memoryview(rng.randbytes(100)))]), now_ms=3)
        if len(first.log) % 50 == 0:
            first.checkpoint()
        await asyncio.sleep(0)
    base = await install
    twin = DurableNode(str(tmp_path / "twin"), [*log, *first.log[len(log) : base.index]])
    same(receiver.node, twin)
    sender.server.stop()


async def test_an_install_that_the_log_overtook_changes_nothing(tmp_path, calls):
    story = Story(11)
    first = DurableNode(str(tmp_path / "first"), [])
    play(story, first, 40)
    sender = Sender(first, calls, tmp_path)
    receiver = Receiver(tmp_path / "second", calls)
    task = asyncio.create_task(receiver.install(sender, 10))
    while sender.registry.counters.sent_bytes == 0:
        await asyncio.sleep(0)
    for index, raw in enumerate(first.log):
        receiver.node._apply(index + 1, raw)
    await task
    same(receiver.node, first)
    assert not receiver.fetcher._landing.exists
    sender.server.stop()


async def test_what_an_unfinished_install_left_is_let_go_when_the_log_was_enough(tmp_path, calls):
    first = DurableNode(str(tmp_path / "first"), [])
    play(Story(12), first, 40)
    sender = Sender(first, calls, tmp_path)
    receiver = Receiver(tmp_path / "second", calls)
    receiver.fetcher._landing.open()
    receiver.fetcher._landing.name("t")
    receiver.node.close()
    again = Receiver(tmp_path / "second", calls, list(first.log))
    assert again.fetcher._landing.exists
    again.fetcher.drop_leftovers()
    assert not again.fetcher._landing.exists
    same(again.node, first)
    sender.server.stop()


STEPS = ["frozen", "hashed", "heaps synced", "undo synced", "written leaf", "written space", "before commit",
         "committed", "released"]  # fmt: skip


class Cut(BaseException):
    """The process is killed here."""


@pytest.mark.parametrize("step", STEPS)
async def test_a_kill_at_any_step_of_the_commit_leaves_the_old_state_or_the_new(tmp_path, calls, step):
    story = Story(21)
    first = DurableNode(str(tmp_path / "first"), [])
    play(story, first, 60)
    old_log = list(first.log)
    armed = []

    def fault(name):
        if armed and name == step:
            raise Cut

    receiver = Receiver(tmp_path / "second", calls, list(old_log), fault)
    assert receiver.node.checkpoint()
    play(story, first, 30)
    sender = Sender(first, calls, tmp_path)
    armed.append(True)
    with pytest.raises(Cut):
        await receiver.install(sender, 90)
    receiver.node.close()
    new = step in ("committed", "released")
    again = Receiver(tmp_path / "second", calls, list(first.log) if new else list(old_log))
    assert again.node.replayed == 0
    same(again.node, first if new else DurableNode(str(tmp_path / "old"), list(old_log)))
    if not new:
        await again.install(sender, 90)
        same(again.node, first)
        assert sender.registry.rows()[0].done_bytes == 0, "a verified page was asked for twice"
    await goes_on_alike(tmp_path, story, first, again.node)
    sender.server.stop()
