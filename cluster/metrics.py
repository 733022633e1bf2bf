"""Metrics of one node, cheap to update: plain numbers on the hot path, Prometheus families only when somebody asks.

All names are there from the start. Never a label per space. Everything happens on the event loop; what threads count is
fetched by a sampler.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any, Final

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

# 0.1 s · 2ⁿ, n = 0…7, as the dashboards know them, and finer ones below for our speed.
SNAPSHOT_BOUNDS_S: Final = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8,
)  # fmt: skip
LATENCY_BOUNDS_S: Final = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.128, 0.256, 0.512, 1.024, 4.096)
FSYNC_BOUNDS_S: Final = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
BATCH_BOUNDS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
ROLLBACK_WINDOW_S: Final = 300


class Histogram:
    """Counts of values by upper bound. `observe` is a bisection and three additions."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts, as Prometheus wants them."""
        running = 0
        rows: list[tuple[str, float]] = []
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            rows.append(("+Inf" if bound == float("inf") else str(float(bound)), running))
        return rows


class Window:
    """Sums of two numbers over the last `seconds`, at the grain of a second; at most `seconds` + 1 entries."""

    __slots__ = ("_clock_s", "_entries", "_seconds")

    def __init__(self, seconds: int, clock_s: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock_s = clock_s
        self._entries: deque[list[float]] = deque()

    def add(self, first: float, second: float) -> None:
        now = int(self._clock_s())
        if self._entries and self._entries[-1][0] == now:
            self._entries[-1][1] += first
            self._entries[-1][2] += second
        else:
            self._entries.append([now, first, second])
            self._drop(now)

    def sums(self) -> tuple[float, float]:
        self._drop(int(self._clock_s()))
        return sum(entry[1] for entry in self._entries), sum(entry[2] for entry in self._entries)

    def _drop(self, now: int) -> None:
        while self._entries and self._entries[0][0] <= now - self._seconds:
            self._entries.popleft()


def resident_bytes() -> int:
    """Resident memory of this process; 0 where /proc is not there."""
    try:
        with open("/proc/self/statm", encoding="ascii") as statm:
            return int(statm.read().split()[1]) * 4096
    except OSError:
        return 0


# name -> help. Attributes of Metrics without the prefix `lastgood_`; set them, or refresh them in a sampler.
GAUGES: Final[dict[str, str]] = {
    "applied_index": "Log index whose effects are complete on this node",
    "commit_index": "Log index known to be committed",
    "raft_term": "Current Raft term",
    "raft_is_leader": "1 on the leader, else 0",
    "raft_peers_reachable": "Peers that this node hears",
    "journal_bytes": "Bytes of the journal kept on disk",
    "journal_first_index": "Oldest log index in the journal",
    "checkpoint_index": "Log index of the newest durable checkpoint",
    "undo_bytes": "Bytes of the undo log that count towards its bound",
    "heap_bytes": "Bytes of the page heap on disk",
    "disk_free_bytes": "Room left on the data disk",
    "spaces": "Spaces",
    "snapshots": "Snapshots",
    "sessions": "SDK sessions open in the log",
    "idempotency_keys": "Idempotency keys kept",
    "batch_queue_operations": "Operations that wait for the next batch",
    "batch_queue_bytes": "Bytes that wait for the next batch",
    "stream_connections": "Open /v1/stream connections",
    "http_requests_open": "HTTP requests being answered",
    "event_streams": "Open server-sent event streams",
    "transfers_running": "Transfers that run now, both directions",
}
COUNTERS: Final[dict[str, str]] = {
    "replays": "Requests answered from the idempotency table",
    "checkpoints": "Checkpoints made durable",
    "journal_syncs": "Group fdatasyncs of the journal",
    "leader_changes": "Leader changes seen",
    "transfer_resent_bytes": "Bytes that a transfer asked for twice",
    "transfer_resumes": "Transfers that went on after a cut",
}


class Metrics(Collector):
    """All metrics of a node in a registry of their own. `env` and `cluster` label the rollback rate."""

    def __init__(
        self,
        *,
        env: str = "",
        cluster: str = "",
        clock_s: Callable[[], float] = time.monotonic,
        memory_bytes: Callable[[], int] = resident_bytes,
    ) -> None:
        self.env = env
        self.cluster = cluster
        self.role = "follower"
        self.raft_snap_save_failures = 0
        self.gauges: dict[str, float] = dict.fromkeys(GAUGES, 0)
        self.counters: dict[str, int] = dict.fromkeys(COUNTERS, 0)
        self.requests: dict[tuple[str, int], int] = {}
        self.snapshot_latency = {"ok": Histogram(SNAPSHOT_BOUNDS_S), "error": Histogram(SNAPSHOT_BOUNDS_S)}
        self.commit_latency = Histogram(LATENCY_BOUNDS_S)
        self.rollback_latency = Histogram(SNAPSHOT_BOUNDS_S)
        self.journal_fsync = Histogram(FSYNC_BOUNDS_S)
        self.batch_operations = Histogram(BATCH_BOUNDS)
        self.checkpoint_duration = Histogram(LATENCY_BOUNDS_S)
        self.transfer_bytes = {"in": 0, "out": 0}
        self.snapshot_send_rate = 0.0  # bytes/s that go out to other nodes
        self._rollbacks = Window(ROLLBACK_WINDOW_S, clock_s)
        self._memory_bytes = memory_bytes
        self._samplers: list[Callable[[Metrics], None]] = []
        self.registry = CollectorRegistry()
        self.registry.register(self)
        ProcessCollector(registry=self.registry)

    # ------------------------------------------------------------ updates, cheap

    def count_request(self, op: str, status: int) -> None:
        """One answer of `op` (an operationId, or `unknown`), on HTTP or the stream."""
        key = (op, status)
        requests = self.requests
        requests[key] = requests.get(key, 0) + 1

    def snapshot_done(self, seconds: float, *, ok: bool) -> None:
        self.snapshot_latency["ok" if ok else "error"].observe(seconds)

    def rollback_done(self, seconds: float, *, ok: bool) -> None:
        self.rollback_latency.observe(seconds)
        self._rollbacks.add(1, 1 if ok else 0)

    def set(self, name: str, value: float) -> None:
        """Sets a gauge of GAUGES. KeyError for an unknown name, so that a typo can't go unseen."""
        if name not in self.gauges:
            raise KeyError(name)
        self.gauges[name] = value

    def add(self, name: str, count: int = 1) -> None:
        """Raises a counter of COUNTERS. KeyError for an unknown name."""
        self.counters[name] += count

    def sample_with(self, sampler: Callable[[Metrics], None]) -> None:
        """`sampler(metrics)` runs before each collection, to refresh gauges that nobody updates on the way."""
        self._samplers.append(sampler)

    # ------------------------------------------------------------ what is asked for

    @property
    def rollback_success_rate(self) -> float:
        """Share of the rollbacks of the last five minutes that succeeded; 1 when nothing was rolled back."""
        tried, succeeded = self._rollbacks.sums()
        return succeeded / tried if tried else 1.0

    def render(self, accept: str = "") -> tuple[bytes, str]:
        """The exposition and its content type, in the format that `accept` asks for."""
        encoder, content_type = choose_encoder(accept)
        return encoder(self.registry), content_type

    def describe(self) -> list[Any]:
        return []

    def collect(self) -> Iterator[Any]:
        """Families of all metrics; runs the samplers first."""
        for sampler in self._samplers:
            sampler(self)
        yield from self._golden()
        for name, text in GAUGES.items():
            yield GaugeMetricFamily(f"lastgood_{name}", text, value=self.gauges[name])
        for name, text in COUNTERS.items():
            yield CounterMetricFamily(f"lastgood_{name}", text, value=self.counters[name])
        requests = CounterMetricFamily("lastgood_requests", "Answers by operation and status", labels=["op", "status"])
        for (op, status), count in sorted(self.requests.items()):
            requests.add_metric([op, str(status)], count)
        yield requests
        moved = CounterMetricFamily("lastgood_transfer_bytes", "Bytes moved by transfers", labels=["direction"])
        for direction, count in self.transfer_bytes.items():
            moved.add_metric([direction], count)
        yield moved
        yield _plain("lastgood_commit_latency_seconds", "From propose to applied", self.commit_latency)
        yield _plain("lastgood_rollback_latency_seconds", "Rollbacks, propose to applied", self.rollback_latency)
        yield _plain("lastgood_journal_fsync_seconds", "Group fdatasync of the journal", self.journal_fsync)
        yield _plain("lastgood_batch_operations", "Operations in one command", self.batch_operations)
        yield _plain("lastgood_checkpoint_seconds", "Checkpoints, freeze to durable", self.checkpoint_duration)

    def _golden(self) -> Iterator[Any]:
        """The golden triangle: names that its dashboards know."""
        latency = HistogramMetricFamily(
            "sync_snapshot_latency_seconds", "Snapshots, request to root", labels=["status"]
        )
        for status, histogram in self.snapshot_latency.items():
            latency.add_metric([status], histogram.buckets(), histogram.total)
        yield latency
        rate = GaugeMetricFamily(
            "sync_rollback_success_rate", "Rollbacks of the last five minutes that succeeded", labels=["env", "cluster"]
        )
        rate.add_metric([self.env, self.cluster], self.rollback_success_rate)
        yield rate
        memory = GaugeMetricFamily("sync_memory_bytes_used", "Resident memory of the node", labels=["role"])
        memory.add_metric([self.role], self._memory_bytes())
        yield memory
        yield CounterMetricFamily(
            "raft_snap_save_failures", "Checkpoints that could not be made durable", value=self.raft_snap_save_failures
        )
        yield GaugeMetricFamily(
            "snapshot_send_rate", "Bytes a second that go out to other nodes", value=self.snapshot_send_rate
        )


def _plain(name: str, text: str, histogram: Histogram) -> Any:
    family = HistogramMetricFamily(name, text)
    family.add_metric([], histogram.buckets(), histogram.total)
    return family
