"""Frames of the bulk listener. This file owns their bytes (docs/format.md, table "transfer frame").

Headers are big-endian; columns of numbers inside bodies are little-endian, as NumPy reads them in place. A header and a
control body are guarded by CRC-32; pages and chunks are guarded by their BLAKE3 digests, which the receiver already
has.
"""

from __future__ import annotations

import enum
import zlib
from struct import Struct as Layout
from typing import Final

import msgspec
import numpy as np

from wal.checks import invariant

MAGIC: Final = b"LGBK"
VERSION: Final = 1
HEADER: Final = Layout(">4sBBBBIIII")  # magic, version, kind, codec, 0, request, body bytes, body crc, header crc
invariant(HEADER.size == 24, "docs/format.md, table transfer frame", size=HEADER.size)
_HEADER_CRC_AT: Final = 20

FRAME_BYTES: Final = 256 * 1024  # page bytes of one frame, at most
BODY_BYTES_MAX: Final = 1024 * 1024  # of any frame: a header that says more is damage
PLACE: Final = np.dtype([("leaf", "<u4"), ("position", "u1")])
LEAF_ASK: Final = np.dtype([("leaf", "<u4"), ("since", "<u8")])


class Kind(enum.IntEnum):
    """What a frame says. Odd ones go from receiver to sender, even ones back."""

    HELLO = 1
    WELCOME = 2
    GET_MANIFEST = 3
    MANIFEST = 4
    GET_LEAVES = 5
    LEAVES = 6
    GET_CHUNKS = 7
    CHUNKS = 8
    GET_PAGES = 9
    PAGES = 10
    PING = 11
    WAIT = 12  # the answer is being made; also the answer to PING
    BYE = 13  # all is there and durable: the sender may let the checkpoint go
    REFUSED = 14
    TELL = 15  # how much will be asked for; no answer


class Codec(enum.IntEnum):
    RAW = 0
    LZ4 = 1


class Damaged(Exception):
    """Bytes from the peer that can't be what it sent, or that break the protocol. The connection is dropped."""


class Header(msgspec.Struct, frozen=True):
    kind: Kind
    codec: Codec
    request: int
    body_bytes: int
    body_crc: int


class Hello(msgspec.Struct, frozen=True):
    """First frame of the receiver. `transfer` names the transfer across its connections."""

    cluster_id: str
    node: str
    transfer: str
    purpose: str


class Welcome(msgspec.Struct, frozen=True):
    node: str


class GetManifest(msgspec.Struct, frozen=True):
    """Wanted: the checkpoint with digest `have` if the sender still holds it, else its newest of at least
    `index_min`.
    """

    index_min: int
    have: bytes


class Tell(msgspec.Struct, frozen=True):
    """What the receiver has found to be missing, for the sender's list of transfers. Page bytes."""

    total_bytes: int
    done_bytes: int


class RefusedBody(msgspec.Struct, frozen=True):
    """`code`: `wrong_cluster`, `not_yet` (no checkpoint of that index yet), `gone` (ask for the manifest again),
    `rotten`.
    """

    code: str
    detail: str


CONTROL: Final[dict[Kind, type[Hello] | type[Welcome] | type[GetManifest] | type[RefusedBody] | type[Tell]]] = {
    Kind.HELLO: Hello,
    Kind.WELCOME: Welcome,
    Kind.GET_MANIFEST: GetManifest,
    Kind.REFUSED: RefusedBody,
    Kind.TELL: Tell,
}
ControlBody = Hello | Welcome | GetManifest | RefusedBody | Tell
_encode = msgspec.msgpack.Encoder().encode

# Pages and chunks carry no CRC: their digests say more. A part of a manifest is covered by the manifest's digest as
# well,
# but a CRC finds its damage before the whole has come.
WITHOUT_CRC: Final = frozenset({Kind.PAGES, Kind.CHUNKS})


def encode_header(kind: Kind, request: int, body_bytes: int, body_crc: int = 0, codec: Codec = Codec.RAW) -> bytes:
    head = HEADER.pack(MAGIC, VERSION, kind, codec, 0, request, body_bytes, body_crc, 0)
    return head[:_HEADER_CRC_AT] + zlib.crc32(head[:_HEADER_CRC_AT]).to_bytes(4, "big")


def encode_frame(kind: Kind, request: int, body: bytes = b"", codec: Codec = Codec.RAW) -> bytes:
    """Header and body. `request` comes back in the answer."""
    crc = 0 if kind in WITHOUT_CRC else zlib.crc32(body)
    return encode_header(kind, request, len(body), crc, codec) + body


def encode_control(kind: Kind, body: ControlBody, request: int = 0) -> bytes:
    return encode_frame(kind, request, _encode(body))


def decode_header(raw: bytes | bytearray | memoryview) -> Header:
    """Inverse of `encode_header`. Raises Damaged."""
    magic, version, kind, codec, zero, request, body_bytes, body_crc, crc = HEADER.unpack_from(raw)
    if magic != MAGIC:
        raise Damaged(f"frame magic {magic!r}, expected {MAGIC!r}")
    if version != VERSION:
        raise Damaged(f"frame version {version}, known is {VERSION}")
    if crc != zlib.crc32(bytes(raw[:_HEADER_CRC_AT])):
        raise Damaged("frame header checksum")
    if body_bytes > BODY_BYTES_MAX or zero != 0:
        raise Damaged(f"frame of {body_bytes} bytes, at most {BODY_BYTES_MAX}")
    try:
        return Header(Kind(kind), Codec(codec), request, body_bytes, body_crc)
    except ValueError as error:
        raise Damaged(f"frame kind {kind} codec {codec}") from error


def check_body(header: Header, body: bytes | bytearray | memoryview) -> None:
    """Raises Damaged when the body is not the one that the header was made for."""
    if len(body) != header.body_bytes:
        raise Damaged(f"body of {len(body)} bytes, header says {header.body_bytes}")
    if header.kind not in WITHOUT_CRC and zlib.crc32(body) != header.body_crc:
        raise Damaged(f"checksum of a {header.kind.name} frame")


def decode_control(kind: Kind, body: bytes | bytearray | memoryview) -> ControlBody:
    """Body of a kind in `CONTROL`. Raises Damaged."""
    try:
        return msgspec.msgpack.decode(body, type=CONTROL[kind])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Damaged(f"body of {kind.name}: {error}") from error


# Parts of a manifest: total bytes, then offset, then the bytes. Total 0 = "the one that you have".
MANIFEST_PART: Final = Layout(">QQ")


def encode_manifest_part(total: int, offset: int, part: bytes | memoryview) -> bytes:
    return MANIFEST_PART.pack(total, offset) + bytes(part)


def decode_manifest_part(body: bytes | memoryview) -> tuple[int, int, memoryview]:
    """(total bytes, offset, part). Raises Damaged."""
    if len(body) < MANIFEST_PART.size:
        raise Damaged(f"manifest part of {len(body)} bytes")
    total, offset = MANIFEST_PART.unpack_from(body)
    part = memoryview(body)[MANIFEST_PART.size :]
    if offset + len(part) > total:
        raise Damaged(f"manifest part ends at {offset + len(part)} of {total}")
    return total, offset, part


def encode_places(leaf_ids: np.ndarray, positions: np.ndarray) -> bytes:
    """Body of GET_PAGES: which pages, by leaf id of the manifest and position (0 … 255) in the leaf."""
    places = np.empty(len(leaf_ids), PLACE)
    places["leaf"] = leaf_ids
    places["position"] = positions
    return places.tobytes()


def decode_places(body: bytes | memoryview) -> np.ndarray:
    return _column(body, PLACE, "GET_PAGES")


def encode_leaf_asks(leaf_ids: np.ndarray, since: np.ndarray) -> bytes:
    """Body of GET_LEAVES: leaf ids, each with the version above which entries are wanted (0 = all)."""
    asks = np.empty(len(leaf_ids), LEAF_ASK)
    asks["leaf"] = leaf_ids
    asks["since"] = since
    return asks.tobytes()


def decode_leaf_asks(body: bytes | memoryview) -> np.ndarray:
    return _column(body, LEAF_ASK, "GET_LEAVES")


def encode_chunk_asks(numbers: np.ndarray) -> bytes:
    return np.asarray(numbers, "<u4").tobytes()


def decode_chunk_asks(body: bytes | memoryview) -> np.ndarray:
    return _column(body, np.dtype("<u4"), "GET_CHUNKS")


def _column(body: bytes | memoryview, kind: np.dtype, name: str) -> np.ndarray:
    if len(body) == 0 or len(body) % kind.itemsize:
        raise Damaged(f"body of {name} has {len(body)} bytes, not a multiple of {kind.itemsize}")
    return np.frombuffer(body, kind)
