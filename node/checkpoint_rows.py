"""Rows of the checkpoint: keys, values and their checksums (docs/format.md, "checkpoint"). This file owns their bytes.

Every value ends with a CRC-32 over key and value, because LMDB has none. Leaves have ids of their own, so that a leaf
that many snapshots share is stored once; page tables name them as (leaf_no, leaf id).
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from struct import Struct as Layout
from typing import Any, Final
from zlib import crc32

import lz4.block
import msgspec
import numpy as np
import numpy.typing as npt

from node.digest import DIGEST_BYTES
from node.heap import Heap
from node.image import SnapshotMeta, SpaceMeta, StateMeta
from node.table import BLOCK_BYTES, Leaf, Leaves
from wal.checks import Corrupt, invariant

CHECKPOINT_VERSION: Final = 1
HEAP_VERSION: Final = 1  # a heap file is pages and nothing else, so its version stands here

STATE: Final = "state"
LEAF: Final = "leaf"
SPACE: Final = "space"
SNAPSHOT: Final = "snapshot"
HELD: Final = "held"
WINDOW: Final = "window"
KEY: Final = "key"
SESSION: Final = "session"
STAGE: Final = "stage"
EVENT: Final = "event"
BLOB: Final = "blob"
TABLES: Final = (STATE, LEAF, SPACE, SNAPSHOT, HELD, WINDOW, KEY, SESSION, STAGE, EVENT, BLOB)

HEAD_KEY: Final = b"head"
U64: Final = Layout(">Q")
U64_PAIR: Final = Layout(">QQ")
CRC: Final = Layout(">I")
LEAF_HEAD: Final = Layout(">BBHI")  # page_shift codec pages block_bytes
invariant(LEAF_HEAD.size == 8, "docs/format.md, table checkpoint leaf", size=LEAF_HEAD.size)
RAW_BLOCK: Final = 0
LZ4_BLOCK: Final = 1
SNAPSHOT_RING: Final = 0
OTHER_RING: Final = 1

SMALL_TABLE: Final = 64  # leaves up to which plain Python is faster than NumPy


class Head(msgspec.Struct, array_like=True, frozen=True):
    """What a checkpoint is of. `undo_tail`: where the undo log ends in it."""

    checkpoint_version: int
    heap_version: int
    index: int
    term: int
    prev_index: int
    prev_term: int
    digest: bytes
    undo_tail: int
    next_leaf_id: int
    meta: StateMeta


class SpaceRow(msgspec.Struct, array_like=True, frozen=True):
    """A space with its live page table and the bounds of its undo window."""

    meta: SpaceMeta
    window_first_lvc: int
    window_count: int
    leaves: bytes


class SnapshotRow(msgspec.Struct, array_like=True, frozen=True):
    meta: SnapshotMeta
    leaves: bytes


class WindowRow(msgspec.Struct, array_like=True, frozen=True):
    """Columns of undo records of LVCs from the one in the key on, as arrays' bytes (little-endian)."""

    rows: int
    columns: tuple[bytes, ...]


encode: Final = msgspec.msgpack.Encoder().encode


def decode(raw: bytes | memoryview, kind: Any, path: str) -> Any:
    """A msgpack value of type `kind`. Raises Corrupt: its checksum held, so another version wrote it."""
    try:
        return msgspec.msgpack.decode(raw, type=kind)
    except msgspec.MsgspecError as error:
        raise Corrupt(path, 0, f"a value of type {getattr(kind, '__name__', kind)}", str(error)) from error


def seal(key: bytes, value: bytes) -> bytes:
    """The value as it is stored."""
    return value + CRC.pack(crc32(value, crc32(key)))


def unseal(path: str, table: str, key: bytes, stored: bytes) -> memoryview:
    """The value without its checksum. Raises Corrupt that names table and key."""
    where = f"{path}#{table}/{key.hex()}"
    if len(stored) < CRC.size:
        raise Corrupt(where, 0, "a checksum", f"{len(stored)} bytes")
    view = memoryview(stored)
    value = view[: -CRC.size]
    (expected,) = CRC.unpack(view[-CRC.size :])
    found = crc32(value, crc32(key))
    if found != expected:
        raise Corrupt(where, 0, f"crc {expected:08x}", f"{found:08x}")
    return value


# ---------------------------------------------------------------- page tables and leaves


def pack_table(leaves: Leaves, id_of: Callable[[Leaf], int]) -> tuple[bytes, bytes]:
    """A page table as leaf numbers (u32) and then leaf ids (u64), little-endian; and the part with the ids."""
    count = len(leaves)
    if count <= SMALL_TABLE:
        numbers = struct.pack(f"<{count}I", *leaves)
        ids = struct.pack(f"<{count}Q", *map(id_of, leaves.values()))
    else:
        numbers = np.fromiter(leaves.keys(), np.dtype("<u4"), count).tobytes()
        ids = np.fromiter(map(id_of, leaves.values()), np.dtype("<u8"), count).tobytes()
    return numbers + ids, ids


def unpack_table(raw: bytes) -> tuple[list[int], bytes]:
    """Inverse of `pack_table`: leaf numbers, and the part with the ids."""
    count = len(raw) // 12
    return np.frombuffer(raw, "<u4", count).tolist(), bytes(raw[4 * count :])


def list_ids(ids: bytes) -> list[int]:
    """Leaf ids out of their bytes."""
    found: list[int] = np.frombuffer(ids, "<u8").tolist()
    return found


def changed_ids(old: bytes, new: bytes) -> tuple[list[int], list[int]]:
    """Ids that came and ids that went; each stands once in a table."""
    if old == new:
        return [], []
    if not old:
        return list_ids(new), []
    if len(new) <= 8 * SMALL_TABLE and len(old) <= 8 * SMALL_TABLE:
        before, after = set(list_ids(old)), set(list_ids(new))
        return list(after - before), list(before - after)
    left, right = np.frombuffer(old, "<u8"), np.frombuffer(new, "<u8")
    came: list[int] = np.setdiff1d(right, left, assume_unique=True).tolist()
    went: list[int] = np.setdiff1d(left, right, assume_unique=True).tolist()
    return came, went


def pack_leaf(leaf: Leaf) -> bytes:
    """A frozen and hashed leaf: head, block, digests of its present pages, digest of the leaf."""
    digest = leaf.digest
    if digest is None:
        invariant(False, "a leaf is hashed before it is stored")
        digest = b""
    slots = leaf.slots
    present = slots[slots != 0]
    block = bytes(leaf.block)
    codec = LZ4_BLOCK
    packed = lz4.block.compress(block, store_size=False)
    if len(packed) >= len(block):
        codec, packed = RAW_BLOCK, block
    head = LEAF_HEAD.pack(leaf.heap.page_size.bit_length() - 1, codec, len(present), len(packed))
    return b"".join((head, packed, leaf.heap.digests[present].tobytes(), digest))


class StoredLeaf(msgspec.Struct, frozen=True):
    """A leaf as it was stored. `digests` are those of the present pages, in the order of their positions."""

    page_size: int
    block: bytes
    slots: npt.NDArray[np.uint32]
    digests: npt.NDArray[np.uint8]
    digest: bytes


def unpack_leaf(raw: memoryview, path: str) -> StoredLeaf:
    """Inverse of `pack_leaf`. Raises Corrupt."""
    try:
        shift, codec, count, block_bytes = LEAF_HEAD.unpack_from(raw)
        at = LEAF_HEAD.size + block_bytes
        packed = raw[LEAF_HEAD.size : at]
        block = bytes(packed) if codec == RAW_BLOCK else lz4.block.decompress(packed, uncompressed_size=BLOCK_BYTES)
        digests = np.frombuffer(raw, np.uint8, count * DIGEST_BYTES, at).reshape(count, DIGEST_BYTES)
        digest = bytes(raw[at + count * DIGEST_BYTES :])
        slots = np.frombuffer(block, np.uint32, 256, 2048)
    except (ValueError, struct.error, lz4.block.LZ4BlockError) as error:
        raise Corrupt(path, 0, "a leaf", str(error)) from error
    present = slots[slots != 0]
    if len(block) != BLOCK_BYTES or len(digest) != DIGEST_BYTES or len(present) != count:
        raise Corrupt(path, 0, f"a leaf of {count} pages", f"{len(present)} pages, digest of {len(digest)} bytes")
    return StoredLeaf(1 << shift, block, present, digests, digest)


def adopt_leaf(heap: Heap, stored: StoredLeaf, identity: int) -> Leaf:
    """The leaf in memory, with references to its slots; they count as unverified."""
    leaf = Leaf.adopt(heap, stored.block)
    leaf.digest = stored.digest
    leaf.stored_id = identity
    heap.adopt(stored.slots, stored.digests)
    return leaf
