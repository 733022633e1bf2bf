"""Reading the frames of one connection: bytes in, events out. Whatever breaks the protocol ends the connection as
Damaged.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from typing import Final, Protocol

from cluster.transfer.frames import (
    BODY_BYTES_MAX,
    FRAME_BYTES,
    Codec,
    Damaged,
    Header,
    Kind,
    RefusedBody,
    Welcome,
    decode_control,
    decode_manifest_part,
)
from cluster.transfer.manifest import MANIFEST_BYTES_MAX, decode_manifest
from cluster.transfer.protocol import (
    Ask,
    Event,
    GotManifest,
    ManifestUnchanged,
    PeerRefused,
    Received,
    Welcomed,
)
from cluster.transfer.wire import Wire

WAITS_MAX: Final = 600  # in a row, one every 100 ms: a peer that only puts us off is left after a minute


class Shell(Protocol):
    """What the reader needs of the transfer. Any thread."""

    def on(self, event: Event) -> None: ...

    def ask_of(self, request: int) -> Ask | None:
        """What was asked for under that number, None when it is not expected."""

    def expects(self, event: type) -> bool:
        """True when the link is in a state in which the peer may say that."""

    def await_bytes(self, wire: Wire) -> bool:
        """Waits until the peer owes something. False when nothing more is needed of it. Raises OSError when dropped."""

    def verify(self, request: int, ask: Ask, header: Header, body: memoryview) -> None:
        """Hands on what was wholly received."""


def dial(host: str, port: int, *, silence_ms: int, window_bytes: int, tls: ssl.SSLContext | None) -> Wire:
    """A connection to a bulk listener, within `silence_ms`. Raises OSError."""
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window_bytes)
        sock.settimeout(silence_ms / 1000)
        sock.connect((host, port))
        if tls is not None:
            sock = tls.wrap_socket(sock, server_hostname=host)
    except OSError:
        sock.close()
        raise
    return Wire(sock, silence_ms=silence_ms, send_ms=silence_ms)


class Reader:
    """One connection. Page frames go into buffers that `buffers` lends and gets back: at most a window of them
    exists.
    """

    def __init__(self, wire: Wire, shell: Shell, buffers: list[bytearray]) -> None:
        self._wire = wire
        self._shell = shell
        self._buffers = buffers
        self._manifest = bytearray()
        self._waits = 0
        self._read: dict[Kind, Callable[[Header], None]] = {
            Kind.PAGES: self._pages,
            Kind.LEAVES: self._answer,
            Kind.CHUNKS: self._answer,
            Kind.MANIFEST: self._manifest_part,
            Kind.WELCOME: self._welcome,
            Kind.REFUSED: self._refused,
            Kind.WAIT: self._wait,
        }

    def run(self) -> None:
        """Until nothing more is needed. Raises OSError when the connection ends, Damaged when the peer is wrong."""
        while self._shell.await_bytes(self._wire):
            header = self._wire.receive_header()
            read = self._read.get(header.kind)
            if read is None:
                raise Damaged(f"a sender does not say {header.kind.name}")
            read(header)
            self._waits = self._waits + 1 if header.kind is Kind.WAIT else 0
            if self._waits > WAITS_MAX:
                raise Damaged(f"{self._waits} times nothing but WAIT")

    def _say(self, event: Event) -> None:
        if not self._shell.expects(type(event)):
            raise Damaged(f"{type(event).__name__} out of turn")
        self._shell.on(event)

    def _asked(self, header: Header) -> Ask:
        ask = self._shell.ask_of(header.request)
        if ask is None or ask.kind + 1 != header.kind:
            raise Damaged(f"{header.kind.name} of request {header.request} that was not asked for")
        return ask

    def _pages(self, header: Header) -> None:
        ask = self._asked(header)
        if header.body_bytes > ask.nbytes or (header.codec is Codec.RAW and header.body_bytes < ask.nbytes):
            raise Damaged(f"{header.body_bytes} bytes of pages, asked for {ask.nbytes}")
        buffer = self._buffers.pop() if self._buffers else bytearray(FRAME_BYTES)
        body = memoryview(buffer)[: header.body_bytes]
        self._wire.receive_into([body])
        self._shell.on(Received(header.request))
        self._shell.verify(header.request, ask, header, body)

    def _answer(self, header: Header) -> None:
        ask = self._asked(header)
        body = memoryview(self._wire.receive_body(header))
        self._shell.on(Received(header.request))
        self._shell.verify(header.request, ask, header, body)

    def _manifest_part(self, header: Header) -> None:
        total, offset, part = decode_manifest_part(bytes(self._wire.receive_body(header)))
        if total == 0:
            self._say(ManifestUnchanged())
            return
        parts = self._manifest
        if offset != len(parts) or total > MANIFEST_BYTES_MAX or len(part) > BODY_BYTES_MAX:
            raise Damaged(f"manifest part at {offset} of {total}, expected {len(parts)}")
        parts += part
        if len(parts) == total:
            self._manifest = bytearray()
            self._say(GotManifest(decode_manifest(bytes(parts))))

    def _welcome(self, header: Header) -> None:
        control = decode_control(header.kind, self._wire.receive_body(header))
        if isinstance(control, Welcome):
            self._say(Welcomed(control.node))

    def _refused(self, header: Header) -> None:
        control = decode_control(header.kind, self._wire.receive_body(header))
        if isinstance(control, RefusedBody):
            self._shell.on(PeerRefused(control.code, control.detail))

    def _wait(self, header: Header) -> None:
        self._wire.receive_body(header)
