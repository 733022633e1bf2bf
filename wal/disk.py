"""The disk as a seam: everything durable goes through `Disk`, so that a fake can lose power between any two effects.

The fake is `chaos.sim.disk.SimDisk`; tests/contract/test_disk.py holds both to the same behaviour. Paths are strings.
Errors are OSError as the kernel gives them (ENOSPC, EIO, FileNotFoundError, FileExistsError).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview

IOV_MAX: Final = 1024  # Linux: buffers that one pwritev takes


class File(Protocol):
    """An open file. Reads and writes name their offset, so that threads can share it."""

    path: str

    def pread(self, nbytes: int, offset: int) -> bytes:
        """Bytes from `offset`; fewer than `nbytes` only at the end of the file."""

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        """Writes all of `buffer`, or raises. Not durable before `fdatasync`."""

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        """Writes all of `buffers` one after the other from `offset`, or raises."""

    def fallocate(self, nbytes: int) -> None:
        """Makes the file at least `nbytes` long with disk space behind every byte; new bytes read as zero."""

    def truncate(self, nbytes: int) -> None:
        """Sets the length. Not durable before `fdatasync`."""

    def fdatasync(self) -> None:
        """What was written and the length are durable when this returns. If it raises, they are unknown for ever."""

    def size(self) -> int:
        """Length in bytes."""

    def fileno(self) -> int:
        """File descriptor for a memory mapping. A fake has none and raises io.UnsupportedOperation."""

    def close(self) -> None:
        """Closes; does not make anything durable. Closing twice is fine."""


class Disk(Protocol):
    """A file system. Names (create, rename, unlink) are durable only after `fsync_dir` of their folder."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> File:
        """Opens for reading and writing. `create` makes a missing file, `exclusive` refuses an existing one."""

    def makedirs(self, path: str) -> None:
        """Makes the folder and its parents, durably."""

    def exists(self, path: str) -> bool: ...

    def listdir(self, path: str) -> list[str]:
        """Names in the folder, sorted."""

    def rename(self, source: str, target: str) -> None:
        """Atomic, replaces `target`."""

    def unlink(self, path: str) -> None: ...

    def fsync_dir(self, path: str) -> None:
        """Makes the names in the folder durable."""

    def free_bytes(self, path: str) -> int:
        """Bytes that may still be allocated on the file system of `path`."""

    def entropy(self, nbytes: int) -> bytes:
        """Random bytes for salts, so that stale bytes never pass for fresh ones."""


class RealFile:
    """A file of the operating system."""

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self._fd = fd

    def pread(self, nbytes: int, offset: int) -> bytes:
        got = os.pread(self._fd, nbytes, offset)
        if len(got) == nbytes or not got:
            return got
        parts = [got]
        have = len(got)
        while have < nbytes:
            more = os.pread(self._fd, nbytes - have, offset + have)
            if not more:
                break
            parts.append(more)
            have += len(more)
        return b"".join(parts)

    def pwrite(self, buffer: Buffer, offset: int) -> None:
        wrote = os.pwrite(self._fd, buffer, offset)
        if wrote != len(buffer):
            rest = memoryview(buffer)[wrote:]
            while rest:
                offset += wrote
                wrote = os.pwrite(self._fd, rest, offset)
                rest = rest[wrote:]

    def pwritev(self, buffers: Sequence[Buffer], offset: int) -> None:
        for start in range(0, len(buffers), IOV_MAX):
            part = buffers[start : start + IOV_MAX]
            want = sum(map(len, part))
            wrote = os.pwritev(self._fd, part, offset)
            if wrote != want:
                self.pwrite(memoryview(b"".join(part))[wrote:], offset + wrote)
            offset += want

    def fallocate(self, nbytes: int) -> None:
        os.posix_fallocate(self._fd, 0, nbytes)

    def truncate(self, nbytes: int) -> None:
        os.ftruncate(self._fd, nbytes)

    def fdatasync(self) -> None:
        os.fdatasync(self._fd)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    def __del__(self) -> None:
        with suppress(OSError):
            self.close()


class RealDisk:
    """The operating system's file system."""

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> RealFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0) | (os.O_EXCL if exclusive else 0)
        return RealFile(path, os.open(path, flags, 0o600))

    def makedirs(self, path: str) -> None:
        missing = []
        while path and not os.path.isdir(path):
            missing.append(path)
            path = os.path.dirname(path)
        for folder in reversed(missing):
            os.makedirs(folder, mode=0o700, exist_ok=True)
            self.fsync_dir(os.path.dirname(folder) or ".")

    def exists(self, path: str) -> bool:
        return os.path.exists(path)

    def listdir(self, path: str) -> list[str]:
        return sorted(os.listdir(path))

    def rename(self, source: str, target: str) -> None:
        os.rename(source, target)

    def unlink(self, path: str) -> None:
        os.unlink(path)

    def fsync_dir(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def free_bytes(self, path: str) -> int:
        return shutil.disk_usage(path).free

    def entropy(self, nbytes: int) -> bytes:
        return os.urandom(nbytes)


def install_file(disk: Disk, path: str, content: Buffer) -> None:
    """Puts `content` at `path`; a power cut leaves the old file or the new one: sync, rename, sync the folder."""
    staged = disk.open(path + ".new", create=True)
    try:
        staged.truncate(0)
        staged.pwrite(content, 0)
        staged.fdatasync()
    finally:
        staged.close()
    disk.rename(path + ".new", path)
    # A rename alone can vanish on power loss: tests/unit/wal/test_disk.py::test_install_file_survives_a_cut_anywhere
    disk.fsync_dir(os.path.dirname(path))
