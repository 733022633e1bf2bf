"""All replicated state of a node in one place: what a checkpoint freezes and a recovery restores."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator
from typing import Final

from node.events import EventBook
from node.heap import HeapSet
from node.idempotency import IdempotencyBook
from node.settings import Limits
from node.space import Snapshot, Space
from node.staging import StageBook
from node.window import RecordLog, UndoBook

# Kinds of timers, in the order in which equal times fire.
SNAPSHOT_TTL: Final = 0
SNAPSHOT_INTERVAL: Final = 1
STAGE_TTL: Final = 2

Timer = tuple[int, int, int | str, int]  # due_ms, kind, uid or stage, snapshot id


class Registry:
    """Spaces, books and counters. Changed by apply only."""

    def __init__(self, heaps: HeapSet, undo: RecordLog, limits: Limits) -> None:
        self.heaps = heaps
        self.limits = limits
        self.cluster_id: str | None = None
        self.incarnations: dict[str, str] = {}
        self.applied_index = 0
        self.applied_term = 0
        self.now_ms = 0  # replicated time
        self.counter = 0  # raised by every creation and every rollback: uids, and above every epoch
        self.by_name: dict[str, Space] = {}
        self.by_uid: dict[int, Space] = {}
        self.book = UndoBook(undo, limits)
        self.events = EventBook(limits.events_max)
        self.idempotency = IdempotencyBook(limits)
        self.stages = StageBook(limits)
        self.timers: list[Timer] = []
        self.idle_timers: list[tuple[int, int]] = []  # (due_ms, session); no tick is proposed for these
        self.changed: set[int] = set()  # uids of spaces that changed since the last freeze, gone ones too
        self._names: list[str] | None = None

    def set_limits(self, limits: Limits) -> None:
        """The cluster's first entry has spoken."""
        self.limits = self.book.limits = self.idempotency.limits = self.stages.limits = limits
        self.events.events_max = limits.events_max

    # ------------------------------------------------------------ spaces

    def names(self) -> list[str]:
        """Names of all spaces, ascending."""
        if self._names is None:
            self._names = sorted(self.by_name)
        return self._names

    def names_from(self, start: str, prefix: str) -> Iterator[str]:
        """Names with `prefix` from `start` on."""
        names = self.names()
        for at in range(bisect_left(names, max(start, prefix)), len(names)):
            if not names[at].startswith(prefix):
                return
            yield names[at]

    def add_space(self, space: Space) -> None:
        self.by_name[space.name] = space
        self.by_uid[space.uid] = space
        self._names = None
        self.changed.add(space.uid)

    def remove_space(self, space: Space) -> None:
        del self.by_name[space.name]
        del self.by_uid[space.uid]
        self.book.drop(space.uid)
        self._names = None
        self.changed.add(space.uid)

    def next_uid(self) -> int:
        self.counter += 1
        return self.counter

    # ------------------------------------------------------------ timers

    def set_timer(self, due_ms: int, kind: int, what: int | str, identity: int = 0) -> None:
        """Due at that replicated time. A timer whose thing has gone or moved on is ignored when it fires."""
        heapq.heappush(self.timers, (due_ms, kind, what, identity))

    def watch_ttl(self, space: Space, snapshot: Snapshot) -> None:
        if snapshot.due_ms is not None:
            self.set_timer(snapshot.due_ms, SNAPSHOT_TTL, space.uid, snapshot.id)

    def rebuild_timers(self) -> None:
        """After a restore: timers are a function of the rest."""
        self.timers = []
        self.idle_timers = []
        for space in self.by_uid.values():
            if space.interval_due_ms is not None:
                self.timers.append((space.interval_due_ms, SNAPSHOT_INTERVAL, space.uid, 0))
            for snapshot in space.snapshots.values():
                if snapshot.due_ms is not None:
                    self.timers.append((snapshot.due_ms, SNAPSHOT_TTL, space.uid, snapshot.id))
        idle_ms = self.limits.session_idle_ms
        for number, session in self.idempotency.sessions.items():
            self.idle_timers.append((session.used_ms + idle_ms, number))
        for name, stage in self.stages.stages.items():
            self.timers.append((stage.due_ms, STAGE_TTL, name, 0))
        heapq.heapify(self.timers)
        heapq.heapify(self.idle_timers)
