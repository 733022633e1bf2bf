"""The LMDB file that a checkpoint is committed to: one transaction per checkpoint, rows in named tables.

LMDB swaps its root page only after everything below it is synced, so a crash leaves the old checkpoint or the new one.
The map grows on demand. `fault` is called with the name of each step, so that tests can stop there.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Protocol

import lmdb

from wal.checks import Corrupt, FailStop

MAP_BYTES: Final = 64 << 20
MAP_GROWTH: Final = 2
TABLES_MAX: Final = 32
TREE_BYTES: Final = 16 * 4096  # new pages of a table's tree above its leaves, and of the list of free pages
ROW_BYTES: Final = 256  # of a row beyond twice its value: node header and key, in pages that may be half empty
PAGE_BYTES: Final = 4096  # LMDB's

Row = tuple[bytes, bytes | None]  # key, value; None = the key goes


class NoRoom(Exception):
    """The disk is full. The previous checkpoint stands."""


class Writer(Protocol):
    """What fills a checkpoint: (table, rows), None = empty the table. Called again when the map had to grow."""

    def __call__(self) -> Iterable[tuple[str, Iterable[Row] | None]]: ...


def _no_fault(step: str) -> None:
    """Nothing fails."""


class CheckpointStore:
    """Tables of one checkpoint. One thread at a time; `write` is the only thing that changes it."""

    def __init__(
        self,
        folder: str,
        tables: Iterable[str],
        *,
        map_bytes: int = MAP_BYTES,
        readonly: bool = False,
        fault: Callable[[str], None] = _no_fault,
    ) -> None:
        """Opens or makes the file in `folder`. Raises Corrupt if it is no LMDB file."""
        self.path = str(Path(folder) / "data.mdb")
        self._fault = fault
        if not readonly:
            Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        size = max(map_bytes, 2 * Path(self.path).stat().st_size if Path(self.path).exists() else 0)
        try:
            self._env = lmdb.open(
                folder,
                map_size=size,
                max_dbs=TABLES_MAX,
                readonly=readonly,
                create=not readonly,
                readahead=False,
                mode=0o600,
                lock=not readonly,
            )
            self._tables = {name: self._env.open_db(name.encode(), create=not readonly) for name in tables}
        except lmdb.Error as error:
            raise Corrupt(self.path, 0, "an LMDB file", str(error)) from error
        if not readonly:
            _fsync_folder(folder)

    @property
    def map_bytes(self) -> int:
        return int(self._env.info()["map_size"])

    @property
    def used_bytes(self) -> int:
        """Bytes of the file that pages have reached."""
        info = self._env.info()
        return int((info["last_pgno"] + 1) * self._env.stat()["psize"])

    def write(self, writer: Writer) -> None:
        """Commits all that `writer` yields as (table, rows), durably, or nothing. Raises NoRoom or FailStop."""
        while True:
            try:
                with _Transaction(self._env) as txn:
                    fresh_bytes = touched = 0
                    for table, rows in writer():
                        nbytes, count = self._fill(txn, table, rows)
                        fresh_bytes, touched = fresh_bytes + nbytes, touched + count
                        self._fault(f"written {table}")
                    self._reserve(fresh_bytes + min(touched * PAGE_BYTES, self.used_bytes))
                    self._fault("before commit")
            except lmdb.MapFullError:
                self._env.set_mapsize(self.map_bytes * MAP_GROWTH)
            except (lmdb.DiskError, lmdb.Error, OSError) as error:
                if _is_full(error):
                    raise NoRoom(str(error)) from error
                raise FailStop("the checkpoint cannot be committed", path=self.path, error=str(error)) from error
            else:
                self._fault("committed")
                return

    def _fill(self, txn: Any, table: str, rows: Iterable[Row] | None) -> tuple[int, int]:
        """Puts the rows. How many bytes of new pages they take at most, and how many pages of old ones they touch."""
        handle = self._tables[table]
        nbytes, count = TREE_BYTES, 0
        if rows is None:
            txn.drop(handle, delete=False)
            return nbytes, count
        for key, value in rows:
            nbytes += ROW_BYTES
            count += 1
            if value is None:
                txn.delete(key, db=handle)
            else:
                txn.put(key, value, db=handle)
                nbytes += 2 * len(value)
        return nbytes, count

    def _reserve(self, nbytes: int) -> None:
        """Allocates what the commit may write, because LMDB reports a full disk as EIO, like a bad one."""
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            before = os.fstat(fd).st_size
            try:
                os.posix_fallocate(fd, 0, max(before, self.used_bytes + nbytes))
            except OSError:
                os.ftruncate(fd, before)
                raise
        finally:
            os.close(fd)

    def get(self, table: str, key: bytes) -> bytes | None:
        with self._env.begin() as txn:
            found = txn.get(key, db=self._tables[table])
        return bytes(found) if found is not None else None

    def rows(self, table: str) -> Iterator[tuple[bytes, bytes]]:
        """All rows of a table in the order of their keys. Raises Corrupt if LMDB finds its pages damaged."""
        try:
            with self._env.begin() as txn:
                yield from txn.cursor(db=self._tables[table])
        except lmdb.Error as error:
            raise Corrupt(self.path, 0, f"rows of table {table}", str(error)) from error

    def close(self) -> None:
        self._env.close()


class _Transaction:
    """A write transaction that commits unless its block raises."""

    def __init__(self, env: Any) -> None:
        self._txn = env.begin(write=True)

    def __enter__(self) -> Any:
        return self._txn

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._txn.commit()
        else:
            self._txn.abort()


def _is_full(error: Exception) -> bool:
    code = getattr(error, "errno", None)
    return code in (errno.ENOSPC, errno.EDQUOT) or os.strerror(errno.ENOSPC) in str(error)


def _fsync_folder(folder: str) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class Ballast:
    """A file that only keeps room: given up when a checkpoint, which is what frees space, finds the disk full."""

    def __init__(self, path: str, nbytes: int) -> None:
        self.path = path
        self.nbytes = nbytes

    @property
    def held_bytes(self) -> int:
        """Bytes that `release` would give back."""
        try:
            return os.stat(self.path).st_size
        except FileNotFoundError:
            return 0

    def hold(self) -> bool:
        """Takes the room again. False while the disk is too full."""
        if self.held_bytes >= self.nbytes or self.nbytes == 0:
            return True
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(fd, 0, self.nbytes)
        except OSError as error:
            os.ftruncate(fd, 0)
            if not _is_full(error):
                raise
            return False
        finally:
            os.close(fd)
        return True

    def release(self) -> None:
        """Gives the room back."""
        if self.held_bytes:
            os.truncate(self.path, 0)
