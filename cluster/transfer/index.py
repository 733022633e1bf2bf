"""Which slots hold which bytes: pages by digest, so that what is here anywhere is not asked for."""

from __future__ import annotations

from typing import Final

import numpy as np

from node.heap import U8, U32

_KEY: Final = np.dtype("S16")


def _keys(digests: U8) -> np.ndarray:
    """Digests as values that sort. `S16` drops trailing zeros in comparisons on both sides alike, so equality holds."""
    return np.ascontiguousarray(digests).reshape(-1, 16).view(_KEY).reshape(-1)


class DigestIndex:
    """Digest to slot, of one heap. Built from arrays, asked with arrays. Slot 0 = not here."""

    def __init__(self, digests: U8, slots: U32) -> None:
        keys = _keys(digests)
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._slots = slots[order]

    def find(self, digests: U8) -> U32:
        """For each digest a slot with these bytes, or 0."""
        found = np.zeros(len(digests), np.uint32)
        if len(self._keys) and len(digests):
            keys = _keys(digests)
            at = np.searchsorted(self._keys, keys)
            at[at == len(self._keys)] = 0
            hit = self._keys[at] == keys
            found[hit] = self._slots[at[hit]]
        return found


def first_of_each(digests: U8) -> np.ndarray:
    """Places of the first occurrence of each distinct digest, ascending."""
    return np.sort(np.unique(_keys(digests), return_index=True)[1])
