"""Roots of snapshots: digests of the unhashed slots, then leaves, then the root. In threads, while writes go on.

Slots are immutable while a snapshot's leaves are held, and a job holds them, so no lock is needed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

import numpy as np

from node.digest import leaf_digest, page_digest, root_digest
from node.heap import HASHED, U32, Heap
from node.space import Snapshot, Space
from node.table import Leaf, Leaves
from wal.checks import invariant

Task = Callable[[], object]
RootReady = Callable[[bytes], None]
BATCH_SNAPSHOTS: Final = 256  # roots told to the applying thread in one go
INLINE_PAGES_MAX: Final = 32  # so few dirty pages take less time here than a thread's turn


def hash_leaf(heap: Heap, leaf: Leaf) -> bytes:
    """Digest of a frozen leaf; hashes its slots that are not yet, and remembers all of it."""
    digest = leaf.digest
    if digest is not None:
        return digest
    slots = leaf.slots
    fresh = slots[(heap.flags[slots] & HASHED) == 0]
    if len(fresh):
        size = heap.page_size
        view = heap.view
        digests = b"".join([page_digest(view[slot * size : (slot + 1) * size]) for slot in fresh.tolist()])
        heap.digests[fresh] = np.frombuffer(digests, np.uint8).reshape(-1, 16)
        heap.flags[fresh] |= HASHED
    digest = leaf_digest(heap.digests[slots].tobytes())
    leaf.digest = digest
    return digest


def root_of_leaves(heap: Heap, leaves: Leaves, size: int) -> bytes:
    """Root of a frozen state."""
    return root_digest(heap.page_size, size, [(number, hash_leaf(heap, leaves[number])) for number in sorted(leaves)])


class Hasher:
    """Computes roots. `submit` runs a task on a worker thread, `post` runs one on the applying thread.

    Tests and the simulation give functions that run the task at once. At most one task of each hasher runs at a time;
    what was queued meanwhile is its next batch.
    """

    def __init__(
        self,
        submit: Callable[[Task], object],
        post: Callable[[Task], object],
        known: Callable[[int], object],
        rotten: Callable[[Snapshot, int], object],
    ) -> None:
        """Both on the applying thread: `known` hears the uid of each space that got a root, `rotten` of bad pages."""
        self._submit = submit
        self._post = post
        self._known = known
        self._rotten = rotten
        self._queue: deque[tuple[Heap, Snapshot]] = deque()
        self._working = False
        self._waiting: dict[int, list[RootReady]] = {}  # id() of a queued snapshot -> callbacks

    def add(self, space: Space, snapshot: Snapshot) -> None:
        """The root of this snapshot will be known some time, unless it is dropped before."""
        self._queue.append((space.heap, snapshot))
        if not self._working:
            self._working = True
            self._submit(self._drain)

    def when_known(self, space: Space, snapshot: Snapshot, ready: RootReady) -> None:
        """Calls `ready` with the root: at once if it is known or soon computed, else later on the applying thread."""
        if snapshot.root is None and snapshot.facts.dirty_pages <= INLINE_PAGES_MAX:
            self.compute(space.heap, snapshot)
            self._known(space.uid)
        if snapshot.root is not None:
            ready(snapshot.root)
            return
        waiting = self._waiting.get(id(snapshot))
        if waiting is None:
            self._waiting[id(snapshot)] = [ready]
            self.add(space, snapshot)
        else:
            waiting.append(ready)

    def compute(self, heap: Heap, snapshot: Snapshot) -> bytes:
        """The root, now. Any thread."""
        root = snapshot.root
        if root is None:
            root = snapshot.root = root_of_leaves(heap, snapshot.leaves, snapshot.facts.size)
        return root

    def _drain(self) -> None:
        """On a worker: the roots of all that is queued, in one batch; then the pages of full snapshots are re-read."""
        done: list[Snapshot] = []
        checks: list[tuple[Heap, Snapshot, list[tuple[int, U32]]]] = []
        while self._queue and len(done) < BATCH_SNAPSHOTS:
            heap, snapshot = self._queue.popleft()
            if snapshot.dropped and id(snapshot) not in self._waiting:
                continue
            if snapshot.facts.kind == "full" and snapshot.root is None:
                checks.append((heap, snapshot, _hashed_slots(heap, snapshot.leaves)))
            self.compute(heap, snapshot)
            done.append(snapshot)
        self._post(partial(self._finished, done))
        for heap, snapshot, slots in checks:
            for page in _rotten_pages(heap, snapshot, slots):
                self._post(partial(self._rotten, snapshot, page))

    def _finished(self, done: list[Snapshot]) -> None:
        self._working = False
        for snapshot in done:
            self._known(snapshot.facts.uid)
            root = snapshot.root
            invariant(root is not None, "a hashed snapshot has a root", uid=snapshot.facts.uid, id=snapshot.id)
            for ready in self._waiting.pop(id(snapshot), ()):
                ready(root or b"")
        if self._queue and not self._working:
            self._working = True
            self._submit(self._drain)


def _hashed_slots(heap: Heap, leaves: Leaves) -> list[tuple[int, U32]]:
    """Per leaf number the slots whose digest was known before: those that a full snapshot reads again."""
    found = []
    for number, leaf in leaves.items():
        slots = leaf.slots
        found.append((number, np.where(heap.flags[slots] & HASHED, slots, np.uint32(0))))
    return found


def _rotten_pages(heap: Heap, snapshot: Snapshot, slots: list[tuple[int, U32]]) -> Iterator[int]:
    """Pages of the snapshot whose stored bytes are no longer those of their digest. Stops when it is dropped."""
    for number, row in slots:
        if snapshot.dropped:
            return
        for at in np.flatnonzero(row).tolist():
            if not heap.reread(int(row[at])):
                yield number << 8 | at
