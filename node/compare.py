"""Differences between two states of a space: pages whose versions differ, narrowed to those whose bytes do."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from node.digest import LEAF_PAGES
from node.heap import VERIFIED, Heap
from node.table import Leaves, blocks_of, changed_pages, ranges_of, slots_in
from node.views import DiffResult

BATCH_PAGES = 256


def diff_leaves(heap: Heap, left: Leaves, right: Leaves) -> DiffResult:
    """Compares two states of one uid. Equal content is no difference, whatever the versions. Raises RottenSlot."""
    numbers, differ = changed_pages(left, right)
    if not numbers:
        return DiffResult(0, 0, [])
    rows, columns = np.nonzero(differ)
    a = slots_in(blocks_of(left, numbers))[rows, columns]
    b = slots_in(blocks_of(right, numbers))[rows, columns]
    nbytes = _bytes_differing(heap, a, b)
    unequal = nbytes > 0
    pages = np.zeros((len(numbers), LEAF_PAGES), np.bool_)
    pages[rows[unequal], columns[unequal]] = True
    return DiffResult(int(np.count_nonzero(unequal)), int(nbytes.sum()), ranges_of(numbers, pages))


def _bytes_differing(heap: Heap, a: npt.NDArray[np.uint32], b: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """Per pair of slots how many bytes differ."""
    for slots in (a, b):
        for slot in np.unique(slots[(heap.flags[slots] & VERIFIED) == 0]).tolist():
            heap.verify(slot)
    counts = np.zeros(len(a), np.int64)
    pages = np.frombuffer(heap.view, np.uint8).reshape(-1, heap.page_size)
    for start in range(0, len(a), BATCH_PAGES):
        stop = start + BATCH_PAGES
        counts[start:stop] = np.count_nonzero(pages[a[start:stop]] != pages[b[start:stop]], axis=1)
    return counts
