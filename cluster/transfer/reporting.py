"""What the world hears of an incoming transfer: row, events, counters. By its rate it decides how pages travel."""

from __future__ import annotations

from typing import Any

from cluster.transfer.frames import Codec
from cluster.transfer.landing import Landing
from cluster.transfer.receiver import Receiver
from cluster.transfer.registry import RATE_SPAN_S, Registry, Tracked
from cluster.transfer.settings import Link


class Reporter:
    """Callers serialise."""

    def __init__(self, tracked: Tracked, registry: Registry, landing: Landing, link: Link) -> None:
        self._tracked = tracked
        self._registry = registry
        self._landing = landing
        self._link = link
        self._planned_at = link.now()
        self._counted = [0, 0, 0]
        self._codec: Codec = Codec.RAW

    def planned(self, core: Receiver) -> None:
        """It is known how much will come."""
        landing = self._landing
        self._planned_at = self._link.now()
        self._tracked.update(state="running", total_bytes=landing.total_bytes, done_bytes=landing.done_bytes)
        again = landing.done_bytes > 0 or core.resumes > 0
        self._registry.event("transfer.resumed" if again else "transfer.started", self._tracked)

    def report(self, core: Receiver, *, running: bool) -> Codec:
        """Brings row and counters up to date. Returns how pages should travel from now on."""
        now = [core.resent_bytes, core.resumes, core.verified_bytes]
        resent, resumes, received = (new - old for new, old in zip(now, self._counted, strict=True))
        self._counted = now
        fields: dict[str, Any] = {"state": "running"} if running else {}
        self._tracked.update(
            total_bytes=self._landing.total_bytes,
            done_bytes=self._landing.done_bytes,
            resent_bytes=core.resent_bytes,
            resumes=core.resumes,
            codec=self._codec.name.lower(),
            **fields,
        )
        self._registry.count(resent_bytes=resent, resumes=resumes, received_bytes=received)
        if resumes > 0:
            self._registry.event("transfer.resumed", self._tracked)
        self._choose_codec()
        return self._codec

    def _choose_codec(self) -> None:
        """Pages go raw while the link is fast, and packed when it is slow; a rate needs a while to be known."""
        if self._link.now() - self._planned_at < RATE_SPAN_S or self._link.bucket.limited:
            return
        rate = self._tracked.shown().rate_bytes_per_s
        self._codec = Codec.LZ4 if 0 < rate < self._link.settings.packed_below_bytes_per_s else Codec.RAW
