"""Unary gRPC calls over plain HTTP/2, just enough to load etcd: one stream at a time a connection.

The usual client library costs a multiple of etcd's own time a call in Python and would measure itself. A call counts
only when its stream carried a message and then ended; errors carry none.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable
from typing import cast

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_FRAME_BYTES_MAX = 16384
_DATA, _HEADERS, _RESET, _SETTINGS, _PING = 0, 1, 3, 4, 6
_END_STREAM, _END_HEADERS, _ACK = 1, 4, 1


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
    return bytes(out)


def message(*fields: bytes) -> bytes:
    """A protobuf message whose fields 1, 2, … are these bytes."""
    return b"".join(_varint(at << 3 | 2) + _varint(len(value)) + value for at, value in enumerate(fields, 1))


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def _headers(path: str) -> bytes:
    def text(value: str) -> bytes:
        return bytes((len(value),)) + value.encode()  # all shorter than 127, not Huffman-coded

    return (
        b"\x83\x86\x04" + text(path) + b"\x01" + text("localhost") + b"\x0f\x10" + text("application/grpc")
        + b"\x00" + text("te") + text("trailers")
    )  # fmt: skip


class Connection(asyncio.Protocol):
    """Sends the next request when the last one is answered, until `end`."""

    def __init__(self, path: str, make: Callable[[], bytes], end: float, ended: Callable[[], None]) -> None:
        self.times: list[float] = []
        self.errors = 0
        self._headers = _headers(path)
        self._make, self._end, self._ended = make, end, ended
        self._held = b""
        self._stream = -1
        self._got_message = False
        self._asked = 0.0
        self._over = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass
        window = struct.pack(">I", 0x7FFFFFFF - 65535)
        self._transport.write(
            _PREFACE + _frame(_SETTINGS, 0, 0, struct.pack(">HI", 4, 0x7FFFFFFF)) + _frame(8, 0, 0, window)
        )
        self._send()

    def _send(self) -> None:
        if time.perf_counter() >= self._end:
            self._finish()
            self._transport.close()
            return
        self._stream += 2
        self._got_message = False
        body = self._make()
        body = b"\0" + struct.pack(">I", len(body)) + body
        out = _frame(_HEADERS, _END_HEADERS, self._stream, self._headers)
        while len(body) > _FRAME_BYTES_MAX:
            out += _frame(_DATA, 0, self._stream, body[:_FRAME_BYTES_MAX])
            body = body[_FRAME_BYTES_MAX:]
        self._asked = time.perf_counter()
        self._transport.write(out + _frame(_DATA, _END_STREAM, self._stream, body))

    def _finish(self) -> None:
        if not self._over:
            self._over = True
            self._ended()

    def connection_lost(self, error: Exception | None) -> None:
        if not self._over:
            self.errors += 1
            self._finish()

    def data_received(self, chunk: bytes) -> None:
        held, at = self._held + chunk, 0
        while len(held) - at >= 9:
            length = int.from_bytes(held[at : at + 3], "big")
            if len(held) - at < 9 + length:
                break
            self._frame_came(held[at + 3], held[at + 4], held[at + 9 : at + 9 + length])
            at += 9 + length
        self._held = held[at:]

    def _frame_came(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == _SETTINGS and not flags & _ACK:
            self._transport.write(_frame(_SETTINGS, _ACK, 0))
        elif kind == _PING and not flags & _ACK:
            self._transport.write(_frame(_PING, _ACK, 0, payload))
        elif kind == _RESET:
            self.errors += 1
            self._send()
        elif kind in (_DATA, _HEADERS):
            self._got_message = self._got_message or (kind == _DATA and bool(payload))
            if flags & _END_STREAM:
                if self._got_message:
                    self.times.append(time.perf_counter() - self._asked)
                else:
                    self.errors += 1
                self._send()


async def load(
    port: int, clients: int, seconds: float, path: str, make: Callable[[], bytes]
) -> tuple[float, list[float], int]:
    """`clients` connections with one call in flight each: rate a second, every call's seconds, errors."""
    loop = asyncio.get_running_loop()
    all_ended = loop.create_future()
    left = clients

    def ended() -> None:
        nonlocal left
        left -= 1
        if not left and not all_ended.done():
            all_ended.set_result(None)

    begun = time.perf_counter()
    made = [
        (await loop.create_connection(lambda: Connection(path, make, begun + seconds, ended), "127.0.0.1", port))[1]
        for _ in range(clients)
    ]
    await asyncio.wait_for(all_ended, seconds + 20)
    took = time.perf_counter() - begun
    times = [one for connection in made for one in connection.times]
    return len(times) / took, times, sum(connection.errors for connection in made)
