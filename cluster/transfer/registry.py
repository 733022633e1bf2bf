"""What `GET /v1/transfers` shows, the transfer's events and its counters. About this node only; bounded by age and
count.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Final

import msgspec

from cluster.api.times import rfc3339

KEPT_S: Final = 600.0  # finished ones, as the HTTP contract says
KEPT_MAX: Final = 1000
RATE_SPAN_S: Final = 2.0


class TransferRow(msgspec.Struct):
    """One transfer as the HTTP contract shows it; `started` is RFC 3339."""

    id: str
    purpose: str
    peer: str | None
    direction: str  # in | out
    state: str  # waiting | running | retrying | done | failed
    total_bytes: int
    done_bytes: int
    resent_bytes: int
    resumes: int
    codec: str  # raw | lz4
    rate_bytes_per_s: int
    limit_bytes_per_s: int | None
    started: str | None
    eta_s: float | None


class Counters(msgspec.Struct):
    """Counted since the process started. Names of the metrics: see `METRICS`."""

    sent_bytes: int = 0
    received_bytes: int = 0
    resent_bytes: int = 0
    resumes: int = 0
    rejected_frames: int = 0
    snap_save_failures: int = 0


METRICS: Final[tuple[tuple[str, str, str], ...]] = (
    ("lastgood_transfer_sent_bytes_total", "sent_bytes", "Page and metadata bytes sent to other nodes."),
    ("lastgood_transfer_received_bytes_total", "received_bytes", "Page and metadata bytes received from other nodes."),
    ("lastgood_transfer_resent_bytes_total", "resent_bytes", "Bytes asked for more than once."),
    ("lastgood_transfer_resumes_total", "resumes", "Times an interrupted transfer went on where it stopped."),
    (
        "lastgood_transfer_rejected_frames_total",
        "rejected_frames",
        "Frames whose bytes were not those of their digests.",
    ),
    ("raft_snap_save_failures_total", "snap_save_failures", "Installs and checkpoints that could not be saved."),
)


class Meter:
    """Bytes per second over the last two seconds. Callers serialise."""

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._points: deque[tuple[float, int]] = deque()

    def add(self, total: int) -> None:
        """Notes how much was done in total by now; kept are at most 20 points a second."""
        now = self._now()
        if self._points and now - self._points[-1][0] < 0.05:
            return
        self._points.append((now, total))
        while now - self._points[0][0] > RATE_SPAN_S:
            self._points.popleft()

    def rate(self, total: int) -> int:
        now = self._now()
        while self._points and now - self._points[0][0] > RATE_SPAN_S:
            self._points.popleft()
        if not self._points:
            return 0
        since, before = self._points[0]
        return int((total - before) / max(now - since, 0.05))


class Tracked:
    """A transfer that the registry shows. All changes through `update`, from any thread."""

    def __init__(self, registry: Registry, row: TransferRow) -> None:
        self._registry = registry
        self._meter = Meter(registry.now)
        self.row = row
        self.finished_at: float | None = None

    def update(self, **fields: Any) -> None:
        """Sets fields of the row."""
        with self._registry.lock:
            for name, value in fields.items():
                setattr(self.row, name, value)
            self._meter.add(self.row.done_bytes)

    def finish(self, state: str) -> None:
        """`done` or `failed`; the row stays for ten minutes."""
        with self._registry.lock:
            self.row.state = state
            self.finished_at = self._registry.now()

    def shown(self) -> TransferRow:
        row = msgspec.structs.replace(self.row)
        running = self.finished_at is None
        row.rate_bytes_per_s = self._meter.rate(row.done_bytes) if running else 0
        left = row.total_bytes - row.done_bytes
        row.eta_s = round(left / row.rate_bytes_per_s, 1) if running and row.rate_bytes_per_s > 0 else None
        return row


class Registry:
    """All transfers of this node. `now` monotonic seconds, `wall_ms` for display, `emit(type, fields)` for events."""

    def __init__(
        self,
        *,
        now: Callable[[], float],
        wall_ms: Callable[[], int],
        emit: Callable[[str, dict[str, Any]], None],
    ) -> None:
        self.now = now
        self.lock = threading.Lock()
        self.counters = Counters()
        self._wall_ms = wall_ms
        self._emit = emit
        self._tracked: dict[tuple[str, str], Tracked] = {}

    def start(
        self, transfer: str, *, purpose: str, direction: str, peer: str | None, limit_bytes_per_s: int | None = None
    ) -> Tracked:
        """A new row, or the row of the same transfer that goes on."""
        with self.lock:
            known = self._tracked.get((transfer, direction))
            if known is not None and known.finished_at is None:
                known.row.peer = peer
                return known
            row = TransferRow(
                id=transfer,
                purpose=purpose,
                peer=peer,
                direction=direction,
                state="waiting",
                total_bytes=0,
                done_bytes=0,
                resent_bytes=0,
                resumes=0,
                codec="raw",
                rate_bytes_per_s=0,
                limit_bytes_per_s=limit_bytes_per_s,
                started=rfc3339(self._wall_ms()),
                eta_s=None,
            )
            tracked = self._tracked[transfer, direction] = Tracked(self, row)
            self._forget()
        return tracked

    def event(self, kind: str, tracked: Tracked) -> None:
        """`transfer.started`, `transfer.resumed` or `transfer.finished` to the watchers of this node."""
        row = tracked.row
        self._emit(
            kind,
            {
                "id": row.id,
                "purpose": row.purpose,
                "peer": row.peer,
                "direction": row.direction,
                "state": row.state,
                "total_bytes": row.total_bytes,
                "done_bytes": row.done_bytes,
                "resent_bytes": row.resent_bytes,
                "resumes": row.resumes,
            },
        )

    def count(self, **added: int) -> None:
        with self.lock:
            for name, value in added.items():
                setattr(self.counters, name, getattr(self.counters, name) + value)

    def rows(self) -> list[TransferRow]:
        """Newest first; those that finished over ten minutes ago are gone."""
        with self.lock:
            self._forget()
            return [tracked.shown() for tracked in reversed(self._tracked.values())]

    def send_rate(self) -> int:
        """Metric `snapshot_send_rate`: bytes per second that go out now, all transfers together."""
        with self.lock:
            shown = [tracked.shown() for tracked in self._tracked.values() if tracked.row.direction == "out"]
        return sum(row.rate_bytes_per_s for row in shown)

    def _forget(self) -> None:
        now = self.now()
        finished = [key for key, tracked in self._tracked.items() if tracked.finished_at is not None]
        old = [key for key in finished if now - (self._tracked[key].finished_at or now) > KEPT_S]
        for key in old or (finished[:1] if len(self._tracked) > KEPT_MAX else []):
            del self._tracked[key]
