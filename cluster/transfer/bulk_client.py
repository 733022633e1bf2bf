"""One incoming transfer on threads: dials, pulls, verifies, makes durable. Executes what `Receiver` decides.

Threads: one reads the socket, two verify, one makes durable, one does the long steps
(compare, plan, settle). They meet in `on`, under one lock.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from cluster.log import get_log
from cluster.transfer.bulk_reader import Reader, dial
from cluster.transfer.comparison import LocalState
from cluster.transfer.frames import (
    Codec,
    Damaged,
    GetManifest,
    Header,
    Hello,
    Kind,
    Tell,
    encode_control,
    encode_frame,
)
from cluster.transfer.landing import Landing
from cluster.transfer.manifest import Manifest
from cluster.transfer.protocol import (
    Ask,
    AskManifest,
    Base,
    Compare,
    Compared,
    Credit,
    Drop,
    Effect,
    Event,
    Finished,
    LinkLost,
    LinkUp,
    MakePlan,
    Planned,
    Rejected,
    SayHello,
    Send,
    Settle,
    Settled,
    Verified,
    Work,
)
from cluster.transfer.receiver import Receiver
from cluster.transfer.registry import Registry, Tracked
from cluster.transfer.reporting import Reporter
from cluster.transfer.settings import Link as Link
from cluster.transfer.settings import PeerAddress as PeerAddress
from cluster.transfer.settings import TransferSettings as TransferSettings
from cluster.transfer.wire import Wire
from node.heap import HeapFull

log = get_log("cluster.transfer")

VERIFIERS: Final = 2
RETRY_S: Final = 0.05
REFUSED_RETRY_S: Final = 0.2
PING_S: Final = 5.0


class Local(Protocol):
    """What the client needs of the node. `freeze_local` is called in a worker thread."""

    def freeze_local(self) -> LocalState: ...


class Stopped(Exception):
    """The transfer was closed before it was done; what has been received stays."""


class BulkClient:
    """Pulls one checkpoint. `run()` blocks until it is complete and durable; `close()` ends it from another thread."""

    def __init__(
        self,
        *,
        want: Base,
        transfer: str,
        purpose: str,
        peers: Callable[[], Sequence[PeerAddress]],
        landing: Landing,
        local: Local,
        registry: Registry,
        link: Link,
    ) -> None:
        """`peers()` in the order in which they are to be tried."""
        self._settings = link.settings
        self._landing = landing
        self._local = local
        self._registry = registry
        self._bucket = bucket = link.bucket
        self._now = link.now
        self._tls = link.tls
        self._peers = peers
        self._hello = Hello(link.cluster_id, link.node, transfer, purpose)
        self._core = Receiver(
            want,
            window_bytes=self._settings.window_bytes,
            credit_bytes=1 if bucket.limited else None,
            held=landing.held,
        )
        self.tracked: Tracked = registry.start(
            transfer,
            purpose=purpose,
            direction="in",
            peer=None,
            limit_bytes_per_s=bucket.rate_bytes_per_s or None,
        )
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._closed = threading.Event()
        self._done = False
        self._error: Exception | None = None
        self._wire: Wire | None = None
        self._rotate = False
        self._refused = False
        self._codec = Codec.RAW
        self._buffers: list[bytearray] = []  # that page frames are received into; at most a window of them exists
        self._reporter = Reporter(self.tracked, registry, landing, link)
        self._verify: queue.SimpleQueue[tuple[int, Ask, Header, memoryview] | None] = queue.SimpleQueue()
        self._steps: queue.SimpleQueue[Effect | None] = queue.SimpleQueue()
        self._wake_sync = threading.Event()

    # ------------------------------------------------------------ life

    def run(self) -> Manifest:
        """Returns the manifest of the checkpoint that is now here, complete, verified and durable.

        Raises Stopped after `close`, and OSError when this node's own disk fails.
        """
        threads = [
            threading.Thread(target=self._verify_loop, name=f"bulk-verify-{n}", daemon=True) for n in range(VERIFIERS)
        ]
        threads.append(threading.Thread(target=self._step_loop, name="bulk-steps", daemon=True))
        threads.append(threading.Thread(target=self._sync_loop, name="bulk-sync", daemon=True))
        if self._bucket.limited:
            threads.append(threading.Thread(target=self._pace_loop, name="bulk-pace", daemon=True))
        for thread in threads:
            thread.start()
        try:
            self._dial_loop()
        finally:
            self._closed.set()
            self._wake_sync.set()
            self._steps.put(None)
            for _ in range(VERIFIERS):
                self._verify.put(None)
            for thread in threads:
                thread.join()
        self._report()
        if self._error is not None:
            raise self._error
        manifest = self._core.manifest
        if not self._done or manifest is None:
            raise Stopped(f"transfer {self._hello.transfer}")
        return manifest

    def close(self) -> None:
        """Ends `run` soon. Any thread."""
        self._closed.set()
        with self._changed:
            if self._wire is not None:
                self._wire.close()
            self._changed.notify_all()

    @property
    def manifest(self) -> Manifest | None:
        return self._core.manifest

    def finished(self, state: str) -> None:
        """Says how it ended, once the image is installed (or not)."""
        self.tracked.finish(state)
        self._registry.event("transfer.finished", self.tracked)

    def _fail(self, error: Exception) -> None:
        self._error = self._error or error
        self.close()

    # ------------------------------------------------------------ events and effects

    def on(self, event: Event) -> None:
        with self._changed:
            for effect in self._core.on(event):
                self._execute(effect)
            self._changed.notify_all()

    def _execute(self, effect: Effect) -> None:
        """Under the lock. Sends are small; everything long goes to the steps' thread."""
        if isinstance(effect, Send):
            codec = self._codec if effect.ask.kind is Kind.GET_PAGES else Codec.RAW
            self._bucket.spend(effect.ask.nbytes)
            self._say(encode_frame(effect.ask.kind, effect.request, self._landing.body_of(effect.ask), codec))
        elif isinstance(effect, SayHello):
            self._say(encode_control(Kind.HELLO, self._hello))
        elif isinstance(effect, AskManifest):
            self._say(encode_control(Kind.GET_MANIFEST, GetManifest(effect.index_min, effect.have)))
        elif isinstance(effect, (Compare, MakePlan, Settle)):
            self._steps.put(effect)
        elif isinstance(effect, Drop):
            log.info("transfer.dropped", peer=self._core.peer, reason=effect.reason)
            self._rotate = self._rotate or effect.rotate
            self._refused = True
            if self._wire is not None:
                self._wire.close()
        elif isinstance(effect, Finished):
            self._done = True

    def _say(self, frame: bytes) -> None:
        """A send that fails is noticed by the thread that reads: it finds the connection closed."""
        wire = self._wire
        if wire is not None:
            try:
                wire.send(frame)
            except OSError:
                wire.close()

    # ------------------------------------------------------------ the thread that reads

    def _dial_loop(self) -> None:
        turn = 0
        while not self._closed.is_set():
            with self._changed:
                if self._done:
                    break
                if not self._core.needs_link:
                    self._changed.wait(0.5)
                    continue
            peers = self._peers()
            if not peers:
                self._closed.wait(REFUSED_RETRY_S)
                continue
            peer = peers[turn % len(peers)]
            progress = self._core.verified_bytes
            reason = self._connect_and_read(peer)
            if self._done or self._closed.is_set():
                break
            if self._rotate or self._core.verified_bytes == progress:
                turn += 1
            pause = REFUSED_RETRY_S if self._refused else RETRY_S
            self._rotate = self._refused = False
            if self._core.needs_link:
                self.tracked.update(state="retrying")
                log.info("transfer.interrupted", peer=peer.id, reason=reason, done_bytes=self._landing.done_bytes)
            self._closed.wait(pause)

    def _connect_and_read(self, peer: PeerAddress) -> str:
        try:
            wire = dial(
                peer.host,
                peer.port,
                silence_ms=self._settings.silence_ms,
                window_bytes=self._settings.window_bytes,
                tls=self._tls,
            )
        except OSError as error:
            return str(error)
        try:
            with self._changed:
                if self._closed.is_set():
                    return "closed"
                self._wire = wire
                self.tracked.update(peer=peer.id)
                self.on(LinkUp(peer.id))
            reason = self._read(wire)
        finally:
            with self._changed:
                self._wire = None
            wire.release()
            self.on(LinkLost("connection ended"))
            self._report()
        return reason

    def _read(self, wire: Wire) -> str:
        """Reads until the connection ends or nothing more is needed; returns why."""
        try:
            Reader(wire, self, self._buffers).run()
        except OSError as error:
            return str(error)
        except Damaged as error:
            with self._changed:
                self._registry.count(rejected_frames=1)
                self._execute(Drop(str(error), rotate=True))
            return str(error)
        return "done"

    # What the reader asks (bulk_reader.Shell).
    def ask_of(self, request: int) -> Ask | None:
        with self._lock:
            return self._core.ask_of(request)

    def expects(self, event: type) -> bool:
        with self._lock:
            return self._core.expects(event)

    def verify(self, request: int, ask: Ask, header: Header, body: memoryview) -> None:
        self._verify.put((request, ask, header, body))

    def await_bytes(self, wire: Wire) -> bool:
        with self._changed:
            while not self._core.awaits_bytes:
                if self._done:
                    self._say(encode_frame(Kind.BYE, 0))
                    return False
                if self._closed.is_set():
                    return False
                if wire.closed:
                    raise ConnectionAbortedError("dropped")
                if not self._changed.wait(PING_S):
                    self._say(encode_frame(Kind.PING, 0))
        return True

    # ------------------------------------------------------------ the other threads

    def _guarded(self, work: Callable[[], None]) -> None:
        """A failure of this node itself (its disk, a broken rule) ends the transfer and is raised by `run`."""
        try:
            work()
        except Exception as error:
            self._fail(error)

    def _verify_loop(self) -> None:
        while (job := self._verify.get()) is not None:
            request, ask, header, body = job
            self._guarded(lambda: self._verify_one(request, ask, header, body))  # noqa: B023

    def _verify_one(self, request: int, ask: Ask, header: Header, body: memoryview) -> None:
        again: tuple[Ask, ...] = ()
        try:
            if ask.kind is Kind.GET_PAGES:
                self._landing.take_pages(ask, body, header.codec)
                if isinstance(body.obj, bytearray):
                    self._buffers.append(body.obj)
                self._wake_sync.set()
            elif ask.kind is Kind.GET_LEAVES:
                again = self._landing.take_leaves(ask, bytes(body))
            else:
                self._landing.take_chunk(ask, bytes(body), header.codec)
        except Damaged as error:
            self._registry.count(rejected_frames=1)
            self.on(Rejected(request, str(error)))
            return
        self.on(Verified(request, again))

    def _step_loop(self) -> None:
        while (effect := self._steps.get()) is not None:
            self._guarded(lambda: self._step(effect))

    def _step(self, effect: Effect) -> None:
        if isinstance(effect, Compare):
            asks = self._landing.compare(effect.manifest, self._local.freeze_local())
            self.on(Compared(effect.round, asks))
        elif isinstance(effect, MakePlan):
            self._plan(effect)
        elif isinstance(effect, Settle):
            self._landing.sync()
            self.on(Settled())

    def _plan(self, effect: MakePlan) -> None:
        while not self._closed.is_set():
            try:
                asks = self._landing.plan()
                break
            except HeapFull as error:
                log.warning("transfer.no_room", reason=str(error))
                self.tracked.update(state="waiting")
                self._closed.wait(0.5)
        else:
            return
        with self._changed:
            self._say(encode_control(Kind.TELL, Tell(self._landing.total_bytes, self._landing.done_bytes)))
            self._reporter.planned(self._core)
            self.on(Planned(effect.round, asks))

    def _report(self) -> None:
        """Brings registry and counters up to date."""
        with self._changed:
            running = self._core.work is Work.FETCHING and self._wire is not None
            self._codec = self._reporter.report(self._core, running=running)

    def _sync_loop(self) -> None:
        while not self._closed.is_set():
            self._wake_sync.wait()
            self._wake_sync.clear()
            deadline = self._now() + self._settings.sync_ms / 1000
            while self._landing.fresh_bytes < self._settings.sync_bytes and not self._closed.is_set():
                left = deadline - self._now()
                if left <= 0:
                    break
                self._closed.wait(min(left, 0.01))
            if self._landing.fresh_bytes and not self._closed.is_set():
                self._guarded(self._landing.sync)
            self._report()

    def _pace_loop(self) -> None:
        """With a limit of rate: lets one more request go whenever the bucket has paid for the last."""
        while not self._closed.is_set():
            wait = self._bucket.wait_s()
            if wait > 0:
                self._closed.wait(min(wait, 0.2))
                continue
            with self._changed:
                credit = self._core.credit_bytes
                if credit is not None and credit <= 0:
                    self.on(Credit(1 - credit))
                else:
                    self._changed.wait(0.05)
