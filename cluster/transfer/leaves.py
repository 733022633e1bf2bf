"""Entries of a leaf as they travel: which pages are there, their versions, marks and digests. No slots: those are
local.

A leaf has 256 positions. An entry travels when its page is present, or has a version (a rollback can leave a version on
an absent page) or a mark. `merge` completes the entries above a version with those that the receiver already holds.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Final

import lz4.block
import msgspec
import numpy as np

from cluster.transfer.digests import metadata_digest
from cluster.transfer.frames import Damaged
from wal.checks import invariant

ENTRIES: Final = 256
# leaf id, entries, codec of the columns, 0, bytes of the columns
HEAD: Final = Layout(">IHBBI")
invariant(HEAD.size == 12, "docs/format.md, table leaf entries", size=HEAD.size)
ENTRY_BYTES: Final = 1 + 1 + 8 + 4 + 16  # position, presence, version, mark, digest
ENTRIES_RAW: Final = 0
ENTRIES_LZ4: Final = 1


class LeafEntries(msgspec.Struct, frozen=True, eq=False):
    """Columns over all 256 positions: `present` bool, `versions` u64, `marks` u32, `digests` (256, 16) u8.

    The digest of an absent page is zeros here, whatever the digest of a zero page is elsewhere.
    """

    present: np.ndarray
    versions: np.ndarray
    marks: np.ndarray
    digests: np.ndarray

    def meta_digest(self) -> bytes:
        """Over all but the page digests, which the leaf digest covers."""
        return metadata_digest(
            np.packbits(self.present).tobytes(),
            self.versions.astype("<u8", copy=False).tobytes(),
            self.marks.astype("<u4", copy=False).tobytes(),
        )


def empty_entries() -> LeafEntries:
    return LeafEntries(
        np.zeros(ENTRIES, bool),
        np.zeros(ENTRIES, np.uint64),
        np.zeros(ENTRIES, np.uint32),
        np.zeros((ENTRIES, 16), np.uint8),
    )


def encode_leaf(leaf_id: int, entries: LeafEntries, *, since: int = 0, compress: bool = True) -> bytes:
    """Entries with a version above `since`; with `since` 0 all that say anything."""
    said = entries.present | (entries.versions > 0) | (entries.marks > 0)
    if since:
        said = entries.versions > since
    at = np.flatnonzero(said)
    columns = b"".join(
        (
            at.astype(np.uint8).tobytes(),
            entries.present[at].astype(np.uint8).tobytes(),
            entries.versions[at].astype("<u8").tobytes(),
            entries.marks[at].astype("<u4").tobytes(),
        )
    )
    codec = ENTRIES_RAW
    if compress and columns:
        packed = lz4.block.compress(columns, store_size=False)
        if len(packed) < len(columns):
            codec, columns = ENTRIES_LZ4, packed
    digests = entries.digests[at].tobytes()  # the digests don't compress
    return HEAD.pack(leaf_id, len(at), codec, 0, len(columns)) + columns + digests


def decode_leaves(body: bytes | memoryview) -> list[tuple[int, np.ndarray, LeafEntries, bytes]]:
    """(leaf id, positions that travelled, entries, their bytes) of each leaf in a LEAVES body. Raises Damaged."""
    view, offset, found = memoryview(body), 0, []
    while offset < len(view):
        if len(view) - offset < HEAD.size:
            raise Damaged("leaf entries end in a header")
        leaf_id, count, codec, zero, packed_bytes = HEAD.unpack_from(view, offset)
        began, offset = offset, offset + HEAD.size
        stop = offset + packed_bytes + 16 * count
        if count > ENTRIES or zero != 0 or stop > len(view):
            raise Damaged(f"leaf {leaf_id}: {count} entries in {len(view) - offset} bytes")
        columns = _unpack(view[offset : offset + packed_bytes], codec, count * (ENTRY_BYTES - 16))
        digests = np.frombuffer(view, np.uint8, 16 * count, offset + packed_bytes).reshape(count, 16)
        found.append((leaf_id, *_columns(leaf_id, columns, count, digests), bytes(view[began:stop])))
        offset = stop
    return found


def _unpack(packed: memoryview, codec: int, raw_bytes: int) -> bytes:
    if codec == ENTRIES_RAW:
        columns = bytes(packed)
    elif codec == ENTRIES_LZ4:
        try:
            columns = lz4.block.decompress(packed, uncompressed_size=raw_bytes)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise Damaged(f"leaf entries: {error}") from error
    else:
        raise Damaged(f"leaf entries of codec {codec}")
    if len(columns) != raw_bytes:
        raise Damaged(f"leaf entries of {len(columns)} bytes, expected {raw_bytes}")
    return columns


def _columns(leaf_id: int, columns: bytes, count: int, digests: np.ndarray) -> tuple[np.ndarray, LeafEntries]:
    at = np.frombuffer(columns, np.uint8, count).astype(np.intp)
    if count > 1 and not (np.diff(at) > 0).all():
        raise Damaged(f"leaf {leaf_id}: positions out of order")
    entries = empty_entries()
    entries.present[at] = np.frombuffer(columns, np.uint8, count, count) != 0
    entries.versions[at] = np.frombuffer(columns, "<u8", count, 2 * count)
    entries.marks[at] = np.frombuffer(columns, "<u4", count, 10 * count)
    entries.digests[at] = digests
    return at, entries


def merge(base: LeafEntries, at: np.ndarray, newer: LeafEntries) -> LeafEntries:
    """`base` with the positions `at` taken from `newer`. Whether that is the leaf wanted, its digests must say."""
    merged = LeafEntries(base.present.copy(), base.versions.copy(), base.marks.copy(), base.digests.copy())
    merged.present[at] = newer.present[at]
    merged.versions[at] = newer.versions[at]
    merged.marks[at] = newer.marks[at]
    merged.digests[at] = newer.digests[at]
    return merged
