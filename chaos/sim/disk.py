"""A disk in memory that forgets what was not synced when the power goes, in every way that a real one may.

Same behaviour as `wal.disk.RealDisk` otherwise (tests/contract/test_disk.py). What can be asked of it:

- `power_cut()` then `restart()`: unsynced writes are lost, kept or torn at a sector, each by itself; unsynced names
  (create, rename, unlink) are undone from some point on.
- `cut_after = n`: the power goes right before effect number n + 1, as PowerCut out of the call.
- `capacity_bytes`: ENOSPC beyond it. `fail_sync`: EIO from fdatasync, after which the bytes are gone but look clean.
- `flip(path, offset)`: a rotten bit, on disk and in the cache.
- `before_sync(path)`: called before each fdatasync, to block it or count it.
"""

from __future__ import annotations

import errno
import io
import os
import posixpath
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

SECTOR_BYTES = 512


class PowerCut(BaseException):
    """The machine is off. Not an Exception: no handler of the code under test may survive it."""


@dataclass
class _Inode:
    """Contents now, contents on the platter, and what was done since the last sync: (offset, bytes) or a length."""

    now: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes] | int] = field(default_factory=list)


def _apply(content: bytearray, change: tuple[int, bytes] | int) -> None:
    if isinstance(change, int):
        if change < len(content):
            del content[change:]
        else:
            content.extend(bytes(change - len(content)))
        return
    offset, written = change
    if offset > len(content):
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(written)] = written


class SimFile:
    """An open file of a SimDisk. Closed for ever by a power cut."""

    def __init__(self, disk: SimDisk, path: str, inode: _Inode) -> None:
        self.path = path
        self._disk = disk
        self._inode = inode
        self._boot = disk.boot
        self._closed = False

    def _check(self) -> None:
        self._disk.check_power(self._boot)
        if self._closed:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF), self.path)

    def pread(self, nbytes: int, offset: int) -> bytes:
        self._check()
        return bytes(self._inode.now[offset : offset + nbytes])

    def pwrite(self, buffer: bytes | bytearray | memoryview, offset: int) -> None:
        self._check()
        written = bytes(buffer)
        self._disk.reserve(offset + len(written) - len(self._inode.now))
        self._disk.effect(f"pwrite {self.path} {offset}+{len(written)}")
        _apply(self._inode.now, (offset, written))
        self._inode.pending.append((offset, written))

    def pwritev(self, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
        self.pwrite(b"".join(buffers), offset)

    def fallocate(self, nbytes: int) -> None:
        self._check()
        if nbytes > len(self._inode.now):
            self._resize(nbytes, "fallocate")

    def truncate(self, nbytes: int) -> None:
        self._check()
        self._resize(nbytes, "truncate")

    def _resize(self, nbytes: int, word: str) -> None:
        self._disk.reserve(nbytes - len(self._inode.now))
        self._disk.effect(f"{word} {self.path} {nbytes}")
        _apply(self._inode.now, nbytes)
        self._inode.pending.append(nbytes)

    def fdatasync(self) -> None:
        self._check()
        if self._disk.before_sync is not None:
            self._disk.before_sync(self.path)
        self._disk.effect(f"fdatasync {self.path}")
        self._disk.syncs += 1
        pending = self._inode.pending
        self._inode.pending = []
        if self._disk.fail_sync is not None and self._disk.fail_sync(self.path):
            raise OSError(errno.EIO, os.strerror(errno.EIO), self.path)
        for change in pending:
            _apply(self._inode.durable, change)

    def size(self) -> int:
        self._check()
        return len(self._inode.now)

    def fileno(self) -> int:
        raise io.UnsupportedOperation("fileno: this file is simulated")

    def close(self) -> None:
        self._closed = True


class SimDisk:
    """See the module. One seed gives one behaviour. `effects` counts what changed the disk; `history` names it."""

    def __init__(self, seed: int = 0, *, capacity_bytes: int | None = None) -> None:
        self.rng = Random(seed)
        self.capacity_bytes = capacity_bytes
        self.cut_after: int | None = None
        self.fail_sync: Callable[[str], bool] | None = None
        self.before_sync: Callable[[str], None] | None = None
        self.effects = 0
        self.syncs = 0
        self.history: list[str] = []
        self.keep_history = False
        self.boot = 1
        self._off = False
        self._names: dict[str, _Inode] = {}
        self._durable_names: dict[str, _Inode] = {}
        self._name_changes: dict[str, list[tuple[str, _Inode | None]]] = {}  # folder -> (path, inode or gone), unsynced
        self._folders: set[str] = {"/", ""}

    # ------------------------------------------------------------------ faults

    def check_power(self, boot: int) -> None:
        if self._off or boot != self.boot:
            raise PowerCut

    def effect(self, text: str) -> None:
        """Counts one effect; raises PowerCut instead once `cut_after` are done."""
        if self.cut_after is not None and self.effects >= self.cut_after:
            self._off = True
            raise PowerCut(f"before effect {self.effects + 1}: {text}")
        self.effects += 1
        if self.keep_history:
            self.history.append(text)

    def reserve(self, more_bytes: int) -> None:
        if self.capacity_bytes is not None and more_bytes > 0 and self.used_bytes() + more_bytes > self.capacity_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def power_cut(self) -> None:
        """The machine goes off; every open file is dead."""
        self._off = True

    def restart(self, *, keep: float = 0.5, torn: float = 0.5) -> None:
        """Power is back. Of what was not synced, each write stays whole with chance `keep`, else torn with `torn`."""
        inodes = {id(inode): inode for inode in [*self._names.values(), *self._durable_names.values()]}
        for inode in inodes.values():
            for change in inode.pending:
                self._settle(inode, change, keep, torn)
            inode.pending = []
            inode.now = bytearray(inode.durable)
        for folder in sorted(self._name_changes):
            changes = self._name_changes[folder]
            for path, inode in changes[: self.rng.randint(0, len(changes))]:
                self._set_name(self._durable_names, path, inode)
        self._name_changes = {}
        self._names = dict(self._durable_names)
        self.cut_after = None
        self.boot += 1
        self._off = False

    def _settle(self, inode: _Inode, change: tuple[int, bytes] | int, keep: float, torn: float) -> None:
        if self.rng.random() < keep:
            _apply(inode.durable, change)
        elif isinstance(change, tuple) and self.rng.random() < torn:
            offset, written = change
            first = SECTOR_BYTES - offset % SECTOR_BYTES
            bounds = [0, *range(first, len(written), SECTOR_BYTES), len(written)]
            for start, stop in pairwise(bounds):
                if self.rng.random() < 0.5:
                    _apply(inode.durable, (offset + start, written[start:stop]))

    def flip(self, path: str, offset: int, mask: int = 1) -> None:
        """A bit rots: on the platter and, as after a restart, in what is read."""
        inode = self._names[path]
        inode.now[offset] ^= mask
        if offset < len(inode.durable):
            inode.durable[offset] ^= mask

    def used_bytes(self) -> int:
        return sum(len(inode.now) for inode in self._names.values())

    # ------------------------------------------------------------------ the Disk protocol

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> SimFile:
        self.check_power(self.boot)
        inode = self._names.get(path)
        if inode is None:
            if not create or posixpath.dirname(path) not in self._folders:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            self.effect(f"create {path}")
            inode = _Inode()
            self._change_name(path, inode)
        elif exclusive:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        return SimFile(self, path, inode)

    def makedirs(self, path: str) -> None:
        self.check_power(self.boot)
        while path not in self._folders:
            self._folders.add(path)
            path = posixpath.dirname(path)

    def exists(self, path: str) -> bool:
        self.check_power(self.boot)
        return path in self._names or path in self._folders

    def listdir(self, path: str) -> list[str]:
        self.check_power(self.boot)
        if path not in self._folders:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        names = [posixpath.basename(name) for name in self._names if posixpath.dirname(name) == path]
        names += [posixpath.basename(name) for name in self._folders if name and posixpath.dirname(name) == path]
        return sorted(name for name in names if name)

    def rename(self, source: str, target: str) -> None:
        self.check_power(self.boot)
        if source not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), source)
        self.effect(f"rename {source} {target}")
        folder = posixpath.dirname(target)
        if folder != posixpath.dirname(source):
            raise OSError(errno.EXDEV, "renames across folders are not simulated", source)
        inode = self._names.pop(source)
        self._names[target] = inode
        # One change, not two: a rename is atomic.
        self._name_changes.setdefault(folder, []).append((f"{source}\0{target}", inode))

    def unlink(self, path: str) -> None:
        self.check_power(self.boot)
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.effect(f"unlink {path}")
        self._change_name(path, None)

    def fsync_dir(self, path: str) -> None:
        self.check_power(self.boot)
        self.effect(f"fsync_dir {path}")
        for name, inode in self._name_changes.pop(path, []):
            self._set_name(self._durable_names, name, inode)

    def free_bytes(self, path: str) -> int:
        return (1 << 40) if self.capacity_bytes is None else max(0, self.capacity_bytes - self.used_bytes())

    def entropy(self, nbytes: int) -> bytes:
        return self.rng.randbytes(nbytes)

    def _change_name(self, path: str, inode: _Inode | None) -> None:
        self._set_name(self._names, path, inode)
        self._name_changes.setdefault(posixpath.dirname(path), []).append((path, inode))

    @staticmethod
    def _set_name(names: dict[str, _Inode], path: str, inode: _Inode | None) -> None:
        source, _, target = path.rpartition("\0")
        if source:
            names.pop(source, None)
        if inode is None:
            names.pop(target, None)
        else:
            names[target] = inode
