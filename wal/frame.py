"""Bytes of every record and segment header of the journal and the undo log (docs/format.md, "segment", "frame").

A frame is a 32-byte header and a payload. The header's checksum is seeded with the salt of its segment, so that stale
frames of a recycled file, or bytes of a client that look like a frame, never pass for a frame of this segment.
`synced` is the highest sequence number known to be durable when the frame was made: it tells a torn tail, which was
never acknowledged, from damage to what was.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple
from zlib import crc32

from wal.checks import Corrupt, invariant
from wal.disk import Buffer

FRAME_VERSION: Final = 1
MAGIC: Final = b"LF"
HEAD: Final = Struct(">2sBBIQQI")  # magic version kind payload_bytes seq synced payload_crc
HEAD_CRC: Final = Struct(">I")
HEAD_BYTES: Final = HEAD.size + HEAD_CRC.size
invariant(HEAD_BYTES == 32, "docs/format.md, table frame", size=HEAD_BYTES)

PAYLOAD_BYTES_MAX: Final = 1 << 30

SEGMENT_MAGIC: Final = b"LGSG"
SEGMENT_VERSION: Final = 1
# magic version purpose flags segment_id salt first_seq oldest_segment term base last_index last_term vote_bytes
SEGMENT: Final = Struct(">4sHBBQQQQQQQQH")
SEGMENT_HEADER_BYTES: Final = 4096
invariant(SEGMENT.size == 74, "docs/format.md, table segment", size=SEGMENT.size)

RECYCLED: Final = 1  # flag of a segment whose file held an older segment


class Kind(IntEnum):
    """What a frame's payload is."""

    ENTRY = 1  # index u64, term u64, command
    VOTE = 2  # term u64, vote utf-8 (empty: none)
    TRUNCATE = 3  # index u64: entries from it on are gone
    COMPACT = 4  # base u64, oldest segment u64: entries below base may be gone, segments below oldest are
    RESET = 5  # entries u32: the log becomes the next so many entries, or nothing happened if they are not all there
    MARK = 6  # nothing: says by `synced` that all before it is durable
    UNDO = 7  # a record of the undo log


class Purpose(IntEnum):
    JOURNAL = 1
    UNDO = 2


class Head(NamedTuple):
    """A frame's header. `seq` counts the frames of a log from 1 over its whole life."""

    kind: int
    payload_bytes: int
    seq: int
    synced: int
    payload_crc: int


class SegmentHead(NamedTuple):
    """A segment's header, with the state of the log at its start. Undo segments leave the Raft fields 0."""

    purpose: int
    flags: int
    segment_id: int
    salt: int
    first_seq: int
    oldest_segment: int
    term: int
    base: int
    last_index: int
    last_term: int
    vote: str | None


def pack_head(kind: int, payload_bytes: int, seq: int, synced: int, payload_crc: int, salt: int) -> bytes:
    """The 32 bytes before a payload."""
    head = HEAD.pack(MAGIC, FRAME_VERSION, kind, payload_bytes, seq, synced, payload_crc)
    return head + HEAD_CRC.pack(crc32(head, salt))


def unpack_head(buffer: Buffer, offset: int, salt: int) -> Head | None:
    """The header at `offset` in `buffer`, or None if there is no whole and undamaged one of this segment."""
    if offset + HEAD_BYTES > len(buffer):
        return None
    magic, version, kind, payload_bytes, seq, synced, payload_crc = HEAD.unpack_from(buffer, offset)
    if magic != MAGIC or version != FRAME_VERSION or payload_bytes > PAYLOAD_BYTES_MAX:
        return None
    (stored,) = HEAD_CRC.unpack_from(buffer, offset + HEAD.size)
    if stored != crc32(memoryview(buffer)[offset : offset + HEAD.size], salt):
        return None
    return Head(kind, payload_bytes, seq, synced, payload_crc)


def read_payload(buffer: Buffer, path: str, file_offset: int, salt: int, at: int = 0) -> tuple[Head, memoryview]:
    """Header and checked payload of the frame at `at` in `buffer`, which is at `file_offset` in `path`.

    Raises Corrupt naming path and offset when the frame is not whole and undamaged.
    """
    head = unpack_head(buffer, at, salt)
    if head is None:
        raise Corrupt(path, file_offset, "a frame", bytes(buffer[at : at + HEAD_BYTES]).hex())
    start = at + HEAD_BYTES
    payload = memoryview(buffer)[start : start + head.payload_bytes]
    found = crc32(payload)
    if len(payload) != head.payload_bytes or found != head.payload_crc:
        raise Corrupt(path, file_offset, f"payload crc {head.payload_crc:08x}", f"{found:08x} of {len(payload)} bytes")
    return head, payload


def pack_segment_head(head: SegmentHead) -> bytes:
    """The first 4096 bytes of a segment file: fields, vote, zeros, and a CRC-32 in the last four bytes."""
    vote = (head.vote or "").encode()
    fields = SEGMENT.pack(SEGMENT_MAGIC, SEGMENT_VERSION, *head[:-1], len(vote)) + vote
    invariant(len(fields) <= SEGMENT_HEADER_BYTES - 4, "vote fits into the segment header", vote=head.vote)
    body = fields.ljust(SEGMENT_HEADER_BYTES - 4, b"\0")
    return body + HEAD_CRC.pack(crc32(body))


def unpack_segment_head(buffer: Buffer, path: str, purpose: Purpose) -> SegmentHead:
    """Inverse of `pack_segment_head`. Raises Corrupt; segments get their name only once their header is durable."""
    if len(buffer) < SEGMENT_HEADER_BYTES:
        raise Corrupt(path, 0, f"a segment header of {SEGMENT_HEADER_BYTES} bytes", f"{len(buffer)} bytes")
    view = memoryview(buffer)
    magic, version, *fields, vote_bytes = SEGMENT.unpack_from(view)
    if magic != SEGMENT_MAGIC or version != SEGMENT_VERSION:
        raise Corrupt(path, 0, f"{SEGMENT_MAGIC!r} version {SEGMENT_VERSION}", f"{magic!r} version {version}")
    (stored,) = HEAD_CRC.unpack_from(view, SEGMENT_HEADER_BYTES - 4)
    found = crc32(view[: SEGMENT_HEADER_BYTES - 4])
    if stored != found:
        raise Corrupt(path, 0, f"header crc {stored:08x}", f"{found:08x}")
    if fields[0] != purpose:
        raise Corrupt(path, 0, f"a segment of purpose {purpose.name}", fields[0])
    vote = bytes(view[SEGMENT.size : SEGMENT.size + vote_bytes]).decode()
    purpose_found, flags, segment_id, salt, first_seq, oldest, term, base, last_index, last_term = fields
    return SegmentHead(
        purpose_found, flags, segment_id, salt, first_seq, oldest, term, base, last_index, last_term, vote or None
    )
