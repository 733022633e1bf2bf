"""One running node: its parts made in order, joined, started, and stopped in the opposite order."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from cluster.api.server import ApiRunner, serve
from cluster.batcher import Batcher, BatchLimits, Stamper
from cluster.config import NodeConfig, split_address
from cluster.consensus.identity import Identity, load_or_create
from cluster.consensus.replica import Replica, ReplicaConfig
from cluster.consensus.seams import Base
from cluster.datalock import DataLock
from cluster.gauges import NodeGauges
from cluster.keeper import CheckpointKeeper, seam_base
from cluster.log import get_log
from cluster.machine import ConsensusMachine
from cluster.metrics import Metrics
from cluster.plants import features_for, proposer_for
from cluster.service.feed import EventFeed
from cluster.service.forward import Forwarder
from cluster.service.host import Host
from cluster.service.pipeline import WritePipeline
from cluster.service.service import NodeService
from cluster.storage import NodeStorage, limits_of
from cluster.transfer.registry import Registry
from cluster.transfers import NodeTransfers
from node.commands import Tick
from wal.disk import RealDisk

log = get_log("cluster.runtime")

HASH_THREADS: Final = 2
TICK_CHECK_S: Final = 0.1
CATCH_UP_RETRY_S: Final = 0.05


def wall_ms() -> int:
    """Wall clock in milliseconds; for display only."""
    return time.time_ns() // 1_000_000


class NodeRuntime:
    """Made by `start`; runs on the loop that called it. `on_fatal` is called once, when the node must end."""

    def __init__(self, config: NodeConfig, on_fatal: Callable[[BaseException], None]) -> None:
        self.config = config
        self._on_fatal = on_fatal
        self._folder = Path(config.data)
        self._pool = ThreadPoolExecutor(HASH_THREADS, thread_name_prefix="hash")
        self._tasks: list[asyncio.Task[None]] = []
        self.metrics = Metrics(env=config.env, cluster=config.cluster)

    async def start(self) -> None:
        """Raises FolderBusy, WrongFolder, Corrupt, FailStop or OSError; nothing listens then."""
        loop = self._loop = asyncio.get_running_loop()
        config = self.config
        self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = DataLock.take(self._folder)
        disk = RealDisk()
        identity = load_or_create(disk, str(self._folder), cluster_id=config.cluster_id, node_id=config.id)
        self.storage = NodeStorage(config, disk, self._pool, loop.call_soon_threadsafe)
        self.machine, self.journal = self.storage.machine, self.storage.journal
        base = self.storage.stored.base
        self.consensus_machine = ConsensusMachine(
            self.machine, base=None if base is None else seam_base(base), install=self._install
        )
        self.replica = self._make_replica(identity)
        self.keeper = CheckpointKeeper(config, self.consensus_machine, self.replica, self.metrics)
        checkpointer = self.storage.make_checkpointer(
            self._pool, loop.call_soon_threadsafe, self.keeper.on_durable, self._fatal
        )
        self.keeper.attach(checkpointer)
        self.feed = EventFeed(node_id=config.id, wall_ms=wall_ms)
        self.transfers = NodeTransfers(
            config=config,
            disk=disk,
            storage=self.storage,
            checkpointer=checkpointer,
            registry=Registry(now=time.monotonic, wall_ms=wall_ms, emit=self._transfer_event),
            loop=loop,
        )
        self.host = self._make_host(loop)
        self.service = NodeService(self.host)
        self.machine.on_event(lambda event: self.feed.signal())
        self.replica.on_role_change = self._role_changed
        self.replica.on_sync = self.metrics.journal_fsync.observe
        self.transfers.start()
        await self.replica.start()
        self.api: ApiRunner = await serve(
            self.service,
            listen=split_address(config.http_listen, name="http_listen"),
            metrics=self.metrics,
            allowed_hosts=self._allowed_hosts(),
        )
        self.metrics.sample_with(self._sample)
        self.metrics.sample_with(
            NodeGauges(
                replica=self.replica, machine=self.machine, journal=self.journal, disk=disk, folder=str(self._folder)
            )
        )
        self.metrics.sample_with(self.transfers.sample)
        jobs = (self._tick_when_due(), self._catch_up(), self.keeper.run())
        self._tasks = [loop.create_task(job) for job in jobs]
        log.info("node.started", http=self.api.url, incarnation=identity.incarnation)

    def _make_replica(self, identity: Identity) -> Replica:
        config, limits = self.config, limits_of(self.config)
        return Replica(
            config=ReplicaConfig(
                node_id=config.id,
                cluster_id=config.cluster_id,
                incarnation=identity.incarnation,
                listen=split_address(config.raft_listen, name="raft_listen"),
                peers={peer.id: split_address(peer.raft, name="raft") for peer in config.others},
                heartbeat_s=config.heartbeat_ms / 1000,
                election_min_s=config.election_ms_min / 1000,
                election_max_s=config.election_ms_max / 1000,
                fallback_s=config.leader_fallback_ms / 1000,
                limits={name: getattr(limits, name) for name in limits.__struct_fields__},
                features=features_for(config.plant),
            ),
            journal=self.journal,
            machine=self.consensus_machine,
            now=time.monotonic,
            random=random.Random(random.SystemRandom().getrandbits(128)).random,
            wall_ms=wall_ms,
            on_fatal=self._fatal,
            has_room=self.can_accept,
        )

    def can_accept(self, raw: bytes) -> bool:
        """Before an entry is journalled. Where there is none, a checkpoint is what frees some."""
        if self.machine.can_accept(raw):
            return True
        self.keeper.wanted = True
        return False

    def _make_host(self, loop: asyncio.AbstractEventLoop) -> Host:
        config = self.config
        limits = BatchLimits(
            batch_bytes_max=config.batch_bytes_max,
            batch_operations_max=config.batch_operations_max,
            queue_bytes_max=config.queue_bytes_max,
            queue_operations_max=config.queue_operations_max,
            in_flight_max=config.batches_in_flight_max,
        )
        self.stamper = Stamper(lambda: time.monotonic() * 1000)
        pipeline = WritePipeline(
            batcher=Batcher(limits),
            stamper=self.stamper,
            proposer=proposer_for(config.plant, self.replica),
            room=self,
            wall_ms=wall_ms,
            call_soon=loop.call_soon,
            on_batch=self._batch_done,
        )
        urls = {peer.id: peer.http for peer in config.others}
        forwarder = Forwarder(node_id=config.id, url_of=urls.get, timeout_s=config.request_timeout_ms / 1000)
        return Host(
            config=config,
            replica=self.replica,
            machine=self.machine,
            pipeline=pipeline,
            forwarder=forwarder,
            metrics=self.metrics,
            feed=self.feed,
            transfers=self.transfers.registry,
        )

    def _allowed_hosts(self) -> list[str]:
        advertised = self.config.advertised.http.split("//", 1)[1].split("/", 1)[0]
        host, _ = split_address(advertised, name="http")
        return [*self.config.allowed_hosts, host]

    # ------------------------------------------------------------ running

    def _role_changed(self) -> None:
        replica = self.replica
        self.metrics.role = replica.role
        if replica.role == "leader":
            self.stamper.lead(self.machine.now_ms)
        else:
            self.host.pipeline.lost_leadership()
        if replica.leader != getattr(self, "_leader_told", None):
            self._leader_told = replica.leader
            self.metrics.add("leader_changes")
            self.feed.add_own("leader.changed", index=replica.commit_index, leader=replica.leader, term=replica.term)

    def _batch_done(self, operations: int, seconds: float) -> None:
        self.metrics.batch_operations.observe(operations)
        self.metrics.commit_latency.observe(seconds)

    def _transfer_event(self, event_type: str, facts: dict[str, Any]) -> None:
        """From transfer threads."""
        self._loop.call_soon_threadsafe(lambda: self.feed.add_own(event_type, **facts))

    async def _tick_when_due(self) -> None:
        """The leader proposes a tick when something is due and no other command brings the time along."""
        while True:
            await asyncio.sleep(TICK_CHECK_S)
            due = self.machine.next_due_ms()
            leads = self.replica.role == "leader" and self.replica.accepting_writes
            if leads and due is not None and due <= self.stamper.stamp() and not len(self.host.pipeline.batcher):
                self.host.pipeline.submit(Tick(), 0, lambda outcome: None)

    async def _catch_up(self) -> None:
        """Ready begins when everything that was committed at start is applied here: one ReadIndex tells."""
        done = asyncio.Event()
        while not self.host.caught_up:
            done.clear()

            def answered(index: int | None) -> None:
                if index is not None:
                    self.host.caught_up = True
                done.set()

            self.replica.read_barrier(answered)
            await done.wait()
            if not self.host.caught_up:
                await asyncio.sleep(CATCH_UP_RETRY_S)
        log.info("node.ready", applied=self.machine.applied_index, leader=self.replica.leader)

    def _sample(self, metrics: Metrics) -> None:
        metrics.set("batch_queue_operations", len(self.host.pipeline.batcher))
        metrics.set("batch_queue_bytes", self.host.pipeline.batcher.queued_bytes)

    async def _install(self, base: Base, source: str) -> Base:
        """Consensus asks for a state that the journals no longer lead to."""
        installed = await self.transfers.install(base, source)
        self.feed.signal()
        return installed

    def _fatal(self, error: BaseException) -> None:
        log.error("node.fatal", error=error)
        self._on_fatal(error)

    # ------------------------------------------------------------ stopping

    async def stop(self) -> None:
        """Refuses new work, hands leadership over, closes what is open. Idempotent."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.feed.close()
        await self.replica.stop()
        self.transfers.stop()
        await self.api.stop()
        await self.host.forwarder.close()
        await self.service.close()
        self._pool.shutdown(wait=True, cancel_futures=True)
        self.storage.close()
        self._lock.release()
        log.info("node.stopped")
