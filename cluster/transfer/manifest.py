"""The manifest: what a checkpoint consists of, without its bytes. This file owns its encoding (docs/format.md,
"manifest").

Everything in it is a function of the replicated state at `index`, nothing of the node that wrote it (no slot
numbers), so
two nodes make the same manifest of the same index, and any of them can go on with what another one began.
"""

from __future__ import annotations

from struct import Struct as Layout
from typing import Final

import msgspec
import numpy as np

from cluster.transfer.digests import DIGEST_BYTES, manifest_digest
from cluster.transfer.frames import Damaged
from wal.checks import invariant

MAGIC: Final = b"LGMF"
VERSION: Final = 1
# magic version 0 | index term prev_index prev_term | content digest | leaves chunks
HEAD: Final = Layout(">4sHHQQQQ16sII")
invariant(HEAD.size == 64, "docs/format.md, table manifest", size=HEAD.size)

LEAF_ROW: Final = np.dtype(
    [
        ("digest", "u1", (16,)),
        ("meta", "u1", (16,)),
        ("uid", "<u8"),
        ("leaf_no", "<u4"),
        ("page_shift", "u1"),
        ("zero", "u1"),
        ("pages", "<u2"),
    ]
)
CHUNK_ROW: Final = np.dtype([("digest", "u1", (16,)), ("raw_bytes", "<u4"), ("purpose", "u1"), ("zero", "u1", (3,))])
invariant(LEAF_ROW.itemsize == 48 and CHUNK_ROW.itemsize == 24, "docs/format.md, table manifest")

CHUNK_BYTES: Final = 256 * 1024  # raw bytes of one chunk, at most
META: Final = 0  # purposes: the encoded state without pages, cut in chunks
UNDO: Final = 1  # undo records of the windows
PAGE_SHIFTS: Final = range(12, 17)
MANIFEST_BYTES_MAX: Final = 1 << 30


class Manifest(msgspec.Struct, frozen=True, eq=False):
    """`leaves` (LEAF_ROW) holds each distinct leaf once; a leaf's id is its place in there. `chunks`: CHUNK_ROW.

    `uid` and `leaf_no` say where a leaf stands (the first such place): a receiver that holds that space can ask for
    less.
    `content` is the digest that the consensus message carries (node/checkpoint_digest.py); `digest` is the
    manifest's own.
    `prev_index` and `prev_term` name the entry before `index`, which the consensus core needs beside it.
    """

    index: int
    term: int
    prev_index: int
    prev_term: int
    content: bytes
    leaves: np.ndarray
    chunks: np.ndarray
    digest: bytes


def build_manifest(
    *,
    index: int,
    term: int,
    prev_index: int,
    prev_term: int,
    content: bytes,
    leaves: np.ndarray,
    chunks: np.ndarray,
) -> Manifest:
    """A manifest with its digest."""
    invariant(leaves.dtype == LEAF_ROW and chunks.dtype == CHUNK_ROW, "rows of a manifest")
    invariant(len(content) == DIGEST_BYTES, "a content digest", content=content)
    made = Manifest(index, term, prev_index, prev_term, content, leaves, chunks, b"")
    return msgspec.structs.replace(made, digest=manifest_digest(_body(made)))


def encode_manifest(manifest: Manifest) -> bytes:
    """Digest (16 bytes), head, leaf rows, chunk rows."""
    return manifest.digest + _body(manifest)


def _body(made: Manifest) -> bytes:
    numbers = (made.index, made.term, made.prev_index, made.prev_term)
    head = HEAD.pack(MAGIC, VERSION, 0, *numbers, made.content, len(made.leaves), len(made.chunks))
    return head + made.leaves.tobytes() + made.chunks.tobytes()


def decode_manifest(raw: bytes | bytearray | memoryview) -> Manifest:
    """Inverse of `encode_manifest`; the digest is verified. Raises Damaged."""
    if len(raw) < DIGEST_BYTES + HEAD.size:
        raise Damaged(f"manifest of {len(raw)} bytes")
    digest, body = bytes(raw[:DIGEST_BYTES]), memoryview(raw)[DIGEST_BYTES:]
    magic, version, flags, index, term, prev_index, prev_term, content, leaf_count, chunk_count = HEAD.unpack_from(body)
    if magic != MAGIC or version != VERSION or flags != 0:
        raise Damaged(f"manifest {magic!r} version {version} flags {flags}, known is {MAGIC!r} version {VERSION}")
    if manifest_digest(body) != digest:
        raise Damaged("manifest digest")
    chunks_at = HEAD.size + leaf_count * LEAF_ROW.itemsize
    if len(body) != chunks_at + chunk_count * CHUNK_ROW.itemsize:
        raise Damaged(f"manifest of {len(body)} bytes for {leaf_count} leaves and {chunk_count} chunks")
    leaves = np.frombuffer(body, LEAF_ROW, leaf_count, HEAD.size)
    chunks = np.frombuffer(body, CHUNK_ROW, chunk_count, chunks_at)
    if not np.isin(leaves["page_shift"], list(PAGE_SHIFTS)).all() or not (chunks["raw_bytes"] <= CHUNK_BYTES).all():
        raise Damaged("manifest rows")
    return Manifest(index, term, prev_index, prev_term, content, leaves, chunks, digest)
