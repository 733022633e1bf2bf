"""The receiver's decisions: what to ask for next, what a lost connection costs, when all is there. No I/O, no clock.

Everything goes through `on(event) -> effects`. The shell (bulk_client.py) executes effects and says what happened.
What has
been verified stays verified: no event takes it back, so a transfer never starts again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from cluster.transfer.frames import Kind
from cluster.transfer.manifest import Manifest
from cluster.transfer.protocol import (
    LINK_NEXT,
    WINDOW_BYTES,
    Ask,
    AskManifest,
    Base,
    Compare,
    Compared,
    Credit,
    Drop,
    Effect,
    Emptied,
    Event,
    Finished,
    GotManifest,
    Link,
    LinkLost,
    LinkUp,
    MakePlan,
    ManifestUnchanged,
    PeerRefused,
    Planned,
    Received,
    Rejected,
    SayHello,
    Send,
    Settle,
    Settled,
    Verified,
    Welcomed,
    Work,
    next_link,
    next_work,
)
from wal.checks import invariant


class Receiver:
    """One transfer towards this node. Not thread-safe: the shell holds a lock around `on`.

    `credit_bytes` None = no limit of rate; else so much may be asked for until a `Credit` comes.
    """

    def __init__(
        self,
        want: Base,
        *,
        window_bytes: int = WINDOW_BYTES,
        credit_bytes: int | None = None,
        held: Manifest | None = None,
    ) -> None:
        self.want = want
        self.link = Link.DOWN
        self.work = Work.WANTING
        self.manifest: Manifest | None = None
        self.held = held  # kept by an earlier process: the peer need not send it again
        self.peer: str | None = None
        self.round = 0
        self.resumes = 0
        self.resent_bytes = 0  # asked for more than once, at most
        self.verified_bytes = 0
        self.rejected_frames = 0
        self._window_bytes = window_bytes
        self.credit_bytes = credit_bytes
        self._requests = 0
        self._pending: deque[Ask] = deque()
        self._outstanding: dict[int, Ask] = {}  # asked for and not yet verified
        self._received: set[int] = set()  # of these: wholly here, being verified
        self._stale: set[int] = (
            set()
        )  # received before a re-base: kept when true, never asked for again from the old list
        self._rebase: Manifest | None = None  # waits until what was received is verified

    @property
    def asked_bytes(self) -> int:
        """Asked for and not yet verified."""
        return sum(ask.nbytes for ask in self._outstanding.values())

    @property
    def awaits_bytes(self) -> bool:
        """True when the peer owes us something, so that its silence means something."""
        if self.link in (Link.GREETING, Link.WANTING):
            return True
        return self.link is Link.UP and len(self._outstanding) > len(self._received)

    @property
    def needs_link(self) -> bool:
        """False once nothing more has to come from a peer."""
        return self.work not in (Work.SETTLING, Work.DONE)

    def ask_of(self, request: int) -> Ask | None:
        """What was asked for under that number, None when it is not (or no longer) expected."""
        return None if request in self._received else self._outstanding.get(request)

    def expects(self, event: type) -> bool:
        """False when a peer that says this now breaks the protocol."""
        return (self.link, event) in LINK_NEXT

    def on(self, event: Event) -> list[Effect]:
        """Takes in one event; returns what is to be done, in order. An impossible event raises InvariantViolation."""
        effects = _HANDLERS[type(event)](self, event)
        invariant(
            self.asked_bytes <= self._window_bytes or len(self._outstanding) == 1,
            "the window bounds what is asked for",
            asked=self.asked_bytes,
            window=self._window_bytes,
        )
        return effects

    def _link_up(self, event: LinkUp) -> list[Effect]:
        self.link = next_link(self.link, LinkUp)
        self.peer = event.peer
        return [SayHello()]

    def _welcomed(self, event: Welcomed) -> list[Effect]:
        self.link = next_link(self.link, Welcomed)
        known = self.manifest or self.held
        return [AskManifest(self.want.index, known.digest if known else b"")]

    def _link_lost(self, event: LinkLost) -> list[Effect]:
        self.link = next_link(self.link, LinkLost)
        self._requeue()
        return []

    def _requeue(self) -> None:
        """What was asked for and has not wholly come is asked for again, first of all and in the old order."""
        lost = sorted(request for request in self._outstanding if request not in self._received)
        for request in reversed(lost):
            ask = self._outstanding.pop(request)
            self.resent_bytes += ask.nbytes
            self._pending.appendleft(ask)

    def _unchanged(self, event: ManifestUnchanged) -> list[Effect]:
        known = self.manifest or self.held
        if known is None:
            return [Drop("peer says that a manifest is unchanged that nobody has", rotate=True)]
        if self.manifest is None:
            return self._got_manifest(GotManifest(known))
        self.link = next_link(self.link, ManifestUnchanged)
        self.resumes += 1
        return self._fill()

    def _got_manifest(self, event: GotManifest) -> list[Effect]:
        manifest = event.manifest
        if manifest.index < self.want.index:
            return [Drop(f"checkpoint {manifest.index} is older than {self.want.index}", rotate=True)]
        if manifest.index == self.want.index and self.want.manifest_digest not in (b"", manifest.content):
            return [Drop("manifest is not the one that the consensus message names", rotate=True)]
        self.link = next_link(self.link, GotManifest)
        if not self.needs_link:
            return []
        if self.manifest is not None:
            self.resumes += 1
            if self.manifest.digest == manifest.digest:
                return self._fill()
        self.manifest = self._rebase = manifest
        self._pending.clear()
        self._stale = set(self._received)
        for request in [request for request in self._outstanding if request not in self._received]:
            self.resent_bytes += self._outstanding.pop(request).nbytes
        self.work = next_work(self.work, GotManifest)
        return self._begin_round()

    def _begin_round(self) -> list[Effect]:
        """A round compares one manifest with what is here. It begins when nothing of the round before is in the air."""
        if self._rebase is None or self._received:
            return []
        manifest, self._rebase = self._rebase, None
        self.round += 1
        return [Compare(self.round, manifest)]

    def _compared(self, event: Compared) -> list[Effect]:
        if event.round != self.round or self._rebase is not None:
            return []
        self.work = next_work(self.work, Compared)
        self._pending.extend(event.asks)
        return self._fill()

    def _planned(self, event: Planned) -> list[Effect]:
        if event.round != self.round or self._rebase is not None:
            return []
        self.work = next_work(self.work, Planned)
        self._pending.extend(event.asks)
        return self._fill()

    def _received_all(self, event: Received) -> list[Effect]:
        invariant(event.request in self._outstanding, "an answer was asked for", request=event.request)
        self._received.add(event.request)
        return []

    def _take(self, request: int) -> tuple[Ask, bool]:
        invariant(request in self._received, "verified after it was received", request=request)
        self._received.discard(request)
        stale = request in self._stale
        self._stale.discard(request)
        return self._outstanding.pop(request), stale

    def _verified(self, event: Verified) -> list[Effect]:
        ask, stale = self._take(event.request)
        self.verified_bytes += ask.nbytes
        if not stale:
            self._pending.extendleft(reversed(event.again))
        return self._begin_round() if self._rebase is not None else self._fill()

    def _rejected(self, event: Rejected) -> list[Effect]:
        ask, stale = self._take(event.request)
        self.rejected_frames += 1
        self.resent_bytes += ask.nbytes
        if not stale:
            self._pending.appendleft(ask)
        effects = self._begin_round() if self._rebase is not None else []
        return [*effects, Drop(event.reason, rotate=True)]

    def _refused(self, event: PeerRefused) -> list[Effect]:
        if event.code == "gone" and self.link is Link.UP:
            self.link = next_link(self.link, PeerRefused)
            self._requeue()
            return [AskManifest(self.want.index, b"")]
        return [Drop(f"{event.code}: {event.detail}", rotate=True)]

    def _credited(self, event: Credit) -> list[Effect]:
        if self.credit_bytes is not None:
            self.credit_bytes += event.nbytes
        return self._fill()

    def _settled(self, event: Settled) -> list[Effect]:
        self.work = next_work(self.work, Settled)
        return [Finished()]

    def _fill(self) -> list[Effect]:
        """Asks for as much as window, credit and link allow; goes on to the next state when nothing is left to ask
        for.
        """
        effects: list[Effect] = []
        if self.work not in (Work.MAPPING, Work.FETCHING):
            return effects
        while self._pending and self.link is Link.UP and self._may_ask(self._pending[0]):
            ask = self._pending.popleft()
            self._requests += 1
            self._outstanding[self._requests] = ask
            if self.credit_bytes is not None:
                self.credit_bytes -= ask.nbytes
            effects.append(Send(self._requests, ask))
        if not self._pending and not self._outstanding:
            self.work = next_work(self.work, Emptied)
            effects.append(MakePlan(self.round) if self.work is Work.PLANNING else Settle())
        return effects

    def _may_ask(self, ask: Ask) -> bool:
        if self.credit_bytes is not None and self.credit_bytes <= 0:
            return False
        return not self._outstanding or self.asked_bytes + ask.nbytes <= self._window_bytes

    @property
    def pending_pages(self) -> int:
        """Asks of pages not yet sent; for tests and logs."""
        return sum(1 for ask in self._pending if ask.kind is Kind.GET_PAGES)


_HANDLERS: dict[type, Callable[[Receiver, Any], list[Effect]]] = {
    LinkUp: Receiver._link_up,
    LinkLost: Receiver._link_lost,
    Welcomed: Receiver._welcomed,
    GotManifest: Receiver._got_manifest,
    ManifestUnchanged: Receiver._unchanged,
    Compared: Receiver._compared,
    Planned: Receiver._planned,
    Received: Receiver._received_all,
    Verified: Receiver._verified,
    Rejected: Receiver._rejected,
    PeerRefused: Receiver._refused,
    Credit: Receiver._credited,
    Settled: Receiver._settled,
}
