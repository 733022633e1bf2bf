"""What outlives a process on a simulated computer: its disk."""

from __future__ import annotations

from chaos.sim.disk import SimDisk, SimFile


class ForgetfulFile(SimFile):
    """Planted bug "no-fsync": it says that all is durable, and nothing is."""

    def fdatasync(self) -> None:
        self._check()


class Platter(SimDisk):
    """A disk under a process that may also just be killed."""

    def __init__(self, seed: int, *, forgetful: bool = False) -> None:
        super().__init__(seed)
        self.forgetful = forgetful

    def open(self, path: str, *, create: bool = False, exclusive: bool = False) -> SimFile:
        file = super().open(path, create=create, exclusive=exclusive)
        return ForgetfulFile(self, file.path, file._inode) if self.forgetful else file

    def killed(self) -> None:
        """The process is gone, the machine runs on: all that was written stays, in the cache at least."""
        self._off = False
        self.cut_after = None
