"""Digests of pages, leaves and roots: 16 bytes of BLAKE3, domain-separated, without a key (docs/format.md, "digests").

A root is a function of the content alone: page_size, size and bytes. Whether a page of zeros was written or never
written makes no difference, nor does the history.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from struct import Struct as Layout
from typing import Final

from blake3 import blake3

Buffer = bytes | bytearray | memoryview

DIGEST_BYTES: Final = 16
LEAF_PAGES: Final = 256
_ROOT_HEAD: Final = Layout(">QQ")  # page_size, size
_ROOT_LEAF: Final = Layout(">Q16s")  # leaf_no, leaf digest


def _domain(context: str) -> Callable[[Iterable[Buffer]], bytes]:
    """A digest function of its own domain: equal bytes in two domains have unrelated digests."""
    base = blake3(derive_key_context=context)

    def digest(parts: Iterable[Buffer]) -> bytes:
        hasher = base.copy()
        for part in parts:
            hasher.update(part)
        return hasher.digest(length=DIGEST_BYTES)

    return digest


_page = _domain("lastgood v1 page")
_leaf = _domain("lastgood v1 leaf")
_root = _domain("lastgood v1 root")
_zero_pages: dict[int, bytes] = {}
_zero_leaves: dict[int, bytes] = {}


def page_digest(page: Buffer) -> bytes:
    """Digest of one page's bytes."""
    return _page((page,))


def leaf_digest(page_digests: Buffer) -> bytes:
    """Digest of a leaf from the 256 page digests, one after the other (4,096 bytes)."""
    return _leaf((page_digests,))


def zero_page_digest(page_size: int) -> bytes:
    """Digest of an absent page: the same as that of a page of zeros."""
    found = _zero_pages.get(page_size)
    if found is None:
        found = _zero_pages[page_size] = page_digest(bytes(page_size))
    return found


def zero_leaf_digest(page_size: int) -> bytes:
    """Digest of a leaf without a present page."""
    found = _zero_leaves.get(page_size)
    if found is None:
        found = _zero_leaves[page_size] = leaf_digest(zero_page_digest(page_size) * LEAF_PAGES)
    return found


def root_digest(page_size: int, size: int, leaves: Iterable[tuple[int, bytes]]) -> bytes:
    """Root over (leaf_no, digest) in ascending order; leaves equal to the all-zero leaf are left out."""
    zero = zero_leaf_digest(page_size)
    pack = _ROOT_LEAF.pack
    body = b"".join(pack(leaf_no, digest) for leaf_no, digest in leaves if digest != zero)
    return _root((_ROOT_HEAD.pack(page_size, size), body))
