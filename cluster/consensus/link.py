"""One connection between two members: frames in, frames out, signs of life. Decides nothing about consensus."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, Protocol

from cluster.consensus.frames import (
    HEAD,
    MESSAGE_BYTES_MAX,
    PING_FRAME,
    BadFrame,
    EntryEncoder,
    Hello,
    Kind,
    decode_hello,
    decode_message,
    encode_message,
    frame_head,
    into_frames,
    parse_head,
)
from cluster.consensus.seams import Message

PING_S: Final = 0.1  # of silence on our side
DEAD_S: Final = 1.5  # of silence on the other side
LIFE_S: Final = 0.04  # at most so often the core is told of bytes that came
UNSENT_BYTES_MAX: Final = 128 * 1024  # in the kernel, beyond what the line takes
USER_TIMEOUT_MS: Final = 5000  # the kernel gives up what is not acknowledged for so long
SOCKET_BYTES_MAX: Final = 128 * 1024  # handed to the socket; what is behind it waits here, so pings get between
QUEUE_BYTES_MAX: Final = 64 * 1024 * 1024
COMPRESS_BACKLOG_BYTES: Final = 512 * 1024  # a link that has this much waiting gets compressed entries
URGENT: Final = frozenset({"ping", "pong"})


class LinkEvents(Protocol):
    """What happens on a link. `on_lost` comes exactly once."""

    def on_open(self, link: Link) -> None: ...
    def on_hello(self, link: Link, hello: Hello) -> None: ...
    def on_message(self, link: Link, message: Message) -> None: ...
    def on_life(self, link: Link, in_message: bool) -> None: ...
    def on_lost(self, link: Link, reason: str) -> None: ...


class Link(asyncio.Protocol):
    """`peer` and `cid` are set by the network once the hello is right; before that only a hello is taken."""

    def __init__(
        self, events: LinkEvents, encoder: EntryEncoder, now: Callable[[], float], dialled: str | None
    ) -> None:
        self._events, self._encoder, self._now = events, encoder, now
        self.dialled = dialled  # the member that we called, None when we were called
        self.peer: str | None = None
        self.cid = 0
        self.opened_at = now()
        self.heard_at = self.opened_at
        self._written_at = self.opened_at
        self._told_at = self.opened_at
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._assembly: bytearray | None = None
        self._waiting: deque[list[bytes | memoryview]] = deque()
        self._waiting_bytes = 0
        self._paused = False
        self._lost = False
        self._reason = ""

    # ---------------------------------------------------------------- asyncio's side
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        transport.set_write_buffer_limits(high=SOCKET_BYTES_MAX, low=SOCKET_BYTES_MAX // 2)  # type: ignore[attr-defined]
        raw = transport.get_extra_info("socket")
        if raw is not None:
            with suppress(OSError):
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT_MS)
                raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES_MAX)
        self._events.on_open(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self._lost:
            self._lost = True
            self._waiting.clear()
            self._events.on_lost(self, self._reason or (str(exc) if exc else "closed by the other side"))

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._pump()

    def data_received(self, received: bytes) -> None:
        self.heard_at = self._now()
        buffer = self._received
        buffer += received
        try:
            at = 0
            while len(buffer) - at >= HEAD.size and not self._lost:
                kind, size, more = parse_head(memoryview(buffer)[at : at + HEAD.size])
                if len(buffer) - at < HEAD.size + size:
                    break
                payload = buffer[at + HEAD.size : at + HEAD.size + size]
                at += HEAD.size + size
                self._on_frame(kind, payload, more)
            if at:
                del buffer[:at]
            if self.peer is not None and self.heard_at - self._told_at >= LIFE_S:
                self._told_at = self.heard_at
                self._events.on_life(self, self._assembly is not None or len(buffer) >= HEAD.size)
        except BadFrame as error:
            self.close(f"bad frame: {error}")

    def _on_frame(self, kind: Kind, payload: bytearray, more: bool) -> None:
        if kind is Kind.PING:
            return
        if kind is Kind.HELLO and self.peer is None:
            self._events.on_hello(self, decode_hello(payload))
        elif kind is Kind.REFUSED and self.peer is None:
            self.close(f"refused: {payload.decode(errors='replace')[:300]}")
        elif self.peer is None or kind in (Kind.HELLO, Kind.REFUSED):
            raise BadFrame(f"{kind.name} out of turn")
        elif kind is Kind.URGENT:
            self._events.on_message(self, decode_message(payload))
        else:
            self._on_piece(payload, more)

    def _on_piece(self, payload: bytearray, more: bool) -> None:
        if self._assembly is not None:
            self._assembly += payload
            payload = self._assembly
        if len(payload) > MESSAGE_BYTES_MAX:
            raise BadFrame("a message without an end")
        if more:
            self._assembly = payload
            return
        self._assembly = None
        self._events.on_message(self, decode_message(payload))

    # ---------------------------------------------------------------- our side
    def certificate_names(self) -> set[str] | None:
        """Names in the other side's certificate; None when the link has no TLS."""
        if self._transport is None or self._transport.get_extra_info("ssl_object") is None:
            return None
        certificate = self._transport.get_extra_info("peercert") or {}
        names = {value for kind, value in certificate.get("subjectAltName", ()) if kind == "DNS"}
        subject = (pair for group in certificate.get("subject", ()) for pair in group)
        return names | {value for kind, value in subject if kind == "commonName"}

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._lost and not self._transport.is_closing()

    @property
    def backlog_bytes(self) -> int:
        """Bytes that the socket has not taken yet."""
        return self._waiting_bytes + (self._transport.get_write_buffer_size() if self._transport else 0)

    def send(self, message: Message) -> None:
        """Queue a message. Urgent ones go between the pieces of a large one. Past the bound the link closes."""
        if not self.is_open:
            return
        kind = Kind.URGENT if message["type"] in URGENT else Kind.MESSAGE
        compress = self._waiting_bytes > COMPRESS_BACKLOG_BYTES
        parts = encode_message(message, self._encoder, compress=compress)
        if kind is Kind.URGENT:
            for frame in into_frames(kind, parts):
                self._write(frame)
            return
        for frame in into_frames(kind, parts):
            self._waiting.append(frame)
            self._waiting_bytes += sum(len(piece) for piece in frame)
        if self._waiting_bytes > QUEUE_BYTES_MAX:
            self.close("the other side does not read")
        else:
            self._pump()

    def send_raw(self, frame: bytes) -> None:
        """A hello: before any message."""
        if self.is_open:
            self._write([frame])

    def refuse(self, reason: str) -> None:
        """Tell the other side why, and close."""
        body = reason.encode()[:300]
        self.send_raw(frame_head(Kind.REFUSED, len(body)) + body)
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.close()

    def close(self, reason: str) -> None:
        """Close at once, without what still waits."""
        self._reason = self._reason or reason
        if self._transport is not None:
            self._transport.abort()

    def watch(self, now: float) -> None:
        """Called every few milliseconds: a ping after PING_S of our silence, the end after DEAD_S of the other's."""
        if not self.is_open:
            return
        if now - self.heard_at > DEAD_S:
            self.close(f"silent for {now - self.heard_at:.1f} s")
        elif self.peer is not None and now - self._written_at >= PING_S:
            self._write([PING_FRAME])

    def _pump(self) -> None:
        waiting = self._waiting
        while waiting and not self._paused and self.is_open:
            frame = waiting.popleft()
            self._waiting_bytes -= sum(len(piece) for piece in frame)
            self._write(frame)

    def _write(self, frame: Sequence[bytes | memoryview]) -> None:
        if self._transport is not None:
            self._written_at = self._now()
            self._transport.writelines(frame)
