"""Whole files in and out of a space, with bounded memory: pieces of 1 MiB, a bounded number of them on their way."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from lastgood.answers import Exported, Imported, Read, Snapshot, Written
from lastgood.errors import ImportFailed, LastgoodError, NotFound, UnknownOutcome

if TYPE_CHECKING:
    from lastgood.space import SnapshotLike, Space

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""

PIECE_BYTES: Final = 1024 * 1024
_EXPORT_TTL_S: Final = 24 * 3600.0
_ZEROS: Final = bytes(PIECE_BYTES)


async def import_file(
    space: Space,
    path: str | os.PathLike[str],
    *,
    in_flight_bytes_max: int = 16 << 20,
    progress: Progress | None = None,
) -> Imported:
    """Makes the space's bytes those of the file at `path`, by a row of transactions (not one).

    Takes a snapshot first and sets the size, then writes the pieces. In a space that never held anything, pieces of
    zeros are left out. Raises ImportFailed, which names the LVC that leads back; OSError for a file that
    can't be opened.
    """
    with open(path, "rb", buffering=0) as file:
        total = os.fstat(file.fileno()).st_size
        before = await space.snapshot(label=None)
        try:
            last = await space.tx(size=total)
            blank = before.pages == 0
            last = await _write_pieces(space, file.fileno(), total, blank, in_flight_bytes_max, progress) or last
        except (LastgoodError, OSError) as error:
            raise ImportFailed(
                f"import of {os.fspath(path)} into {space.name} stopped: {error}; "
                f"roll back to LVC {before.lvc}, which is snapshot {before.id}, for the state before it",
                rollback_lvc=before.lvc,
                snapshot=before.id,
                outcome_known=not isinstance(error, UnknownOutcome),
            ) from error
    return Imported(bytes=total, lvc=last.lvc, epoch=last.epoch, snapshot=before.id, rollback_lvc=before.lvc)


async def _write_pieces(
    space: Space, fd: int, total: int, blank: bool, in_flight_bytes_max: int, progress: Progress | None
) -> Written | None:
    """Writes the file's pieces; gives the answer with the highest LVC. The first failure ends it, when none is open."""
    window = _Window(max(1, in_flight_bytes_max // PIECE_BYTES), total, progress)
    try:
        for offset in range(0, total, PIECE_BYTES):
            length = min(PIECE_BYTES, total - offset)
            piece = await asyncio.to_thread(os.pread, fd, length, offset)
            if len(piece) != length:
                raise OSError(f"the file ended at {offset + len(piece)}, it had {total} bytes")
            await window.room()
            if blank and piece == _ZEROS[:length]:
                window.skipped(length)
            else:
                window.add(space.write(offset, piece), length)
        await window.drained()
    finally:
        await window.settled()
    return window.newest


class _Window:
    """Writes on their way: at most `count`; the first failure is raised by the next `room` or `drained`."""

    def __init__(self, count: int, total: int, progress: Progress | None) -> None:
        self._count = count
        self._total = total
        self._progress = progress
        self._done_bytes = 0
        self._open: set[asyncio.Future[Written]] = set()
        self._failure: BaseException | None = None
        self._changed = asyncio.Event()
        self.newest: Written | None = None

    async def room(self) -> None:
        while len(self._open) >= self._count and self._failure is None:
            self._changed.clear()
            await self._changed.wait()
        self._raise()

    async def drained(self) -> None:
        while self._open and self._failure is None:
            self._changed.clear()
            await self._changed.wait()
        self._raise()

    async def settled(self) -> None:
        """Waits until nothing is open, so that a caller who rolls back is not overtaken by a late write."""
        if self._open:
            await asyncio.wait(self._open)

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def add(self, write: Awaitable[Written], length: int) -> None:
        future = asyncio.ensure_future(write)
        self._open.add(future)
        future.add_done_callback(lambda done: self._finished(done, length))

    def skipped(self, length: int) -> None:
        self._done_bytes += length
        if self._progress is not None:
            self._progress(self._done_bytes, self._total)

    def _finished(self, future: asyncio.Future[Written], length: int) -> None:
        self._open.discard(future)
        self._changed.set()
        if future.cancelled():
            self._failure = self._failure or asyncio.CancelledError()
            return
        error = future.exception()
        if error is not None:
            # An open outcome outranks a refusal: the caller must hear of it.
            if self._failure is None or isinstance(error, UnknownOutcome):
                self._failure = error
            return
        done = future.result()
        if self.newest is None or done.lvc > self.newest.lvc:
            self.newest = done
        self.skipped(length)


async def export_file(
    space: Space,
    path: str | os.PathLike[str],
    *,
    snapshot: SnapshotLike | None = None,
    in_flight_bytes_max: int = 16 << 20,
    progress: Progress | None = None,
) -> Exported:
    """Writes the bytes of one moment to `path`: of `snapshot`, or of a new one that is deleted afterwards.

    The snapshot is pinned meanwhile. The file appears whole or not at all (staged beside it, synced, renamed).
    Raises NotFound for a snapshot that is not there, LastgoodError, OSError.
    """
    async with held_snapshot(space, snapshot) as source:
        await _stage(space, source, os.fspath(path), in_flight_bytes_max, progress)
    return Exported(bytes=source.size, lvc=source.lvc, root=source.root)


@asynccontextmanager
async def held_snapshot(space: Space, snapshot: SnapshotLike | None) -> AsyncIterator[Snapshot]:
    """A snapshot that stays while the block runs: the given one, or a new one that is deleted afterwards.

    It is pinned under a holder of its own, so that neither the ring nor its time to live takes it away.
    """
    holder = f"export-{secrets.token_hex(8)}"
    source = await (space.snapshot(ttl_s=_EXPORT_TTL_S) if snapshot is None else space.get_snapshot(snapshot))
    await space.pin(source, holder)
    try:
        yield source
    finally:
        try:
            # A fresh handle: somebody's rollback meanwhile must not leave the pin behind.
            now = await space.store.space(space.name)
            if now.uid == source.uid:
                await now.unpin(source, holder)
                if snapshot is None:
                    await now.delete_snapshot(source)
        except NotFound:
            pass  # the space was deleted under us; nothing is left to release


async def stream_out(
    space: Space, source: Snapshot, *, offset: int = 0, length: int | None = None, ahead: int = 8
) -> AsyncGenerator[bytes, None]:
    """The bytes of a snapshot in order, in pieces of at most 1 MiB, `ahead` of them on their way."""
    stop = source.size if length is None else min(source.size, offset + length)
    coming: deque[asyncio.Future[Read]] = deque()
    starts = iter(range(offset, stop, PIECE_BYTES))
    try:
        while True:
            while len(coming) < ahead and (start := next(starts, None)) is not None:
                wanted = space.read_version(start, min(PIECE_BYTES, stop - start), snapshot=source)
                coming.append(asyncio.ensure_future(wanted))
            if not coming:
                return
            yield (await coming.popleft()).data
    finally:
        for future in coming:
            future.cancel()


async def _stage(
    space: Space, source: Snapshot, path: str, in_flight_bytes_max: int, progress: Progress | None
) -> None:
    folder = os.path.dirname(path) or "."
    staged = os.path.join(folder, f".{os.path.basename(path)}.{secrets.token_hex(4)}.part")
    fd = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        os.ftruncate(fd, source.size)
        await _read_pieces(space, source, fd, max(1, in_flight_bytes_max // PIECE_BYTES), progress)
        await asyncio.to_thread(os.fsync, fd)
        os.rename(staged, path)
        await asyncio.to_thread(_sync_folder, folder)
    except BaseException:
        if os.path.exists(staged):
            os.unlink(staged)
        raise
    finally:
        os.close(fd)


async def _read_pieces(space: Space, source: Snapshot, fd: int, count: int, progress: Progress | None) -> None:
    """Reads pieces with `count` on their way and writes each at its place; zeros stay holes."""
    offsets = iter(range(0, source.size, PIECE_BYTES))
    done_bytes = 0

    async def reader() -> None:
        nonlocal done_bytes
        for offset in offsets:
            length = min(PIECE_BYTES, source.size - offset)
            got: Read = await space.read_version(offset, length, snapshot=source)
            if len(got.data) != length:
                raise LastgoodError(f"snapshot {source.id} gave {len(got.data)} bytes at {offset}, not {length}")
            if got.data != _ZEROS[:length]:
                await asyncio.to_thread(_pwrite_all, fd, got.data, offset)
            done_bytes += length
            if progress is not None:
                progress(done_bytes, source.size)

    readers = [asyncio.ensure_future(reader()) for _ in range(count)]
    try:
        await asyncio.gather(*readers)
    finally:
        for task in readers:
            task.cancel()
        await asyncio.gather(*readers, return_exceptions=True)


def _pwrite_all(fd: int, piece: bytes, offset: int) -> None:
    view = memoryview(piece)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written


def _sync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
