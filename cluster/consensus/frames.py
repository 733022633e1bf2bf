"""Bytes between members (docs/format.md, table "raft frames"). This file owns them; nothing foreign is unpickled.

A connection carries frames of at most 64 KiB, so that a sign of life gets between the pieces of a large message:

    frame    payload_bytes u32, kind u8, flags u8, zero u16, crc32 u32 of the eight bytes before, payload
    message  header_bytes u32, crc32 u32 of the header, header (msgpack map), the entries' commands in a row

In the header an entry is [wire_bytes, raw_bytes, index, term, crc32 of the wire bytes]; it is an LZ4 block if the two
sizes differ. A command is checked, hashed and compressed once, however many followers it goes to.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from struct import Struct
from typing import Any, Final
from zlib import crc32

import lz4.block
import msgspec

from cluster.consensus.seams import Message
from cluster.consensus.settings import APPEND_BATCH_BYTES, COMMAND_BYTES_MAX
from wal.checks import invariant

PROTOCOL_VERSION: Final = 1
HEAD: Final = Struct(">IBBHI")
MESSAGE_HEAD: Final = Struct(">II")
invariant(HEAD.size == 12, "docs/format.md, raft frames", size=HEAD.size)

FRAME_BYTES_MAX: Final = 64 * 1024
HEADER_BYTES_MAX: Final = 1024 * 1024
MESSAGE_BYTES_MAX: Final = APPEND_BATCH_BYTES + HEADER_BYTES_MAX
COMPRESS_BYTES_MIN: Final = 4096
COMPRESS_RATIO_MAX: Final = 0.9  # a block that saves less than a tenth goes raw
MORE: Final = 1  # flag: the message goes on in the next frame of its kind


class Kind(IntEnum):
    HELLO = 1
    MESSAGE = 2  # first in, first out
    URGENT = 3  # a small message that may overtake the rest of a large one: pings carry no promise
    PING = 4  # nothing but a sign of life
    REFUSED = 5  # instead of a hello: a reason in UTF-8


class BadFrame(Exception):
    """What came is no frame, no message, or not what the message's type has. The connection is closed."""


class Hello(msgspec.Struct, array_like=True, frozen=True):
    """The first frame of each side. `run` is drawn at process start; `epoch` counts the dialler's connections in it."""

    version: int
    cluster_id: str
    node_id: str
    to: str
    incarnation: str
    run: str
    epoch: int
    members: dict[str, str] | None  # incarnations that the sender's log has recorded


# Fields of each message beside `type`. A message from outside is checked against this before the core sees it.
_INT_FIELDS: Final[dict[str, tuple[str, ...]]] = {
    "append_entries": ("term", "seq", "prevLogIdx", "prevLogTerm", "commit_index"),
    "install": ("term", "seq", "commit_index"),
    "beat": ("term", "seq"),
    "next_node_idx": ("term", "echo", "next_node_idx"),
    "request_vote": ("term", "last_log_index", "last_log_term"),
    "response_vote": ("term",),
    "prevote": ("term", "round", "last_index", "last_term"),
    "prevote_answer": ("term", "round"),
    "ping": ("term", "round"),
    "pong": ("term", "round"),
    "read_ask": ("id",),
    "read_answer": ("id",),
    "timeout_now": ("term",),
    "term_hint": ("term",),
}
_OTHER_FIELDS: Final[dict[str, dict[str, type | tuple[type, ...]]]] = {
    "append_entries": {"entries": list},
    "install": {"base": list},
    "next_node_idx": {"success": bool, "reset": bool, "inc": str},
    "request_vote": {"inc": str},
    "response_vote": {"inc": str},
    "prevote_answer": {"granted": bool},
    "read_answer": {"index": (int, type(None))},
}

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, Any]).decode
_decode_hello = msgspec.msgpack.Decoder(Hello).decode


def frame_head(kind: Kind, payload_bytes: int, flags: int = 0) -> bytes:
    """The 12 bytes in front of a payload."""
    head = HEAD.pack(payload_bytes, kind, flags, 0, 0)[:8]
    return head + crc32(head).to_bytes(4, "big")


PING_FRAME: Final = frame_head(Kind.PING, 0)


def parse_head(head: bytes | bytearray | memoryview) -> tuple[Kind, int, bool]:
    """(kind, payload bytes, whether the message goes on). Raises BadFrame."""
    payload_bytes, kind, flags, zero, crc = HEAD.unpack_from(head)
    if crc32(bytes(head[:8])) != crc or zero != 0 or flags & ~MORE or payload_bytes > FRAME_BYTES_MAX:
        raise BadFrame("not a frame")
    try:
        return Kind(kind), payload_bytes, bool(flags & MORE)
    except ValueError as error:
        raise BadFrame(f"frame kind {kind}") from error


class EntryEncoder:
    """Check sums and LZ4 blocks of the newest commands, made once for all followers. Bounded in bytes."""

    def __init__(self, bytes_max: int = 16 * 1024 * 1024) -> None:
        self._bytes_max = bytes_max
        self._bytes = 0
        self._known: dict[int, tuple[bytes, int, bytes | None, int]] = {}  # index -> command, crc, block, its crc

    def wire(self, command: bytes, index: int, compress: bool) -> tuple[bytes, int]:
        """Bytes to send for this command, and their check sum."""
        known = self._known.get(index)
        if known is None or known[0] is not command:
            known = (command, crc32(command), None, 0)
            self._remember(index, known)
        if not compress or len(command) < COMPRESS_BYTES_MIN:
            return command, known[1]
        if known[2] is None:
            block = lz4.block.compress(command, store_size=False)
            if len(block) > COMPRESS_RATIO_MAX * len(command):
                block = command
            known = (command, known[1], block, crc32(block))
            self._remember(index, known)
        return known[2] or command, known[3]

    def _remember(self, index: int, known: tuple[bytes, int, bytes | None, int]) -> None:
        self._forget(index)
        self._known[index] = known
        self._bytes += len(known[0])
        while self._bytes > self._bytes_max and len(self._known) > 1:
            self._forget(next(iter(self._known)))

    def _forget(self, index: int) -> None:
        known = self._known.pop(index, None)
        if known is not None:
            self._bytes -= len(known[0])


def encode_message(message: Message, encoder: EntryEncoder, *, compress: bool) -> list[bytes]:
    """The message as buffers: heads first, then the commands as they are."""
    entries = message.get("entries")
    commands: list[bytes] = []
    if entries:
        described = []
        for command, index, term in entries:
            wire, crc = encoder.wire(command, index, compress)
            commands.append(wire)
            described.append((len(wire), len(command), index, term, crc))
        message = message | {"entries": described}
    header = _encode(message)
    return [MESSAGE_HEAD.pack(len(header), crc32(header)) + header, *commands]


def decode_message(payload: bytes | bytearray) -> Message:
    """Inverse of `encode_message`. Raises BadFrame for anything that the core must not see."""
    try:
        message = _decode_checked(memoryview(payload))
    except BadFrame:
        raise
    except Exception as error:
        raise BadFrame(f"not a message: {error}") from error
    return message


def _decode_checked(view: memoryview) -> Message:
    header_bytes, crc = MESSAGE_HEAD.unpack_from(view)
    start = MESSAGE_HEAD.size + header_bytes
    header = view[MESSAGE_HEAD.size : start]
    if header_bytes > HEADER_BYTES_MAX or len(header) != header_bytes or crc32(header) != crc:
        raise BadFrame("a header that is cut or damaged")
    message = _decode(header)
    _check_fields(message)
    if message["type"] == "append_entries":
        message["entries"] = list(_entries(message["entries"], view, start))
    elif start != len(view):
        raise BadFrame("bytes behind a message")
    return message


def _check_fields(message: Message) -> None:
    kind = message.get("type")
    if not isinstance(kind, str) or kind not in _INT_FIELDS:
        raise BadFrame(f"message type {kind!r}")
    for name in _INT_FIELDS[kind]:
        value = message.get(name)
        if type(value) is not int or value < 0:
            if kind == "request_vote" and value == -1:
                continue
            raise BadFrame(f"{kind}.{name} is {value!r}")
    for name, types in _OTHER_FIELDS.get(kind, {}).items():
        if name not in message or not isinstance(message[name], types):
            raise BadFrame(f"{kind}.{name} is missing or of another type")
    if kind == "install":
        base = message["base"]
        if len(base) != 5 or [type(value) for value in base] != [int, int, int, int, bytes]:
            raise BadFrame("install.base")


def _entries(described: list[Any], view: memoryview, offset: int) -> Iterator[tuple[bytes, int, int]]:
    for wire_bytes, raw_bytes, index, term, crc in described:
        if not 0 < raw_bytes <= COMMAND_BYTES_MAX or not 0 < wire_bytes <= raw_bytes:
            raise BadFrame(f"an entry of {wire_bytes} bytes for {raw_bytes}")
        wire = view[offset : offset + wire_bytes]
        offset += wire_bytes
        if len(wire) != wire_bytes or crc32(wire) != crc:
            raise BadFrame(f"entry {index} is cut or damaged")
        if wire_bytes == raw_bytes:
            command = bytes(wire)
        else:
            command = lz4.block.decompress(wire, uncompressed_size=raw_bytes)
            if len(command) != raw_bytes:
                raise BadFrame(f"entry {index} unpacks to {len(command)} bytes, not {raw_bytes}")
        yield command, int(index), int(term)
    if offset != len(view):
        raise BadFrame("bytes behind the last entry")


def encode_hello(hello: Hello) -> bytes:
    """A whole frame."""
    body = _encode(hello)
    return frame_head(Kind.HELLO, len(body) + 4) + crc32(body).to_bytes(4, "big") + body


def decode_hello(payload: bytes | bytearray) -> Hello:
    """Inverse of `encode_hello`, without the frame's head. Raises BadFrame."""
    body = bytes(payload[4:])
    if crc32(body).to_bytes(4, "big") != payload[:4]:
        raise BadFrame("a damaged hello")
    try:
        return _decode_hello(body)
    except msgspec.MsgspecError as error:
        raise BadFrame(f"not a hello: {error}") from error


def into_frames(kind: Kind, parts: list[bytes]) -> Iterator[list[bytes | memoryview]]:
    """Frames of at most FRAME_BYTES_MAX for the message in `parts`, each as buffers to write at once."""
    pieces: list[bytes | memoryview] = []
    size = 0
    for part in parts:
        at = 0
        while at < len(part):
            if size == FRAME_BYTES_MAX:
                yield [frame_head(kind, size, MORE), *pieces]
                pieces, size = [], 0
            take = min(len(part) - at, FRAME_BYTES_MAX - size)
            pieces.append(part if take == len(part) else memoryview(part)[at : at + take])
            at += take
            size += take
    yield [frame_head(kind, size), *pieces]
