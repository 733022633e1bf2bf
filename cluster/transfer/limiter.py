"""Rate limit over all incoming transfers of a node: a token bucket that goes into debt by one request at most."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Bucket:
    """`rate` bytes per second; 0 = no limit. `now` returns seconds of a monotonic clock. Any thread."""

    def __init__(self, rate_bytes_per_s: int, now: Callable[[], float]) -> None:
        self.rate_bytes_per_s = rate_bytes_per_s
        self._now = now
        self._lock = threading.Lock()
        self._paid_until = now()

    @property
    def limited(self) -> bool:
        return self.rate_bytes_per_s > 0

    def spend(self, nbytes: int) -> None:
        """Counts bytes that were asked for."""
        if self.limited:
            with self._lock:
                self._paid_until = max(self._paid_until, self._now()) + nbytes / self.rate_bytes_per_s

    def wait_s(self) -> float:
        """Seconds until more may be asked for; 0 = now."""
        if not self.limited:
            return 0.0
        with self._lock:
            return max(0.0, self._paid_until - self._now())
