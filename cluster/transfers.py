"""Both directions of transfer on one node: the bulk listener that serves, and the installs that fetch."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from pathlib import Path
from typing import Final

from cluster.config import NodeConfig, split_address
from cluster.consensus.seams import Base
from cluster.log import get_log
from cluster.metrics import Metrics
from cluster.storage import NodeStorage
from cluster.transfer.bulk_client import Link, PeerAddress
from cluster.transfer.bulk_server import BulkServer
from cluster.transfer.fetcher import Fetcher
from cluster.transfer.limiter import Bucket
from cluster.transfer.loop_calls import LoopCalls
from cluster.transfer.registry import Registry
from cluster.transfer.source import StateSource
from node.checkpoint import Checkpointer
from wal.disk import Disk

log = get_log("cluster.transfers")
PROGRESS_FOLDER: Final = "transfer"


class NodeTransfers:
    """Made on the loop after recovery, before the first apply: what an unfinished install left is held first."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        disk: Disk,
        storage: NodeStorage,
        checkpointer: Checkpointer,
        registry: Registry,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._config = config
        self.registry = registry
        self._failures_told = 0
        self._calls = LoopCalls(loop)
        folder = Path(config.data) / PROGRESS_FOLDER
        disk.makedirs(str(folder))
        self._fetcher = Fetcher(
            machine=storage.machine,
            checkpointer=checkpointer,
            heaps=storage.heaps,
            disk=disk,
            folder=str(folder),
            calls=self._calls,
            peers=self._peers,
            registry=registry,
            link=Link(
                cluster_id=config.cluster_id,
                node=config.id,
                bucket=Bucket(config.transfer_bytes_per_s_max, time.monotonic),
                now=time.monotonic,
            ),
            new_id=lambda: secrets.token_hex(8),
        )
        self._server = BulkServer(
            split_address(config.bulk_listen, name="bulk_listen"),
            StateSource(
                machine=storage.machine,
                on_loop=self._calls,
                term_at=storage.term_at,
                spool_folder=str(folder),
                wait=threading.Event().wait,
            ),
            cluster_id=config.cluster_id,
            node=config.id,
            registry=registry,
            now=time.monotonic,
        )

    def start(self) -> None:
        """Listens. Raises OSError."""
        self._server.start()

    async def install(self, base: Base, source: str) -> Base:
        """See `cluster.consensus.replica.ReplicatedMachine.install`."""
        return await self._fetcher.fetch(base, source)

    def drop_leftovers(self) -> None:
        """This node has caught up without the install that it once began."""
        self._fetcher.drop_leftovers()

    def stop(self) -> None:
        """Ends both directions; what was received is kept for the next start."""
        self._fetcher.stop()
        self._server.stop()

    def sample(self, metrics: Metrics) -> None:
        """Counters of the transfer threads, when somebody asks for metrics."""
        counters = self.registry.counters
        metrics.transfer_bytes["in"] = counters.received_bytes
        metrics.transfer_bytes["out"] = counters.sent_bytes
        metrics.snapshot_send_rate = self.registry.send_rate()
        metrics.counters["transfer_resent_bytes"] = counters.resent_bytes
        metrics.counters["transfer_resumes"] = counters.resumes
        metrics.raft_snap_save_failures += counters.snap_save_failures - self._failures_told
        self._failures_told = counters.snap_save_failures
        running = [row for row in self.registry.rows() if row.state not in ("done", "failed")]
        metrics.set("transfers_running", len(running))

    def _peers(self) -> list[PeerAddress]:
        return [
            PeerAddress(peer.id, *split_address(peer.bulk, name=f"peers.{peer.id}.bulk"))
            for peer in self._config.others
        ]
