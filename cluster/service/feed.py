"""Events as users see them: replicated ones in order of `seq`; this node's own carry `node` and no `seq`.

Waiting readers share one signal: they look again when something new was applied. A reader that is too slow falls behind
what is kept and is told so (`gone`); nothing is queued for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from cluster.api.times import rfc3339

LOCAL_TYPES: Final = (
    "transfer.started",
    "transfer.resumed",
    "transfer.finished",
    "page.repaired",
    "node.diverged",
    "leader.changed",
)
LOCAL_KEPT: Final = 1000


class EventFeed:
    """A signal for new events and the ring of this node's own. Loop thread only."""

    def __init__(self, *, node_id: str, wall_ms: Callable[[], int]) -> None:
        self._node_id = node_id
        self._wall_ms = wall_ms
        self._changed = asyncio.Event()
        self._own: deque[tuple[int, dict[str, Any]]] = deque(maxlen=LOCAL_KEPT)
        self.own_count = 0
        self.closed = False

    def add_own(self, event_type: str, space: str | None = None, index: int | None = None, **facts: Any) -> None:
        """Records an event of this node."""
        self.own_count += 1
        event = {
            "index": index,
            "type": event_type,
            "space": space,
            "at": rfc3339(self._wall_ms()),
            "node": self._node_id,
            **facts,
        }
        self._own.append((self.own_count, event))
        self.signal()

    def own_after(self, number: int) -> list[tuple[int, dict[str, Any]]]:
        """This node's events after the `number`-th, as far as they are kept."""
        return [item for item in self._own if item[0] > number]

    def signal(self) -> None:
        """Something may have been added: everybody who waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        self.closed = True
        self._changed.set()

    async def wait(self, timeout_s: float | None) -> bool:
        """True when something may be new, False when the time is over."""
        if self.closed:
            return False
        try:
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        return not self.closed
