"""The bulk listener: serves checkpoints to nodes that lack them. Blocking sockets in threads, off the event loop.

A transfer keeps its checkpoint for `LINGER_S` after its last connection, so that a cut costs no re-base.
"""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Final

import lz4.block
import msgspec
import numpy as np

from cluster.log import get_log
from cluster.transfer import sender
from cluster.transfer.frames import (
    FRAME_BYTES,
    Codec,
    Damaged,
    GetManifest,
    Kind,
    RefusedBody,
    encode_control,
    encode_frame,
    encode_header,
    encode_manifest_part,
)
from cluster.transfer.held import CheckpointSource, HeldCheckpoint, Rotten
from cluster.transfer.leaves import encode_leaf
from cluster.transfer.manifest import encode_manifest
from cluster.transfer.registry import Registry, Tracked
from cluster.transfer.wire import Wire
from wal.checks import invariant

log = get_log("cluster.transfer")

LINGER_S: Final = 60.0
IDLE_MS: Final = 30_000  # a receiver that waits says PING every five seconds
SEND_MS: Final = 5_000
WAIT_EVERY_S: Final = 0.1
CONNECTIONS_MAX: Final = 32


class Kept(msgspec.Struct, eq=False):
    """What the server knows of a transfer while it lives. `sent` marks the pages that went out, per leaf and
    position.
    """

    checkpoint: HeldCheckpoint
    tracked: Tracked
    sent: np.ndarray
    connections: int = 0
    left_at: float | None = None


class BulkServer:
    """Listens on `listen` (host, port; port 0 = any) and answers from `source`. `now`: monotonic seconds."""

    def __init__(
        self,
        listen: tuple[str, int],
        source: CheckpointSource,
        *,
        cluster_id: str,
        node: str,
        registry: Registry,
        now: Callable[[], float],
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._listen = listen
        self._source = source
        self._cluster_id = cluster_id
        self._node = node
        self._registry = registry
        self._now = now
        self._tls = tls
        self._lock = threading.Lock()
        self._kept: dict[str, Kept] = {}
        self._wires: set[Wire] = set()
        self._closed = False
        self._socket: socket.socket | None = None
        self.address: tuple[str, int] = listen

    def start(self) -> None:
        """Binds and serves from a thread. Raises OSError."""
        family = socket.AF_INET6 if ":" in self._listen[0] else socket.AF_INET
        self._socket = socket.create_server(self._listen, family=family, backlog=16)
        self.address = self._socket.getsockname()[:2]
        threading.Thread(target=self._accept, name="bulk-accept", daemon=True).start()

    def stop(self) -> None:
        """Closes listener and connections; their threads end by themselves."""
        with self._lock:
            self._closed = True
            wires = list(self._wires)
            self._kept.clear()
        if self._socket is not None:
            try:
                self._socket.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            self._socket.close()
        for wire in wires:
            wire.close()

    def _accept(self) -> None:
        listener = self._socket
        invariant(listener is not None, "the listener is bound")
        while not self._closed and listener is not None:
            try:
                sock, address = listener.accept()
            except OSError:
                if self._closed:
                    return
                continue
            if len(self._wires) >= CONNECTIONS_MAX:
                sock.close()
                continue
            threading.Thread(target=self._serve, args=(sock, address), name="bulk-send", daemon=True).start()

    def _serve(self, sock: socket.socket, address: tuple[str, int]) -> None:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
            if self._tls is not None:
                sock.settimeout(SEND_MS / 1000)
                sock = self._tls.wrap_socket(sock, server_side=True)
            wire = Wire(sock, silence_ms=IDLE_MS, send_ms=SEND_MS)
        except OSError as error:
            log.info("transfer.refused", address=str(address), reason=str(error))
            sock.close()
            return
        with self._lock:
            self._wires.add(wire)
            closed = self._closed
        connection = _Connection(self, wire)
        try:
            if not closed:
                connection.run()
        except (OSError, Damaged) as error:
            log.info("transfer.connection_ended", address=str(address), reason=str(error))
        except Exception as error:
            # Serving others must not take this node down: the receiver sees a closed connection and asks another peer.
            log.error("transfer.serving_failed", address=str(address), error=error)
        finally:
            with self._lock:
                self._wires.discard(wire)
            connection.leave()
            wire.release()

    # ------------------------------------------------------------ what is kept for whom

    def choose(self, asked: GetManifest) -> HeldCheckpoint | None:
        """The checkpoint that the receiver knows, if somebody still holds it, else the newest."""
        with self._lock:
            for kept in self._kept.values():
                manifest = kept.checkpoint.manifest
                if manifest.digest == asked.have and manifest.index >= asked.index_min:
                    return kept.checkpoint
        return self._source.choose(asked.index_min)

    def keep(self, transfer: str, purpose: str, peer: str, checkpoint: HeldCheckpoint, known: bool) -> Kept:
        """Holds `checkpoint` for that transfer; `known` = the receiver has its manifest already."""
        with self._lock:
            self._expire()
            kept = self._kept.get(transfer)
            tracked = self._registry.start(transfer, purpose=purpose, direction="out", peer=peer)
            if kept is None:
                kept = self._kept[transfer] = Kept(checkpoint, tracked, _nothing_sent(checkpoint))
            elif kept.checkpoint is not checkpoint:
                kept.checkpoint, kept.sent = checkpoint, _nothing_sent(checkpoint)
            kept.connections += 1
            kept.left_at = None
            again = known or kept.connections > 1 or tracked.row.done_bytes > 0
        tracked.update(state="running", resumes=tracked.row.resumes + (1 if again else 0))
        self._registry.event("transfer.resumed" if again else "transfer.started", tracked)
        return kept

    def leave(self, transfer: str, finished: bool) -> None:
        """A connection of that transfer has ended."""
        with self._lock:
            kept = self._kept.get(transfer)
            if kept is None:
                return
            kept.connections -= 1
            kept.left_at = self._now()
            if finished:
                del self._kept[transfer]
            self._expire()
        if finished:
            kept.tracked.finish("done")
            self._registry.event("transfer.finished", kept.tracked)
        else:
            kept.tracked.update(state="retrying")

    def _expire(self) -> None:
        now = self._now()
        for transfer, kept in list(self._kept.items()):
            if kept.connections <= 0 and kept.left_at is not None and now - kept.left_at > LINGER_S:
                del self._kept[transfer]
                kept.tracked.finish("failed")

    @property
    def registry(self) -> Registry:
        return self._registry

    def new_sender(self) -> sender.Sender:
        return sender.Sender(cluster_id=self._cluster_id, node=self._node)


def _nothing_sent(checkpoint: HeldCheckpoint) -> np.ndarray:
    return np.zeros((len(checkpoint.manifest.leaves), 256), bool)


class _Connection:
    """One receiver's connection: reads requests, executes the effects of `Sender`."""

    def __init__(self, server: BulkServer, wire: Wire) -> None:
        self._server = server
        self._wire = wire
        self._core = server.new_sender()
        self._kept: Kept | None = None
        self._open = True
        self._finished = False
        self._counted = 0

    def run(self) -> None:
        """Until the receiver goes or breaks the protocol. Raises OSError or Damaged."""
        while self._open:
            header = self._wire.receive_header()
            body = self._wire.receive_body(header)
            for effect in self._core.on(header, body):
                self._execute(effect)

    def leave(self) -> None:
        if self._kept is not None and self._core.hello is not None:
            self._server.leave(self._core.hello.transfer, self._finished)

    def _execute(self, effect: sender.Effect) -> None:
        if isinstance(effect, sender.SendPages):
            self._send_pages(effect)
        elif isinstance(effect, sender.Answer):
            self._wire.send(encode_control(effect.kind, effect.body))
        elif isinstance(effect, sender.ChooseManifest):
            self._choose(effect)
        elif isinstance(effect, sender.SendManifest):
            self._send_manifest(effect)
        elif isinstance(effect, sender.SendLeaves):
            self._send_leaves(effect)
        elif isinstance(effect, sender.SendChunks):
            self._send_chunks(effect)
        elif isinstance(effect, sender.SendWait):
            self._wire.send(encode_frame(Kind.WAIT, effect.request))
        elif isinstance(effect, sender.NoteTotal):
            self._serving().tracked.update(total_bytes=effect.told.total_bytes)
        elif isinstance(effect, sender.LetGo):
            self._finished, self._open = True, False
        else:
            log.info("transfer.closed", reason=effect.reason)
            self._open = False

    def _choose(self, effect: sender.ChooseManifest) -> None:
        """Choosing may encode a large state: the receiver is told to wait meanwhile, so that it does not hang up."""
        future: Future[HeldCheckpoint | None] = Future()

        def work() -> None:
            try:
                future.set_result(self._server.choose(effect.asked))
            except Exception as error:
                future.set_exception(error)

        threading.Thread(target=work, name="bulk-choose", daemon=True).start()
        while True:
            try:
                checkpoint = future.result(timeout=WAIT_EVERY_S)
                break
            except FutureTimeout:
                self._wire.send(encode_frame(Kind.WAIT, effect.request))
        hello = self._core.hello
        if checkpoint is None or hello is None:
            for answer in self._core.not_chosen(effect.request, effect.asked):
                self._execute(answer)
            return
        if self._kept is not None:
            self._server.leave(hello.transfer, False)
        known = effect.asked.have != b""
        self._kept = self._server.keep(hello.transfer, hello.purpose, hello.node, checkpoint, known)
        for answer in self._core.chosen(effect.request, effect.asked, checkpoint.manifest):
            self._execute(answer)

    def _send_manifest(self, effect: sender.SendManifest) -> None:
        if effect.unchanged:
            self._wire.send(encode_frame(Kind.MANIFEST, effect.request, encode_manifest_part(0, 0, b"")))
            return
        raw = encode_manifest(effect.manifest)
        for at in range(0, len(raw), FRAME_BYTES):
            part = encode_manifest_part(len(raw), at, raw[at : at + FRAME_BYTES])
            self._wire.send(encode_frame(Kind.MANIFEST, effect.request, part))
        self._count(0)

    def _send_leaves(self, effect: sender.SendLeaves) -> None:
        checkpoint = self._serving().checkpoint
        body = b"".join(
            encode_leaf(leaf_id, checkpoint.entries(leaf_id), since=since) for leaf_id, since in effect.asks.tolist()
        )
        self._wire.send(encode_frame(Kind.LEAVES, effect.request, body))
        self._count(0)

    def _send_chunks(self, effect: sender.SendChunks) -> None:
        raw = self._serving().checkpoint.chunk(int(effect.numbers[0]))
        packed = lz4.block.compress(raw, store_size=False)
        codec, body = (Codec.LZ4, packed) if len(packed) < len(raw) else (Codec.RAW, raw)
        self._wire.send(encode_frame(Kind.CHUNKS, effect.request, body, codec))
        self._count(0)

    def _send_pages(self, effect: sender.SendPages) -> None:
        kept = self._serving()
        try:
            views = kept.checkpoint.views(effect.places, effect.page_shift)
        except Rotten as error:
            log.error("transfer.rotten", reason=str(error))
            self._wire.send(encode_control(Kind.REFUSED, RefusedBody("rotten", str(error)), effect.request))
            return
        raw_bytes = len(effect.places) << effect.page_shift
        codec: Codec = Codec.RAW
        if effect.codec is Codec.LZ4:
            packed = lz4.block.compress(b"".join(views), store_size=False)
            if len(packed) < raw_bytes:
                codec, views = Codec.LZ4, [memoryview(packed)]
        body_bytes = sum(map(len, views))
        self._wire.send(encode_header(Kind.PAGES, effect.request, body_bytes, 0, codec), *views)
        leaf, position = effect.places["leaf"], effect.places["position"]
        again = int(np.count_nonzero(kept.sent[leaf, position])) << effect.page_shift
        kept.sent[leaf, position] = True
        self._count(raw_bytes, again, codec)

    def _serving(self) -> Kept:
        kept = self._kept
        if kept is None:
            raise Damaged("request before a manifest was chosen")
        return kept

    def _count(self, page_bytes: int, again: int = 0, codec: Codec = Codec.RAW) -> None:
        kept = self._serving()
        sent, self._counted = self._wire.sent_bytes - self._counted, self._wire.sent_bytes
        row = kept.tracked.row
        kept.tracked.update(
            done_bytes=row.done_bytes + page_bytes - again,
            resent_bytes=row.resent_bytes + again,
            codec=codec.name.lower(),
        )
        self._server.registry.count(sent_bytes=sent, resent_bytes=again)
