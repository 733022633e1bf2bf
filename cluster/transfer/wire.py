"""A blocking socket of the bulk listener: whole frames out, exact byte counts in, silence is an error.

Big calls on purpose: one `sendmsg` or `recvmsg_into` moves up to 256 KiB without the GIL, so that the event loop of the
same process keeps its heartbeats.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Sequence
from struct import Struct as Layout
from typing import Final

from cluster.transfer.frames import HEADER, Header, check_body, decode_header

TIMEVAL: Final = Layout("@ll")
BUFFER_BYTES: Final = 2 * 1024 * 1024
IOV_MAX: Final = 512


class Silent(OSError):
    """No byte came for as long as silence is allowed."""


def _timeval(milliseconds: int) -> bytes:
    return TIMEVAL.pack(milliseconds // 1000, milliseconds % 1000 * 1000)


class Wire:
    """One connection. One thread reads, one thread at a time sends. Every failure is an OSError."""

    def __init__(self, sock: socket.socket, *, silence_ms: int, send_ms: int) -> None:
        """`silence_ms`: longest wait for one more byte. `send_ms`: longest wait for room to send one more byte."""
        self._sock = sock
        self._tls = isinstance(sock, ssl.SSLSocket)
        self.closed = False
        self.sent_bytes = 0
        self.received_bytes = 0
        if self._tls:
            sock.settimeout(max(silence_ms, send_ms) / 1000)
        else:
            # Timeouts of the kernel, not of Python: these keep MSG_WAITALL, so that a frame is one call.
            sock.settimeout(None)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(silence_ms))
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(send_ms))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, *parts: bytes | memoryview) -> None:
        """Sends all bytes of all parts. Raises OSError."""
        waiting = [memoryview(part).cast("B") for part in parts if len(part)]
        while waiting:
            try:
                sent = self._sock.send(waiting[0]) if self._tls else self._sock.sendmsg(waiting[:IOV_MAX])
            except BlockingIOError as error:
                raise Silent("the peer takes no bytes") from error
            self.sent_bytes += sent
            waiting = _advance(waiting, sent)

    def receive_into(self, views: Sequence[memoryview]) -> None:
        """Fills all of `views`. Raises OSError; Silent when nothing came in time."""
        waiting = [view for view in views if len(view)]
        while waiting:
            try:
                got = self._receive_some(waiting)
            except (BlockingIOError, TimeoutError) as error:
                raise Silent("the peer is silent") from error
            if got == 0:
                raise ConnectionResetError("the peer has closed the connection")
            self.received_bytes += got
            waiting = _advance(waiting, got)

    def _receive_some(self, waiting: list[memoryview]) -> int:
        if self._tls:
            return self._sock.recv_into(waiting[0])
        if len(waiting) == 1:
            return self._sock.recv_into(waiting[0], 0, socket.MSG_WAITALL)
        return self._sock.recvmsg_into(waiting[:IOV_MAX], 0, socket.MSG_WAITALL)[0]

    def receive(self, nbytes: int) -> bytearray:
        buffer = bytearray(nbytes)
        self.receive_into([memoryview(buffer)])
        return buffer

    def receive_header(self) -> Header:
        """The next frame's header. Raises OSError or Damaged."""
        return decode_header(self.receive(HEADER.size))

    def receive_body(self, header: Header) -> bytearray:
        """The body after `header`, checked. Raises OSError or Damaged."""
        body = self.receive(header.body_bytes)
        check_body(header, body)
        return body

    def close(self) -> None:
        """Ends both directions; a thread that waits in here gets an OSError. Any thread; twice is fine."""
        self.closed = True
        try:
            self._sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def release(self) -> None:
        """Gives the descriptor back; by the thread that reads, after `close`."""
        self.close()
        self._sock.close()


def _advance(waiting: list[memoryview], nbytes: int) -> list[memoryview]:
    """What is left of the views after `nbytes` of them are done."""
    for at, view in enumerate(waiting):
        if nbytes < len(view):
            return [view[nbytes:], *waiting[at + 1 :]]
        nbytes -= len(view)
    return []
