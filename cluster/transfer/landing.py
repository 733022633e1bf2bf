"""Where a transfer lands: what is here already, what is missing, where it goes, and what has become of it.

Used by the threads of one transfer under a lock of its own; only what touches the heaps' free slots goes through
`on_loop`,
to the thread that applies. Content addressed throughout: leaves, chunks and pages are known by digest, so that a change
of peer or of checkpoint keeps everything.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol, TypeVar

import lz4.block
import numpy as np

from cluster.transfer.digests import chunk_digest
from cluster.transfer.frames import (
    FRAME_BYTES,
    Codec,
    Damaged,
    Kind,
    encode_chunk_asks,
    encode_leaf_asks,
    encode_places,
)
from cluster.transfer.index import DigestIndex, first_of_each
from cluster.transfer.leaves import ENTRIES, ENTRY_BYTES, LeafEntries, decode_leaves, encode_leaf, merge
from cluster.transfer.leaves import HEAD as LEAF_HEAD
from cluster.transfer.manifest import Manifest, decode_manifest, encode_manifest
from cluster.transfer.pool import NO_SLOT, Pool
from cluster.transfer.progress import SPAN, Plan, ProgressFile, Record, decode_plan, encode_plan, spans_of
from cluster.transfer.protocol import Ask
from node.digest import DIGEST_BYTES, leaf_digest, zero_page_digest
from node.heap import U32, VERIFIED, Heap, HeapSet, RottenSlot
from wal.checks import invariant

T = TypeVar("T")
LEAF_BYTES_MAX: Final = ENTRIES * ENTRY_BYTES + LEAF_HEAD.size
LEAVES_PER_ASK: Final = FRAME_BYTES // LEAF_BYTES_MAX
ALLOC_BATCH: Final = 4096  # slots taken in one turn of the thread that applies
DURABLE_HEAD_BYTES: Final = 4  # page size before the spans


class LocalState(Protocol):
    """What this node holds outside the transfer, frozen: as long as this object lives, none of it is written."""

    def leaf(self, digest: bytes, meta: bytes) -> object | None:
        """The very leaf, by digest and metadata digest."""

    def near(self, uid: int, leaf_no: int) -> tuple[int, LeafEntries] | None:
        """The live leaf at that place of that space, and the space's LVC; None when the space is not here."""

    def pages(self, page_size: int) -> tuple[np.ndarray, U32]:
        """Digests and slots of all hashed pages that are held."""


class Landed(Protocol):
    """A complete image: everything verified and durable."""

    manifest: Manifest

    def leaf(self, leaf_id: int) -> object | tuple[LeafEntries, U32]: ...


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
        self._pools: dict[int, Pool] = {}
        self._leaves: dict[bytes, LeafEntries] = {}  # received: digest + metadata digest -> entries
        self._chunks: dict[bytes, tuple[int, int]] = {}  # received: digest -> offset and bytes in the progress file
        self._fresh: list[tuple[Pool, np.ndarray]] = []  # verified and not yet durable
        self._fresh_bytes = 0
        self._searched = True
        self._local: LocalState | None = None
        self._manifest: Manifest | None = None
        self._local_leaves: dict[int, object] = {}
        self._local_pages: dict[int, DigestIndex] = {}
        self._near: dict[int, LeafEntries] = {}
        self._leaf_asks: list[tuple[int, int]] = []  # leaf id, since
        self._chunk_asks: list[int] = []
        self._page_rows: list[tuple[Pool, np.ndarray, np.ndarray, np.ndarray]] = []
        self._page_row_starts: list[int] = []
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

    def discard(self) -> None:
        """Ends the transfer's hold: the file goes first, durably, then the slots. Loop thread."""
        self._progress.remove()
        for pool in self._pools.values():
            pool.release()
        self._pools.clear()
        self._leaves.clear()
        self._chunks.clear()
        self._fresh.clear()
        self._fresh_bytes = 0
        self._local = self._manifest = self.held = self.transfer = self._received = None
        self._local_leaves, self._local_pages, self._near = {}, {}, {}
        self._searched = True
        self.total_bytes = self.done_bytes = 0

    # ------------------------------------------------------------ what is missing

    def compare(self, manifest: Manifest, local: LocalState) -> tuple[Ask, ...]:
        """Looks which leaves and chunks of `manifest` are neither here nor received. Worker thread."""
        if not self._searched:
            self._search()
        with self._lock:
            if self.held is None or self.held.digest != manifest.digest:
                self._progress.append(Record.MANIFEST, encode_manifest(manifest))
                self.held = manifest
            self._manifest, self._local = manifest, local
            self._local_pages = {}
            self._compare_leaves(manifest, local)
            digests = [row.tobytes() for row in manifest.chunks["digest"]]
            self._chunk_asks = [number for number, digest in enumerate(digests) if digest not in self._chunks]
            sizes = manifest.chunks["raw_bytes"]
            chunk_asks = [
                Ask(Kind.GET_CHUNKS, at, at + 1, int(sizes[number])) for at, number in enumerate(self._chunk_asks)
            ]
            return (*chunk_asks, *self._cut_leaf_asks(0))

    def _compare_leaves(self, manifest: Manifest, local: LocalState) -> None:
        self._local_leaves, self._near, self._leaf_asks = {}, {}, []
        for leaf_id, row in enumerate(manifest.leaves):
            digest, meta = row["digest"].tobytes(), row["meta"].tobytes()
            if digest + meta in self._leaves:
                continue
            here = local.leaf(digest, meta)
            if here is not None:
                self._local_leaves[leaf_id] = here
                continue
            near = local.near(int(row["uid"]), int(row["leaf_no"]))
            if near is not None:
                self._near[leaf_id] = near[1]
            self._leaf_asks.append((leaf_id, near[0] if near is not None else 0))

    def _cut_leaf_asks(self, start: int) -> list[Ask]:
        stops = range(start, len(self._leaf_asks), LEAVES_PER_ASK)
        return [
            Ask(Kind.GET_LEAVES, at, stop, (stop - at) * LEAF_BYTES_MAX)
            for at in stops
            for stop in (min(at + LEAVES_PER_ASK, len(self._leaf_asks)),)
        ]

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
        invariant(self._manifest is not None and self._local is not None, "a plan follows a comparison")
        asks: list[Ask] = []
        self._page_rows, self._page_row_starts = [], []
        total = missing = 0
        for page_size, (leaf_ids, positions, digests) in sorted(self._wanted().items()):
            pool = self._pool_on_loop(page_size)
            distinct = first_of_each(digests)
            leaf_ids, positions, digests = leaf_ids[distinct], positions[distinct], digests[distinct]
            absent = self._find_local(page_size, digests) == NO_SLOT
            leaf_ids, positions, digests = leaf_ids[absent], positions[absent], digests[absent]
            total += len(digests) * page_size
            ordinals = self._ordinals(pool, digests)
            open_rows = ~pool.verified[ordinals]
            missing += int(open_rows.sum()) * page_size
            asks += self._cut_page_asks(pool, ordinals[open_rows], leaf_ids[open_rows], positions[open_rows])
        self.total_bytes, self.done_bytes = total, total - missing
        return tuple(asks)

    def _pool_on_loop(self, page_size: int) -> Pool:
        pool = self._pools.get(page_size)
        return pool if pool is not None else self._on_loop(lambda: self._pool(page_size))

    def _wanted(self) -> dict[int, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Per page size: leaf ids, positions and digests of the pages of all leaves that had to be received."""
        parts: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
        for leaf_id, entries in self._received_leaves():
            at = np.flatnonzero(entries.present)
            ids = np.full(len(at), leaf_id, np.uint32)
            parts.setdefault(self._page_size(leaf_id), []).append((ids, at.astype(np.uint8), entries.digests[at]))
        return {
            size: (
                np.concatenate([part[0] for part in rows]),
                np.concatenate([part[1] for part in rows]),
                np.concatenate([part[2] for part in rows]),
            )
            for size, rows in parts.items()
        }

    def _received_leaves(self) -> list[tuple[int, LeafEntries]]:
        manifest = self._known_manifest()
        found = []
        for leaf_id, row in enumerate(manifest.leaves):
            if leaf_id not in self._local_leaves:
                found.append((leaf_id, self._leaves[row["digest"].tobytes() + row["meta"].tobytes()]))
        return found

    def _known_manifest(self) -> Manifest:
        manifest = self._manifest
        if manifest is None:
            raise LookupError("no manifest yet")
        return manifest

    def _page_size(self, leaf_id: int) -> int:
        return 1 << int(self._known_manifest().leaves["page_shift"][leaf_id])

    def _find_local(self, page_size: int, digests: np.ndarray) -> U32:
        """Slots outside the transfer that hold these bytes; a slot not yet read since open is read now."""
        index = self._local_pages.get(page_size)
        if index is None and self._local is not None:
            index = self._local_pages[page_size] = DigestIndex(*self._local.pages(page_size))
        invariant(index is not None, "local pages are known when pages are planned")
        found = index.find(digests) if index is not None else np.zeros(len(digests), np.uint32)
        heap = self._heaps.get(page_size)
        for row in np.flatnonzero((found != NO_SLOT) & (heap.flags[found] & VERIFIED == 0)).tolist():
            try:
                heap.verify(int(found[row]))
            except (RottenSlot, OSError):
                found[row] = NO_SLOT
        return found

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

    def _cut_page_asks(
        self, pool: Pool, ordinals: np.ndarray, leaf_ids: np.ndarray, positions: np.ndarray
    ) -> list[Ask]:
        base = self._page_row_starts[-1] + len(self._page_rows[-1][1]) if self._page_rows else 0
        self._page_rows.append((pool, ordinals, leaf_ids, positions))
        self._page_row_starts.append(base)
        size = pool.heap.page_size
        step = FRAME_BYTES // size
        return [
            Ask(Kind.GET_PAGES, base + at, base + stop, (stop - at) * size)
            for at in range(0, len(ordinals), step)
            for stop in (min(at + step, len(ordinals)),)
        ]

    # ------------------------------------------------------------ asking and taking

    def body_of(self, ask: Ask) -> bytes:
        """Body of the request for `ask`."""
        if ask.kind is Kind.GET_LEAVES:
            rows = np.array(self._leaf_asks[ask.start : ask.stop], np.uint64).reshape(-1, 2)
            return encode_leaf_asks(rows[:, 0], rows[:, 1])
        if ask.kind is Kind.GET_CHUNKS:
            return encode_chunk_asks(np.array(self._chunk_asks[ask.start : ask.stop]))
        _, _, leaf_ids, positions = self._rows_of(ask)
        return encode_places(leaf_ids, positions)

    def _rows_of(self, ask: Ask) -> tuple[Pool, np.ndarray, np.ndarray, np.ndarray]:
        part = bisect_right(self._page_row_starts, ask.start) - 1
        pool, ordinals, leaf_ids, positions = self._page_rows[part]
        at = slice(ask.start - self._page_row_starts[part], ask.stop - self._page_row_starts[part])
        return pool, ordinals[at], leaf_ids[at], positions[at]

    def take_leaves(self, ask: Ask, body: bytes) -> tuple[Ask, ...]:
        """Verifies and keeps leaf entries. Returns what must be asked for as a whole. Raises Damaged."""
        decoded = decode_leaves(body)
        asked = self._leaf_asks[ask.start : ask.stop]
        if [leaf_id for leaf_id, _, _, _ in decoded] != [leaf_id for leaf_id, _ in asked]:
            raise Damaged("leaves that were not asked for")
        rows = self._known_manifest().leaves
        whole: list[int] = []
        for (leaf_id, at, entries, sent), (_, since) in zip(decoded, asked, strict=True):
            complete = merge(self._near[leaf_id], at, entries) if since else entries
            digest, meta = rows["digest"][leaf_id].tobytes(), rows["meta"][leaf_id].tobytes()
            page_digests = page_digests_of(complete, self._page_size(leaf_id))
            if leaf_digest(page_digests.tobytes()) != digest or complete.meta_digest() != meta:
                if not since:
                    raise Damaged(f"leaf {leaf_id} is not what its digests say")
                whole.append(leaf_id)
                continue
            with self._lock:
                self._progress.append(Record.LEAF, digest, meta, encode_leaf(leaf_id, complete) if since else sent)
                self._leaves[digest + meta] = complete
        with self._lock:
            start = len(self._leaf_asks)
            self._leaf_asks += [(leaf_id, 0) for leaf_id in whole]
            return tuple(self._cut_leaf_asks(start))

    def take_chunk(self, ask: Ask, body: bytes, codec: Codec) -> None:
        """Verifies and keeps a chunk. Raises Damaged."""
        row = self._known_manifest().chunks[self._chunk_asks[ask.start]]
        raw = unpack(body, codec, int(row["raw_bytes"]))
        digest = row["digest"].tobytes()
        if chunk_digest(raw) != digest:
            raise Damaged("a chunk is not what its digest says")
        with self._lock:
            offset = self._progress.append(Record.CHUNK, digest, raw)
            self._chunks[digest] = (offset + DIGEST_BYTES, len(raw))

    def take_pages(self, ask: Ask, body: memoryview, codec: Codec) -> None:
        """Verifies pages and writes them to their slots. Raises Damaged."""
        pool, ordinals, _, _ = self._rows_of(ask)
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
        with self._lock:
            fresh, self._fresh, self._fresh_bytes = self._fresh, [], 0
        pools: dict[int, list[np.ndarray]] = {}
        for pool, ordinals in fresh:
            pools.setdefault(pool.heap.page_size, []).append(ordinals)
        for page_size in pools:
            self._pools[page_size].heap.sync()
        with self._lock:
            for page_size, parts in pools.items():
                ordinals = np.concatenate(parts)
                spans = spans_of(ordinals).tobytes()
                self._progress.append(Record.DURABLE, page_size.to_bytes(DURABLE_HEAD_BYTES, "big"), spans)
                self._pools[page_size].durable[ordinals] = True
        self._progress.sync()

    # ------------------------------------------------------------ the end

    def leaf(self, leaf_id: int) -> object | tuple[LeafEntries, U32]:
        """The leaf of that id: a local one by reference, or entries with the 256 slots that hold its pages."""
        here = self._local_leaves.get(leaf_id)
        if here is not None:
            return here
        row = self._known_manifest().leaves[leaf_id]
        entries = self._leaves[row["digest"].tobytes() + row["meta"].tobytes()]
        return entries, self._slots_of(1 << int(row["page_shift"]), entries)

    def _slots_of(self, page_size: int, entries: LeafEntries) -> U32:
        at = np.flatnonzero(entries.present)
        slots = np.zeros(ENTRIES, np.uint32)
        found = self._received_index(page_size).find(entries.digests[at])
        rest = found == NO_SLOT
        if rest.any():
            found[rest] = self._find_local(page_size, entries.digests[at[rest]])
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
        digest = self._known_manifest().chunks["digest"][number].tobytes()
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
