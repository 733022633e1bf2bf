"""Virtual time: one heap of events for the whole cluster, and each node's own view of it."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any, Final

LOOK_S: Final = (
    0.00001  # what one look at a clock costs; without it a core that spins until a time has passed never ends
)
LOOKS_MAX: Final = 200_000  # looks within one event after which the node is called hung


class Hung(Exception):
    """A node looked at its clock so often within one event that it will never stop."""


class Timeline:
    """All that will happen, in order of time, then of scheduling. The same seed gives the same order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self._heap: list[tuple[float, int, Callable[..., Any], tuple[Any, ...]]] = []
        self._count = 0

    def after(self, delay_s: float, act: Callable[..., Any], *args: Any) -> None:
        """Calls `act(*args)` in `delay_s` of virtual time; equal times keep the order in which they were asked for."""
        self._count += 1
        heapq.heappush(self._heap, (self.now + delay_s, self._count, act, args))

    def run_until(self, stop_s: float) -> None:
        heap = self._heap
        while heap and heap[0][0] <= stop_s:
            self.now, _, act, args = heapq.heappop(heap)
            self.events += 1
            act(*args)
        self.now = stop_s


class NodeClock:
    """One node's monotonic clock: it has its own origin and runs a little fast or slow, but never backwards."""

    def __init__(self, timeline: Timeline, *, origin_s: float, rate: float) -> None:
        self._timeline = timeline
        self._origin_s = origin_s
        self._rate = rate
        self._event = -1
        self._looks = 0
        self._last_s = 0.0

    def monotonic(self) -> float:
        """Seconds since some origin of this node's own."""
        if self._event != self._timeline.events:
            self._event = self._timeline.events
            self._looks = 0
        self._looks += 1
        if self._looks > LOOKS_MAX:
            raise Hung(f"{self._looks} looks at the clock within one event")
        now_s = self._origin_s + self._rate * self._timeline.now + self._looks * LOOK_S
        if now_s > self._last_s:
            self._last_s = now_s
        return self._last_s

    def wall_ms(self) -> int:
        """For display only; an hour off on some nodes."""
        return int((self._origin_s * 3600 + self._timeline.now) * 1000) + 1_700_000_000_000
