"""The lock on a node's data folder. Who holds it runs that node; nothing else says so, a pid in a file least of all.

A POSIX record lock: the kernel drops it with the process, and tells everybody who asks which process holds it. The one
hazard of such locks is that closing *any* descriptor of the file drops them, so nothing else may open `LOCK_NAME`
in the process that holds it; `holder` of one's own folder is therefore answered without opening the file.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from struct import Struct
from typing import Final

LOCK_NAME: Final = "lock"
FLOCK: Final = Struct("hhqqi")  # struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid
_held: Final[set[str]] = set()


class FolderBusy(Exception):
    """Another process runs on this data folder."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(f"{folder} is in use by process {pid}")
        self.folder = folder
        self.pid = pid


class DataLock:
    """Held from `take` until `release` or the end of the process."""

    def __init__(self, folder: Path, fd: int) -> None:
        self._folder = folder
        self._fd = fd

    @classmethod
    def take(cls, folder: str | os.PathLike[str]) -> DataLock:
        """Locks the folder, which must exist. Raises FolderBusy, and OSError when the file can't be made."""
        path = Path(folder).resolve()
        if str(path) in _held:
            raise FolderBusy(path, os.getpid())
        fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            pid = _ask(fd)
            os.close(fd)
            if error.errno not in (errno.EACCES, errno.EAGAIN):
                raise
            raise FolderBusy(path, pid or 0) from None
        _held.add(str(path))
        return cls(path, fd)

    def release(self) -> None:
        """Gives the folder back. The file stays: unlinking it would let two processes lock two files."""
        if self._fd >= 0:
            _held.discard(str(self._folder))
            os.close(self._fd)
            self._fd = -1


def holder(folder: str | os.PathLike[str]) -> int | None:
    """Pid of the process that runs on this data folder, None if there is none. Takes nothing, so it never disturbs."""
    path = Path(folder).resolve()
    if str(path) in _held:
        return os.getpid()
    try:
        fd = os.open(path / LOCK_NAME, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _ask(fd)
    finally:
        os.close(fd)


def _ask(fd: int) -> int | None:
    answer = fcntl.fcntl(fd, fcntl.F_GETLK, FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    kind, _whence, _start, _length, pid = FLOCK.unpack(answer)
    return None if kind == fcntl.F_UNLCK else int(pid)
