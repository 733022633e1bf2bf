"""Where a transfer lands: what is here already, what is missing, where it goes, and what has become of it.

Used by the threads of one transfer under a lock of its own; only what touches the heaps' free slots goes through
`on_loop`,
to the thread that applies. Content addressed throughout: leaves, chunks and pages are known by digest, so that a change
of peer or of checkpoint keeps everything.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import lz4.block
import numpy as np

from cluster.transfer.comparison import LocalState, Pages, Round
from cluster.transfer.digests import chunk_digest
from cluster.transfer.frames import (
    Codec,
    Damaged,
)
from cluster.transfer.index import DigestIndex, first_of_each
from cluster.transfer.leaves import ENTRIES, LeafEntries, decode_leaves, encode_leaf, merge
from cluster.transfer.manifest import Manifest, decode_manifest, encode_manifest
from cluster.transfer.pool import NO_SLOT, Pool
from cluster.transfer.progress import SPAN, Plan, ProgressFile, Record, decode_plan, encode_plan, spans_of
from cluster.transfer.protocol import Ask
from node.digest import DIGEST_BYTES, leaf_digest, zero_page_digest
from node.heap import U32, Heap, HeapSet
from wal.checks import invariant

T = TypeVar("T")
ALLOC_BATCH: Final = 4096  # slots taken in one turn of the thread that applies
DURABLE_HEAD_BYTES: Final = 4  # page size before the spans


def page_digests_of(entries: LeafEntries, page_size: int) -> np.ndarray:
    """The 256 digests as the leaf digest covers them: absent pages count as zeros."""
    zero = np.frombuffer(zero_page_digest(page_size), np.uint8)
    return np.where(entries.present[:, None], entries.digests, zero)


class Landing:
    """Local side of one incoming transfer; outlives connections, peers, manifests and (by its file) the process."""

    def __init__(
        self,
        *,
        heaps: HeapSet,
        progress: ProgressFile,
        on_loop: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._heaps = heaps
        self._progress = progress
        self._on_loop = on_loop
        self._lock = threading.Lock()
        self._sync_lock = threading.Lock()
        self._pools: dict[int, Pool] = {}
        self._leaves: dict[bytes, LeafEntries] = {}  # received: digest + metadata digest -> entries
        self._chunks: dict[bytes, tuple[int, int]] = {}  # received: digest -> offset and bytes in the progress file
        self._fresh: list[tuple[Pool, np.ndarray]] = []  # verified and not yet durable
        self._fresh_bytes = 0
        self._searched = True
        self._round: Round | None = None
        self._received: tuple[tuple[int, int], DigestIndex] | None = None
        self.held: Manifest | None = None
        self.transfer: str | None = None
        self.total_bytes = 0
        self.done_bytes = 0
        self.found_bytes = 0  # verified again from the file after a kill

    # ------------------------------------------------------------ across restarts

    def open(self) -> bool:
        """Reads the progress file and holds its slots. After recovery, before the first slot is handed out.

        True when an earlier process left something. Loop thread.
        """
        for kind, payload, offset in self._progress.open():
            if kind is Record.NAME:
                self.transfer = str(payload, "utf-8")
            elif kind is Record.MANIFEST:
                self.held = decode_manifest(bytes(payload))
            elif kind is Record.LEAF:
                self._leaves[bytes(payload[:32])] = decode_leaves(bytes(payload[32:]))[0][2]
            elif kind is Record.CHUNK:
                self._chunks[bytes(payload[:DIGEST_BYTES])] = (offset + DIGEST_BYTES, len(payload) - DIGEST_BYTES)
            elif kind is Record.PLAN:
                plan = decode_plan(payload)
                self._pool(plan.page_size).add(plan.slots, plan.digests)
            else:
                pool = self._pool(int.from_bytes(payload[:DURABLE_HEAD_BYTES], "big"))
                for start, stop in np.frombuffer(payload, SPAN, -1, DURABLE_HEAD_BYTES).tolist():
                    pool.verified[start:stop] = pool.durable[start:stop] = True
        for pool in self._pools.values():
            pool.hold()
            pool.heap.rebuild()
        self._searched = not self._pools
        return bool(self._pools or self.held)

    def _pool(self, page_size: int) -> Pool:
        pool = self._pools.get(page_size)
        if pool is None:
            pool = self._pools[page_size] = Pool(self._heaps.get(page_size))
        return pool

    @property
    def exists(self) -> bool:
        """True when there is something to go on with."""
        return self._progress.exists

    @property
    def is_open(self) -> bool:
        return self._progress.is_open

    def name(self, transfer: str) -> None:
        """The transfer keeps its name across connections and restarts."""
        self._progress.append(Record.NAME, transfer.encode())
        self.transfer = transfer

    def remove_file(self) -> None:
        """The progress file is durably gone; the slots are still held. Any thread."""
        self._progress.remove()

    def release_some(self, count: int) -> bool:
        """After `remove_file`: lets up to `count` slots go. True when there are more. Loop thread."""
        invariant(not self._progress.exists, "the progress file goes before its slots")
        for page_size, pool in list(self._pools.items()):
            if pool.release(count):
                return True
            del self._pools[page_size]
        return False

    def forget(self) -> None:
        """After the last slot: the landing is as new."""
        self._leaves.clear()
        self._chunks.clear()
        self._fresh.clear()
        self._fresh_bytes = 0
        self._round = self.held = self.transfer = self._received = None
        self._searched = True
        self.total_bytes = self.done_bytes = 0

    def discard(self) -> None:
        """All of it at once: the file goes first, durably, then the slots. Loop thread."""
        self.remove_file()
        while self.release_some(ALLOC_BATCH):
            pass
        self.forget()

    # ------------------------------------------------------------ what is missing

    def compare(self, manifest: Manifest, local: LocalState) -> tuple[Ask, ...]:
        """Looks which leaves and chunks of `manifest` are neither here nor received. Worker thread."""
        if not self._searched:
            self._search()
        with self._lock:
            if self.held is None or self.held.digest != manifest.digest:
                self._progress.append(Record.MANIFEST, encode_manifest(manifest))
                self.held = manifest
            self._round = Round(manifest, local, self._leaves, self._chunks)
            return (*self._round.cut_chunk_asks(), *self._round.cut_leaf_asks())

    def _search(self) -> None:
        """After a kill: pages past the durable mark are read and hashed, not asked for."""
        self._searched = True
        for pool in self._pools.values():
            hits = pool.search()
            self.found_bytes += len(hits) * pool.heap.page_size
            self._note_fresh(pool, hits)

    def plan(self) -> tuple[Ask, ...]:
        """Looks which pages are missing, takes slots for them, and writes down where they will go. Worker thread.

        Raises HeapFull, with nothing changed for the page sizes not reached; calling it again is fine.
        """
        round_ = self._now()
        round_.forget_pages()
        asks: list[Ask] = []
        total = missing = 0
        for page_size, (leaf_ids, positions, digests) in sorted(round_.wanted().items()):
            pool = self._pool_on_loop(page_size)
            distinct = first_of_each(digests)
            rows = distinct[round_.find_local(pool.heap, digests[distinct]) == NO_SLOT]
            total += len(rows) * page_size
            ordinals = self._ordinals(pool, digests[rows])
            left = ~pool.verified[ordinals]
            rows = rows[left]
            missing += len(rows) * page_size
            asks += round_.cut_page_asks(Pages(pool, ordinals[left], leaf_ids[rows], positions[rows]))
        self.total_bytes, self.done_bytes = total, total - missing
        return tuple(asks)

    def _now(self) -> Round:
        round_ = self._round
        if round_ is None:
            raise LookupError("nothing has been compared yet")
        return round_

    def _pool_on_loop(self, page_size: int) -> Pool:
        pool = self._pools.get(page_size)
        return pool if pool is not None else self._on_loop(lambda: self._pool(page_size))

    def _ordinals(self, pool: Pool, digests: np.ndarray) -> np.ndarray:
        """An ordinal of the pool for each digest: that of an earlier plan, or a new one with a slot."""
        usable = np.flatnonzero(pool.slots != NO_SLOT)
        known = DigestIndex(pool.digests[usable], (usable + 1).astype(np.uint32)).find(digests).astype(np.int64) - 1
        new = np.flatnonzero(known < 0)
        if len(new):
            slots = self._take_slots(pool.heap, len(new))
            plan = Plan(pool.heap.page_size, slots, digests[new])
            with self._lock:
                self._progress.append(Record.PLAN, encode_plan(plan))
                first = pool.add(slots, plan.digests)
            known[new] = np.arange(first, first + len(new))
        return known

    def _take_slots(self, heap: Heap, count: int) -> U32:
        """`count` slots, held, ascending as far as the heap has them so. Raises HeapFull before any is taken."""
        self._on_loop(partial(heap.ensure, count))
        slots: list[int] = []
        try:
            while len(slots) < count:
                slots += self._on_loop(partial(_alloc, heap, min(ALLOC_BATCH, count - len(slots))))
        except Exception:
            self._on_loop(partial(_drop, heap, slots))
            raise
        return np.sort(np.array(slots, np.uint32))

    # ------------------------------------------------------------ asking and taking

    def body_of(self, ask: Ask) -> bytes:
        """Body of the request for `ask`."""
        return self._now().body_of(ask)

    def take_leaves(self, ask: Ask, body: bytes) -> tuple[Ask, ...]:
        """Verifies and keeps leaf entries. Returns what must be asked for as a whole. Raises Damaged."""
        round_ = self._now()
        decoded = decode_leaves(body)
        asked = round_.leaf_asks[ask.start : ask.stop]
        if [leaf_id for leaf_id, _, _, _ in decoded] != [wanted.leaf_id for wanted in asked]:
            raise Damaged("leaves that were not asked for")
        whole: list[int] = []
        for (leaf_id, at, entries, sent), (_, since) in zip(decoded, asked, strict=True):
            complete = merge(round_.near[leaf_id], at, entries) if since else entries
            key = round_.key(leaf_id)
            page_digests = page_digests_of(complete, round_.page_size(leaf_id))
            if leaf_digest(page_digests.tobytes()) + complete.meta_digest() != key:
                if not since:
                    raise Damaged(f"leaf {leaf_id} is not what its digests say")
                whole.append(leaf_id)
                continue
            with self._lock:
                self._progress.append(Record.LEAF, key, encode_leaf(leaf_id, complete) if since else sent)
                self._leaves[key] = complete
        with self._lock:
            return tuple(round_.ask_whole(whole))

    def take_chunk(self, ask: Ask, body: bytes, codec: Codec) -> None:
        """Verifies and keeps a chunk. Raises Damaged."""
        round_ = self._now()
        row = round_.manifest.chunks[round_.chunk_asks[ask.start]]
        raw = unpack(body, codec, int(row["raw_bytes"]))
        digest = row["digest"].tobytes()
        if chunk_digest(raw) != digest:
            raise Damaged("a chunk is not what its digest says")
        with self._lock:
            offset = self._progress.append(Record.CHUNK, digest, raw)
            self._chunks[digest] = (offset + DIGEST_BYTES, len(raw))

    def take_pages(self, ask: Ask, body: memoryview, codec: Codec) -> None:
        """Verifies pages and writes them to their slots. Raises Damaged."""
        pool, ordinals, _, _ = self._now().pages_of(ask)
        pool.take(ordinals, body if codec is Codec.RAW else memoryview(unpack(body, codec, ask.nbytes)))
        self._note_fresh(pool, ordinals)
        with self._lock:
            self.done_bytes += ask.nbytes

    # ------------------------------------------------------------ durability

    def _note_fresh(self, pool: Pool, ordinals: np.ndarray) -> None:
        if len(ordinals):
            with self._lock:
                self._fresh.append((pool, ordinals))
                self._fresh_bytes += len(ordinals) * pool.heap.page_size

    @property
    def fresh_bytes(self) -> int:
        """Verified and not yet durable."""
        return self._fresh_bytes

    def sync(self) -> None:
        """Makes durable what is verified: the pages first, then the record that says so. Raises OSError: stop then."""
        with self._sync_lock:  # whoever comes second finds the first one's pages durable
            self._sync()

    def _sync(self) -> None:
        with self._lock:
            fresh, self._fresh, self._fresh_bytes = self._fresh, [], 0
        pools: dict[int, list[np.ndarray]] = {}
        for pool, ordinals in fresh:
            pools.setdefault(pool.heap.page_size, []).append(ordinals)
        for page_size in pools:
            self._pools[page_size].heap.sync()
        done = {page_size: np.concatenate(parts) for page_size, parts in pools.items()}
        with self._lock:
            for page_size, ordinals in done.items():
                spans = spans_of(ordinals).tobytes()
                self._progress.append(Record.DURABLE, page_size.to_bytes(DURABLE_HEAD_BYTES, "big"), spans)
        self._progress.sync()
        with self._lock:
            for page_size, ordinals in done.items():
                self._pools[page_size].durable[ordinals] = True

    # ------------------------------------------------------------ the end

    def leaf(self, leaf_id: int) -> object | tuple[LeafEntries, U32]:
        """The leaf of that id: a local one by reference, or entries with the 256 slots that hold its pages."""
        round_ = self._now()
        here = round_.local_leaves.get(leaf_id)
        if here is not None:
            return here
        entries = self._leaves[round_.key(leaf_id)]
        return entries, self._slots_of(round_.page_size(leaf_id), entries)

    def _slots_of(self, page_size: int, entries: LeafEntries) -> U32:
        at = np.flatnonzero(entries.present)
        slots = np.zeros(ENTRIES, np.uint32)
        found = self._received_index(page_size).find(entries.digests[at])
        rest = found == NO_SLOT
        if rest.any():
            found[rest] = self._now().find_local(self._heaps.get(page_size), entries.digests[at[rest]])
        invariant((found != NO_SLOT).all(), "no page table refers to an unverified byte (invariant 7)")
        slots[at] = found
        return slots

    def _received_index(self, page_size: int) -> DigestIndex:
        pool = self._pools[page_size]
        key = (page_size, int(pool.durable.sum()))
        if self._received is None or self._received[0] != key:
            durable = np.flatnonzero(pool.durable)
            self._received = key, DigestIndex(pool.digests[durable], pool.slots[durable])
        return self._received[1]

    def chunk(self, number: int) -> bytes:
        """The raw bytes of a chunk of the manifest, read back and checked."""
        digest = self._now().manifest.chunks["digest"][number].tobytes()
        raw = self._progress.read(*self._chunks[digest])
        invariant(chunk_digest(raw) == digest, "a chunk reads back as it was written", number=number)
        return raw

    def chunks(self, numbers: Sequence[int]) -> bytes:
        return b"".join(self.chunk(number) for number in numbers)


def _alloc(heap: Heap, count: int) -> list[int]:
    return [heap.alloc() for _ in range(count)]


def _drop(heap: Heap, slots: Sequence[int]) -> None:
    for slot in slots:
        heap.drop(slot)


def unpack(body: bytes | memoryview, codec: Codec, raw_bytes: int) -> bytes:
    """Raw bytes of a body. Raises Damaged."""
    if codec is Codec.RAW:
        raw = bytes(body)
    else:
        try:
            raw = lz4.block.decompress(body, uncompressed_size=raw_bytes)
        except (lz4.block.LZ4BlockError, ValueError) as error:
            raise Damaged(f"packed body: {error}") from error
    if len(raw) != raw_bytes:
        raise Damaged(f"body of {len(raw)} bytes, expected {raw_bytes}")
    return raw
