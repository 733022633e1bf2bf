"""The real journal, with the checker looking on."""

from __future__ import annotations

from typing import Final

from chaos.sim.consensus.checker import Checker
from wal.journal import RaftJournal

STANDS_FOR_SNAPSHOT: Final = b"\x04"  # the entry that an install leaves in place of those that it covers


class WatchedJournal(RaftJournal):
    """Tells the checker of every entry that is appended, and of all that were there when it was opened."""

    checker: Checker | None = None
    node = ""

    def watch(self, node: str, checker: Checker) -> None:
        """From now on; what recovery found is told at once."""
        self.node, self.checker = node, checker
        before: int | None = None
        for command, index, term in self.entries(self.first_index, self.last_index + 1):
            self._tell(command, index, term, before)
            before = term

    def append(self, command: bytes, index: int, term: int) -> None:
        before = self.last_term if self.first_index <= index - 1 == self.last_index else None
        super().append(command, index, term)
        self._tell(command, index, term, before)

    def truncate_from(self, index: int) -> None:
        if self.checker is not None and index <= self.last_index:
            self.checker.truncates(self.node, index, self.term_at(index), self.term)
        super().truncate_from(index)

    def _tell(self, command: bytes, index: int, term: int, before: int | None) -> None:
        if self.checker is not None and command != STANDS_FOR_SNAPSHOT:
            self.checker.entry(self.node, index, term, bytes(command), before)

    def has_durably(self, index: int, term: int) -> bool:
        """Would this entry still be here after a power cut right now? Entries below the log were committed once."""
        if index < self.first_index:
            return True
        return self.term_at(index) == term and self.lsn_of(index) <= self.durable_lsn
