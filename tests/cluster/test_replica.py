"""Replicas over real sockets and real files, in one process: what the simulation can't show."""

from __future__ import annotations

import asyncio
import random
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest

from chaos.sim.disk import SimDisk
from cluster.consensus.identity import load_or_create
from cluster.consensus.replica import Committed, NoLeader, NotLeader, Replica, ReplicaConfig
from cluster.tls import contexts
from tests.unit.consensus.little_cluster import ListMachine
from wal.checks import FailStop
from wal.disk import RealDisk
from wal.journal import JournalConfig, RaftJournal

JOURNAL = JournalConfig(bytes_max=8 << 20, segment_bytes=1 << 20, cache_bytes=4 << 20)


class Machine(ListMachine):
    async def install(self, base: Any, source: str) -> Any:
        raise AssertionError("nobody lags here")


class Site:
    """Three replicas on ports of the kernel's choice. The greater id dials, so ports are known in time."""

    def __init__(self, folder: Any) -> None:
        self.folder, self.replicas, self.fatal = folder, {}, []
        self.ports: dict[str, int] = {}
        self.seen_by: dict[str, dict[str, int]] = {}  # node -> where it is told that others are
        self.tls: Callable[[str], Any] = lambda node_id: (None, None)

    async def start(self, node_id: str) -> Replica:
        disk = RealDisk()
        folder = str(self.folder / node_id)
        identity = load_or_create(disk, folder, cluster_id="test", node_id=node_id)
        seen = self.ports | self.seen_by.get(node_id, {})
        peers = {other: ("127.0.0.1", seen.get(other, 1)) for other in ("a", "b", "c") if other != node_id}
        listen = ("127.0.0.1", self.ports.get(node_id, 0))
        server_tls, client_tls = self.tls(node_id)
        config = ReplicaConfig(
            node_id, "test", identity.incarnation, listen, peers, server_tls=server_tls, client_tls=client_tls
        )
        replica = Replica(
            config=config,
            journal=RaftJournal.open(disk, folder + "/journal", JOURNAL),
            machine=Machine(),
            now=time.monotonic,
            random=random.Random(node_id).random,
            wall_ms=lambda: 0,
            on_fatal=self.fatal.append,
        )
        await replica.start()
        self.ports[node_id] = replica.port
        self.replicas[node_id] = replica
        return replica

    async def kill(self, node_id: str) -> None:
        """As SIGKILL looks from outside: the sockets close, nobody is asked."""
        replica = self.replicas.pop(node_id)
        replica._stopped = True
        replica._timer.cancel()
        await replica._network.stop()
        replica._syncer.stop()
        replica.journal.close()

    async def leader(self) -> Replica:
        await until(lambda: any(replica.accepting_writes for replica in self.replicas.values()))
        return next(replica for replica in self.replicas.values() if replica.accepting_writes)

    async def close(self) -> None:
        await asyncio.gather(*(replica.stop() for replica in self.replicas.values()))
        for replica in self.replicas.values():
            replica.journal.close()
        assert self.fatal == []


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)


async def propose(replica: Replica, command: bytes) -> Any:
    answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    replica.propose(command, answer.set_result)
    return await asyncio.wait_for(answer, 15)


@pytest.fixture
async def site(tmp_path: Any) -> Any:
    site = Site(tmp_path)
    for node_id in ("a", "b", "c"):
        await site.start(node_id)
    yield site
    await site.close()


async def retried(call: Callable[[], Awaitable[Any]]) -> Any:
    async with asyncio.timeout(5):
        while True:
            with suppress(NoLeader):
                return await call()
            await asyncio.sleep(0.01)


async def test_commit_and_read_on_every_member(site: Site) -> None:
    leader = await site.leader()
    outcome = await propose(leader, b"hello" * 50_000)
    assert isinstance(outcome, Committed)
    for replica in site.replicas.values():
        assert await retried(replica.read_index) >= outcome.index
        assert replica.machine.commands()[-1] == b"hello" * 50_000
    follower = next(replica for replica in site.replicas.values() if replica.role == "follower")
    assert await propose(follower, b"no") == NotLeader(leader.config.node_id)
    assert all(status.reachable and status.match_index for status in leader.peers())


async def test_many_commands_keep_their_order(site: Site) -> None:
    leader = await site.leader()
    commands = [b"%06d" % number * 200 for number in range(2000)]
    outcomes = await asyncio.gather(*(propose(leader, command) for command in commands))
    assert all(isinstance(outcome, Committed) for outcome in outcomes)
    for replica in site.replicas.values():
        await retried(replica.read_index)
        assert replica.machine.commands()[-2000:] == commands
    assert leader.syncs < 2000


async def test_a_killed_leader_is_replaced_and_comes_back(site: Site) -> None:
    leader = await site.leader()
    node_id = leader.config.node_id
    await propose(leader, b"before")
    started = time.monotonic()
    await site.kill(node_id)
    other = await site.leader()
    took = time.monotonic() - started
    assert isinstance(await propose(other, b"after"), Committed)
    back = await site.start(node_id)
    await until(lambda: back.machine.commands()[-1:] == [b"after"])
    assert took < 2.0 and b"before" in back.machine.commands()


async def test_a_stopped_leader_hands_over_first(site: Site) -> None:
    leader = await site.leader()
    await propose(leader, b"before")
    started = time.monotonic()
    assert await leader.move_leadership()
    other = await site.leader()
    assert other is not leader and time.monotonic() - started < 0.4


async def test_another_cluster_is_refused(site: Site, tmp_path: Any) -> None:
    await site.leader()
    disk = RealDisk()
    stranger = ReplicaConfig("d", "elsewhere", "x", ("127.0.0.1", 0), {"a": ("127.0.0.1", site.ports["a"])})
    replica = Replica(
        config=stranger,
        journal=RaftJournal.open(disk, str(tmp_path / "d"), JOURNAL),
        machine=Machine(),
        now=time.monotonic,
        random=random.Random(4).random,
        wall_ms=lambda: 0,
        on_fatal=site.fatal.append,
    )
    await replica.start()
    await until(lambda: "this is cluster test, not elsewhere" in (replica.peers()[0].problem or ""))
    await replica.stop()
    replica.journal.close()


def make_certificates(folder: Any, *names: str) -> None:
    """A CA and a certificate for each name; the last one is signed by another CA."""

    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for ca in ("ca", "other"):
        openssl("req", "-x509", *key, "-keyout", f"{ca}.key", "-out", f"{ca}.pem", "-subj", f"/CN={ca}", "-days", "2")
    for name in names:
        ca = "other" if name == names[-1] else "ca"
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        signed_by = ("-CA", f"{ca}.pem", "-CAkey", f"{ca}.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", f"{name}.csr", *signed_by, "-out", f"{name}.pem", "-days", "2")


async def test_mutual_tls_admits_the_node_that_the_certificate_names_and_no_other(tmp_path: Any) -> None:
    make_certificates(tmp_path, "a", "b", "stranger")
    shown = {"a": "a", "b": "b", "c": "b"}  # c shows b's certificate
    site = Site(tmp_path / "site")

    def tls(node_id: str) -> Any:
        name = shown[node_id]
        ca = str(tmp_path / "ca.pem")
        return contexts(cert=str(tmp_path / f"{name}.pem"), key=str(tmp_path / f"{name}.key"), ca=ca)

    site.tls = tls
    for node_id in ("a", "b", "c"):
        await site.start(node_id)
    await until(lambda: any(replica.role == "leader" for replica in site.replicas.values()))
    await until(lambda: "names b, not c" in str(site.replicas["c"].peers()[0].problem))
    assert site.replicas["a"].peers()[0].reachable and not site.replicas["a"].peers()[1].reachable
    await site.kill("c")
    shown["c"] = "stranger"
    stranger = await site.start("c")
    await until(lambda: stranger.peers()[0].problem is not None)
    await asyncio.sleep(0.5)
    assert not any(status.reachable for status in stranger.peers())
    await site.close()


class SlowLine:
    """A proxy that passes `rate` bytes a second each way."""

    def __init__(self, target: int, rate: int) -> None:
        self.target, self.rate = target, rate
        self.tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> int:
        self.server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return int(self.server.sockets[0].getsockname()[1])

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", self.target)
        for source, sink in ((reader, back), (there, writer)):
            task = asyncio.get_running_loop().create_task(self._pass(source, sink))
            self.tasks.add(task)

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.CancelledError):
            while piece := await source.read(max(1, self.rate // 50)):
                sink.write(piece)
                await sink.drain()
                await asyncio.sleep(len(piece) / self.rate)
        sink.close()

    async def stop(self) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await asyncio.sleep(0)


async def test_a_large_command_on_a_slow_line_costs_no_leader(tmp_path: Any) -> None:
    site = Site(tmp_path)
    await site.start("a")
    line = SlowLine(site.ports["a"], 1_500_000)
    site.seen_by["b"] = {"a": await line.start()}
    for node_id in ("b", "c"):
        await site.start(node_id)
    leader = await site.leader()
    await site.kill("c")
    await until(lambda: any(replica.accepting_writes for replica in site.replicas.values()))
    leader = await site.leader()
    term = leader.term
    outcomes = await asyncio.gather(*(propose(leader, bytes([number]) * 2_000_000) for number in range(3)))
    assert all(isinstance(outcome, Committed) for outcome in outcomes)
    assert leader.role == "leader" and leader.term == term
    await site.close()
    await line.stop()


async def test_a_failed_fsync_ends_the_node_and_acknowledges_nothing() -> None:
    disk, fatal, outcomes = SimDisk(seed=5), [], []
    replica = Replica(
        config=ReplicaConfig("a", "test", "a-1", ("127.0.0.1", 0), {}),
        journal=RaftJournal.open(disk, "/journal", JOURNAL),
        machine=Machine(),
        now=time.monotonic,
        random=random.Random(1).random,
        wall_ms=lambda: 0,
        on_fatal=fatal.append,
    )
    await replica.start()
    await until(lambda: replica.accepting_writes)
    disk.fail_sync = lambda path: True
    replica.propose(b"lost", outcomes.append)
    await until(lambda: fatal)
    replica.propose(b"late", outcomes.append)
    with pytest.raises(NoLeader):
        await replica.read_index()
    await replica.stop()
    assert isinstance(fatal[0], FailStop) and len(fatal) == 1
    assert not any(isinstance(outcome, Committed) for outcome in outcomes) and len(outcomes) == 2
