"""Checkpoints of this node for others: frozen on the thread that applies, hashed and encoded beside it.

What is served is the state at the last applied index, frozen when somebody asks: everything in it is committed, so
it is as
good as the newest durable checkpoint and saves the receiver the entries in between. As long as a transfer holds it,
later
askers get the same.
"""

from __future__ import annotations

import tempfile
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Protocol

import numpy as np

from cluster.log import get_log
from cluster.transfer.digests import chunk_digest
from cluster.transfer.held import HeldCheckpoint
from cluster.transfer.image_codec import LeafBook, encode_state, undo_bytes
from cluster.transfer.manifest import CHUNK_BYTES, CHUNK_ROW, LEAF_ROW, META, UNDO, build_manifest
from node.checkpoint_digest import ContentDigest
from node.heap import RottenSlot
from node.image import FrozenState, Pieces
from node.state import StateMachine
from wal.checks import Corrupt, invariant

log = get_log("cluster.transfer")

TRIES_MAX: Final = 5
BUSY_RETRY_S: Final = 0.01


class OnLoop(Protocol):
    """Runs `work` on the thread that applies and returns what it returns; for other threads."""

    def __call__(self, work: Callable[[], Any]) -> Any: ...


class Spool:
    """Chunks of one checkpoint in an unnamed file, so that a large undo window does not stay in memory."""

    def __init__(self, folder: str) -> None:
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  lives as long as the checkpoint is held
        self._lock = threading.Lock()
        self._places: list[tuple[int, int]] = []
        self._end = 0
        self.rows = bytearray()
        self._open: dict[int, bytearray] = {META: bytearray(), UNDO: bytearray()}

    def add(self, purpose: int, raw: bytes) -> None:
        """More bytes of one of the two streams; whole chunks are written at once."""
        waiting = self._open[purpose]
        waiting += raw
        while len(waiting) >= CHUNK_BYTES:
            self._write(purpose, bytes(waiting[:CHUNK_BYTES]))
            del waiting[:CHUNK_BYTES]

    def end(self, purpose: int) -> None:
        """The stream has ended."""
        if self._open[purpose]:
            self._write(purpose, bytes(self._open[purpose]))
            self._open[purpose].clear()

    def _write(self, purpose: int, raw: bytes) -> None:
        self._file.seek(self._end)
        self._file.write(raw)
        self._places.append((self._end, len(raw)))
        self._end += len(raw)
        row = np.zeros((), CHUNK_ROW)
        row["digest"] = np.frombuffer(chunk_digest(raw), np.uint8)
        row["raw_bytes"], row["purpose"] = len(raw), purpose
        self.rows += row.tobytes()

    def __del__(self) -> None:
        self._file.close()

    def read(self, number: int) -> bytes:
        """Raw bytes of a chunk. Any thread."""
        offset, nbytes = self._places[number]
        with self._lock:
            self._file.seek(offset)
            return self._file.read(nbytes)


class StateSource:
    """`CheckpointSource` over a StateMachine. `term_at` gives the journal's terms, on the thread that applies."""

    def __init__(
        self,
        *,
        machine: StateMachine,
        on_loop: OnLoop,
        term_at: Callable[[int], int | None],
        spool_folder: str,
        wait: Callable[[float], object],
    ) -> None:
        """`wait(seconds)` blocks the calling thread for a while."""
        self._machine = machine
        self._on_loop = on_loop
        self._term_at = term_at
        self._spool_folder = spool_folder
        self._wait = wait
        self._lock = threading.Lock()
        self._newest: weakref.ref[HeldCheckpoint] | None = None

    def choose(self, index_min: int) -> HeldCheckpoint | None:
        """A checkpoint of at least `index_min`; None while this node has not applied that much. Any thread, slow."""
        with self._lock:
            held = self._newest() if self._newest is not None else None
            if held is not None and held.manifest.index >= index_min:
                return held
            for attempt in range(TRIES_MAX):
                try:
                    held = self._make(index_min)
                    break
                except (Corrupt, RottenSlot) as error:
                    # An undo segment may have been copied forward and dropped since the freeze: freeze again.
                    log.warning("transfer.source_failed", attempt=attempt, reason=str(error))
            else:
                return None
            self._newest = weakref.ref(held) if held is not None else None
            return held

    def _make(self, index_min: int) -> HeldCheckpoint | None:
        if self._machine.applied_index < max(index_min, 1):
            return None
        frozen, prev_term = self._freeze()
        meta = frozen.meta
        book, spool = LeafBook(), Spool(self._spool_folder)
        spool.add(META, encode_state(frozen, book))
        spool.end(META)
        for piece in undo_bytes(frozen, self._read_pieces):
            spool.add(UNDO, piece)
        spool.end(UNDO)
        manifest = build_manifest(
            index=meta.applied_index,
            term=meta.applied_term,
            prev_index=meta.applied_index - 1,
            prev_term=prev_term,
            content=ContentDigest().of(frozen),
            leaves=np.frombuffer(b"".join(book.rows), LEAF_ROW),
            chunks=np.frombuffer(bytes(spool.rows), CHUNK_ROW),
        )
        return HeldCheckpoint(manifest, book.leaves, spool.read)

    def _freeze(self) -> tuple[FrozenState, int]:
        while True:
            found = self._on_loop(self._freeze_now)
            if found is not None:
                frozen, prev_term = found
                return frozen, prev_term
            self._wait(BUSY_RETRY_S)

    def _freeze_now(self) -> tuple[FrozenState, int] | None:
        """Thread that applies. None in the middle of an entry that is applied in slices."""
        machine = self._machine
        if machine.busy:
            return None
        index = machine.applied_index
        prev_term = self._term_at(index - 1) if index > 1 else 0
        invariant(prev_term is not None, "the journal keeps the entry before the last applied one", index=index)
        return machine.freeze(whole=True), prev_term or 0

    def _read_pieces(self, wanted: list[tuple[int, Pieces]]) -> dict[int, bytes]:
        log_read = self._machine.registry.book.log.read

        def read() -> dict[int, bytes]:
            return {number: b"".join(log_read(position) for position, _ in pieces) for number, pieces in wanted}

        blobs: dict[int, bytes] = self._on_loop(read)
        return blobs
