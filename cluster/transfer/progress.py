"""The progress file of an incoming transfer: what has been received and where it lies, so that nothing is asked for
twice.

An append-only file of frames (wal/frame.py) behind a salt. Order of durability: pages first, then the record that says
so. After a kill, records that were written but not synced are still there; after a power cut the file ends earlier.
What
lies past the last `DURABLE` record is believed only after its pages were read and hashed again.

The file is unlinked, and that made durable, before any of its slots can be used for something else: otherwise a power
cut could bring it back with claims about slots that hold other bytes by now.
"""

from __future__ import annotations

import enum
from struct import Struct as Layout
from typing import Final, NamedTuple
from zlib import crc32

import numpy as np

from node.heap import U8, U32
from wal.checks import Corrupt, invariant
from wal.disk import Disk, File
from wal.frame import HEAD_BYTES, pack_head, read_payload

MAGIC: Final = b"LGTP"
VERSION: Final = 1
FILE_HEAD: Final = Layout(">4sHHQ")  # magic, version, 0, salt
invariant(FILE_HEAD.size == 16, "docs/format.md, table progress file", size=FILE_HEAD.size)
FILE_NAME: Final = "transfer-in"
PLAN_HEAD: Final = Layout(">II")  # page size, pages
SPAN: Final = np.dtype([("start", "<u4"), ("stop", "<u4")])


class Record(enum.IntEnum):
    """What a frame of the progress file holds."""

    MANIFEST = 33  # an encoded manifest
    LEAF = 34  # digest and metadata digest (16 bytes each), then one leaf's entries as they travel
    CHUNK = 35  # digest (16 bytes), then the raw bytes
    PLAN = 36  # page size u32, pages u32, slots u32[] little-endian, digests 16[]: pages that will come, and where to
    DURABLE = 37  # page size u32, then spans (start, stop) of ordinals, u32 little-endian: verified and durable
    NAME = 38  # of the transfer, utf-8


class Plan(NamedTuple):
    """Pages that will be received into slots of the heap of `page_size`; ordinals count on from plan to plan."""

    page_size: int
    slots: U32
    digests: U8


class Loaded(NamedTuple):
    """One record as read back: its kind, its payload, and where the payload begins in the file."""

    kind: Record
    payload: memoryview
    offset: int


def encode_plan(plan: Plan) -> bytes:
    head = PLAN_HEAD.pack(plan.page_size, len(plan.slots))
    return head + plan.slots.astype("<u4").tobytes() + plan.digests.tobytes()


def decode_plan(payload: memoryview) -> Plan:
    page_size, count = PLAN_HEAD.unpack_from(payload)
    invariant(len(payload) == PLAN_HEAD.size + 20 * count, "a plan record that its checksum vouches for", count=count)
    slots = np.frombuffer(payload, "<u4", count, PLAN_HEAD.size).astype(np.uint32)
    digests = np.frombuffer(payload, np.uint8, 16 * count, PLAN_HEAD.size + 4 * count).reshape(count, 16)
    return Plan(page_size, slots, digests.copy())


def spans_of(ordinals: np.ndarray) -> np.ndarray:
    """Half-open spans that cover exactly `ordinals` (any order, no repeats)."""
    if len(ordinals) == 0:
        return np.empty(0, SPAN)
    ordered = np.sort(ordinals)
    breaks = np.flatnonzero(np.diff(ordered) != 1)
    spans = np.empty(len(breaks) + 1, SPAN)
    spans["start"] = ordered[np.concatenate(([0], breaks + 1))]
    spans["stop"] = ordered[np.concatenate((breaks, [len(ordered) - 1]))] + 1
    return spans


class ProgressFile:
    """Appending to and reading back the progress file. Callers serialise their calls; `sync` may run beside
    `append`.
    """

    def __init__(self, disk: Disk, folder: str) -> None:
        self.path = f"{folder}/{FILE_NAME}"
        self._disk = disk
        self._folder = folder
        self._file: File | None = None
        self._salt = 0
        self._end = 0
        self._frames = 0

    @property
    def exists(self) -> bool:
        return self._file is not None or self._disk.exists(self.path)

    @property
    def is_open(self) -> bool:
        return self._file is not None

    def open(self) -> list[Loaded]:
        """Opens or makes the file; returns its whole records. A torn or damaged tail is cut: nothing rests on it."""
        self._file = self._disk.open(self.path, create=True)
        size = self._file.size()
        content = memoryview(self._file.pread(size, 0)) if size else memoryview(b"")
        if not self._read_head(content):
            self._salt = int.from_bytes(self._disk.entropy(8), "big")
            self._file.truncate(0)
            self._file.pwrite(FILE_HEAD.pack(MAGIC, VERSION, 0, self._salt), 0)
            self._file.fdatasync()
            self._disk.fsync_dir(self._folder)
            self._end = FILE_HEAD.size
            return []
        records = self._read_records(content)
        self._file.truncate(self._end)
        return records

    def _read_head(self, content: memoryview) -> bool:
        if len(content) < FILE_HEAD.size:
            return False
        magic, version, _, self._salt = FILE_HEAD.unpack_from(content)
        return bool(magic == MAGIC and version == VERSION)

    def _read_records(self, content: memoryview) -> list[Loaded]:
        found = []
        self._end, self._frames = FILE_HEAD.size, 0
        while self._end < len(content):
            try:
                head, payload = read_payload(content, self.path, self._end, self._salt & 0xFFFFFFFF, self._end)
            except Corrupt:
                break
            if head.seq != self._frames + 1:
                break
            found.append(Loaded(Record(head.kind), payload, self._end + HEAD_BYTES))
            self._frames += 1
            self._end += HEAD_BYTES + head.payload_bytes
        return found

    def append(self, kind: Record, *parts: bytes) -> int:
        """Writes one record; returns where its payload begins. Not durable before `sync`. Raises OSError."""
        file = self._opened()
        payload_bytes, crc = 0, 0
        for part in parts:
            payload_bytes += len(part)
            crc = crc32(part, crc)
        head = pack_head(kind, payload_bytes, self._frames + 1, 0, crc, self._salt & 0xFFFFFFFF)
        offset = self._end
        file.pwritev((head, *parts), offset)
        self._frames += 1
        self._end = offset + HEAD_BYTES + payload_bytes
        return offset + HEAD_BYTES

    def read(self, offset: int, nbytes: int) -> bytes:
        return self._opened().pread(nbytes, offset)

    def sync(self) -> None:
        """All records appended so far are durable when this returns."""
        self._opened().fdatasync()

    def remove(self) -> None:
        """The file is durably gone when this returns; only then may its slots be let go."""
        if self._file is not None:
            self._file.close()
            self._file = None
        if self._disk.exists(self.path):
            self._disk.unlink(self.path)
            self._disk.fsync_dir(self._folder)
        self._end = self._frames = 0

    def close(self) -> None:
        """Leaves the file for the next process."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _opened(self) -> File:
        file = self._file
        if file is None:
            raise OSError(f"{self.path} is not open")
        return file
