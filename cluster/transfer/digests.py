"""Digests that only the transfer makes: 16 bytes of BLAKE3, domain-separated from those of pages, leaves and roots."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from blake3 import blake3

DIGEST_BYTES: Final = 16
_META: Final = blake3(derive_key_context="lastgood 2026 transfer leaf metadata v1")
_CHUNK: Final = blake3(derive_key_context="lastgood 2026 transfer chunk v1")
_MANIFEST: Final = blake3(derive_key_context="lastgood 2026 transfer manifest v1")


def _digest(domain: blake3, pieces: Iterable[bytes | memoryview]) -> bytes:
    hasher = domain.copy()
    for piece in pieces:
        hasher.update(piece)
    return hasher.digest(DIGEST_BYTES)


def metadata_digest(*columns: bytes | memoryview) -> bytes:
    """Over presence, versions and marks of all 256 entries of a leaf."""
    return _digest(_META, columns)


def chunk_digest(raw: bytes | memoryview) -> bytes:
    return _digest(_CHUNK, (raw,))


def manifest_digest(*pieces: bytes | memoryview) -> bytes:
    return _digest(_MANIFEST, pieces)
