"""Replicated events: what apply did that a watcher wants to know. Dense numbers, two bounded rings."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Any

import msgspec

from node.results import Refused


class Event(msgspec.Struct, array_like=True, frozen=True):
    """One event. `at_ms` is wall time of the leader that stamped the command; `body` are the members of its type."""

    seq: int
    index: int
    type: str
    space: str
    at_ms: int
    body: dict[str, Any]


class EventBook:
    """The newest `events_max` of `snapshot.*`, and as many of all others. `seq` counts from 1 over both."""

    def __init__(self, events_max: int) -> None:
        self.events_max = events_max
        self.seq = 0  # of the newest event
        self.snapshot_ring: deque[Event] = deque()
        self.other_ring: deque[Event] = deque()
        self.dropped: dict[str, int] = {}  # type -> seq of the newest one of it that is no longer kept
        self.listener: Callable[[Event], None] | None = None

    def add(self, index: int, type_: str, space: str, at_ms: int, body: dict[str, Any]) -> None:
        """Appends an event and tells the listener."""
        self.seq += 1
        event = Event(self.seq, index, type_, space, at_ms, body)
        ring = self.snapshot_ring if type_.startswith("snapshot.") else self.other_ring
        ring.append(event)
        if len(ring) > self.events_max:
            oldest = ring.popleft()
            self.dropped[oldest.type] = oldest.seq
        if self.listener is not None:
            self.listener(event)

    def after(
        self, seq: int, *, types: frozenset[str] | None = None, space: str | None = None, limit: int = 1000
    ) -> list[Event] | Refused:
        """Events with a number above `seq`, in order. `gone` if one of the asked types was dropped there.

        seq 0 means "from the oldest kept" and is never gone.
        """
        if seq > 0:
            for type_, dropped in self.dropped.items():
                if dropped > seq and (types is None or type_ in types):
                    return Refused(
                        "gone", f"events after {seq} are no longer kept: {type_} up to {dropped} was dropped"
                    )
        merged = self._merge(seq)
        wanted = (
            event
            for event in merged
            if (types is None or event.type in types) and (space is None or event.space == space)
        )
        return list(islice(wanted, limit))

    def _merge(self, seq: int) -> list[Event]:
        """All kept events above `seq`, ascending; looks only at the newest ones of each ring."""
        found: list[Event] = []
        for ring in (self.snapshot_ring, self.other_ring):
            part = []
            for event in reversed(ring):
                if event.seq <= seq:
                    break
                part.append(event)
            found.extend(part)
        found.sort(key=_seq_of)
        return found


def _seq_of(event: Event) -> int:
    return event.seq
