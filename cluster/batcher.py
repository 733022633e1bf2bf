"""Natural group commit: what arrives while a batch is on its way becomes the next one.

A plain object without I/O. `add` queues an operation with its reply; `take` hands out the next batch while fewer than
`in_flight_max` are on their way; `finished` gives the place back. Bounded in bytes, count and age: age is bounded by
the batches in flight, because nothing waits while a place is free.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from node.commands import Operation

Reply = Callable[[Any], None]
OPERATION_BYTES: Final = 160  # an upper estimate of what msgpack and names add to the data of one operation


class Overloaded(Exception):
    """The queue is at its bound: nothing was queued."""

    def __init__(self, queued_operations: int, queued_bytes: int, bound: str) -> None:
        super().__init__(f"{queued_operations} operations with {queued_bytes} bytes are queued, the bound is {bound}")


@dataclass(frozen=True)
class BatchLimits:
    """`batch_*` bound one command, `queue_*` everything that waits, `in_flight_max` the commands on their way."""

    batch_bytes_max: int
    batch_operations_max: int
    queue_bytes_max: int
    queue_operations_max: int
    in_flight_max: int


@dataclass
class Batch:
    """Operations in the order in which they came, and who waits for each."""

    operations: list[Operation]
    replies: list[Reply]
    bytes_estimated: int


class Batcher:
    """Queue between the API and consensus. One thread only: the loop's."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self.in_flight = 0
        self.queued_bytes = 0
        self._queue: deque[tuple[Operation, Reply, int]] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, operation: Operation, data_bytes: int, reply: Reply) -> None:
        """Queues; raises Overloaded at the bound. `data_bytes`: the bytes of its writes (headers are estimated)."""
        size = data_bytes + OPERATION_BYTES
        limits = self.limits
        if len(self._queue) >= limits.queue_operations_max or self.queued_bytes + size > limits.queue_bytes_max:
            raise Overloaded(
                len(self._queue),
                self.queued_bytes,
                f"{limits.queue_operations_max} operations or {limits.queue_bytes_max} bytes",
            )
        self._queue.append((operation, reply, size))
        self.queued_bytes += size

    def take(self) -> Batch | None:
        """The next batch, or None when nothing waits or all places are taken. At least one operation, however large."""
        limits = self.limits
        if not self._queue or self.in_flight >= limits.in_flight_max:
            return None
        operations: list[Operation] = []
        replies: list[Reply] = []
        total = 0
        queue = self._queue
        while queue and len(operations) < limits.batch_operations_max:
            operation, reply, size = queue[0]
            # Headers have room of their own: an operation of exactly `batch_bytes_max` of data fits alone.
            if operations and total + size > limits.batch_bytes_max:
                break
            queue.popleft()
            operations.append(operation)
            replies.append(reply)
            total += size
        self.queued_bytes -= total
        self.in_flight += 1
        return Batch(operations, replies, total)

    def finished(self) -> None:
        """A batch came to an end, whatever end."""
        self.in_flight -= 1

    def drain(self) -> list[Reply]:
        """Empties the queue (leadership is gone): none of these was ever submitted."""
        replies = [reply for _, reply, _ in self._queue]
        self._queue.clear()
        self.queued_bytes = 0
        return replies


class Stamper:
    """Replicated time on the leader: last stamp + monotonic time since, never backwards."""

    def __init__(self, monotonic_ms: Callable[[], float]) -> None:
        self._monotonic_ms = monotonic_ms
        self._base_ms = 0
        self._started_ms = monotonic_ms()
        self.last_ms = 0

    def lead(self, now_ms: int) -> None:
        """Leadership begins: time goes on from `now_ms`, the newest stamp in the applied log."""
        self._base_ms = max(now_ms, self.last_ms)
        self._started_ms = self._monotonic_ms()

    def stamp(self) -> int:
        """The stamp for a command made now."""
        self.last_ms = max(self.last_ms, self._base_ms + int(self._monotonic_ms() - self._started_ms))
        return self.last_ms
