"""What a node's parts say about themselves when somebody asks for metrics."""

from __future__ import annotations

from cluster.consensus.replica import Replica
from cluster.metrics import Metrics
from node.state import StateMachine
from wal.disk import Disk
from wal.journal import RaftJournal


class NodeGauges:
    """A sampler for `Metrics.sample_with`. Reads numbers that are there; walks spaces, never pages."""

    def __init__(
        self, *, replica: Replica, machine: StateMachine, journal: RaftJournal, disk: Disk, folder: str
    ) -> None:
        self._replica = replica
        self._machine = machine
        self._journal = journal
        self._disk = disk
        self._folder = folder

    def __call__(self, metrics: Metrics) -> None:
        replica, machine, registry = self._replica, self._machine, self._machine.registry
        metrics.set("applied_index", max(machine.applied_index, replica.applied_index))
        metrics.set("commit_index", replica.commit_index)
        metrics.set("raft_term", replica.term)
        metrics.set("raft_is_leader", 1 if replica.role == "leader" else 0)
        metrics.set("raft_peers_reachable", sum(1 for peer in replica.peers() if peer.reachable))
        metrics.set("journal_bytes", self._journal.bytes_kept)
        metrics.set("journal_first_index", self._journal.first_index)
        metrics.counters["journal_syncs"] = replica.syncs
        metrics.set("undo_bytes", registry.book.bytes)
        metrics.set("spaces", len(registry.by_name))
        metrics.set("snapshots", sum(len(space.snapshots) for space in registry.by_name.values()))
        metrics.set("sessions", len(registry.idempotency.sessions))
        metrics.set("idempotency_keys", len(registry.idempotency.keys))
        metrics.set("heap_bytes", sum(heap.slots * heap.page_size for heap in registry.heaps.heaps.values()))
        metrics.set("disk_free_bytes", self._disk.free_bytes(self._folder))
