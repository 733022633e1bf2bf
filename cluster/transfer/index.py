"""Which slots hold which bytes: pages by digest, so that what is here anywhere is not asked for."""

from __future__ import annotations

import numpy as np

from node.heap import U8, U32


def _halves(digests: U8) -> tuple[np.ndarray, np.ndarray]:
    """Digests as two columns of 64-bit numbers: sorting these is many times faster than sorting bytes."""
    wide = np.ascontiguousarray(digests).reshape(-1, 16).view(np.uint64)
    return wide[:, 0], wide[:, 1]


class DigestIndex:
    """Digest to slot, of one heap. Built from arrays, asked with arrays. Slot 0 = not here."""

    def __init__(self, digests: U8, slots: U32) -> None:
        first, second = _halves(digests)
        order = np.lexsort((second, first))
        self._first, self._second, self._slots = first[order], second[order], slots[order]

    def find(self, digests: U8) -> U32:
        """For each digest a slot with these bytes, or 0."""
        found = np.zeros(len(digests), np.uint32)
        if len(self._first) == 0 or len(digests) == 0:
            return found
        first, second = _halves(digests)
        at = np.searchsorted(self._first, first)
        at[at == len(self._first)] = 0
        near = self._first[at] == first
        hit = near & (self._second[at] == second)
        found[hit] = self._slots[at[hit]]
        # Two digests that share their first half: made on purpose, but then they must not be mistaken for one another.
        for row in np.flatnonzero(near & ~hit).tolist():
            place = int(at[row])
            while place < len(self._first) and self._first[place] == first[row]:
                if self._second[place] == second[row]:
                    found[row] = self._slots[place]
                    break
                place += 1
        return found


def first_of_each(digests: U8) -> np.ndarray:
    """Places of the first occurrence of each distinct digest, ascending."""
    first, second = _halves(digests)
    order = np.lexsort((second, first))  # stable: equal digests stay in the order of their places
    new = np.ones(len(order), bool)
    new[1:] = (first[order[1:]] != first[order[:-1]]) | (second[order[1:]] != second[order[:-1]])
    return np.sort(order[new])
