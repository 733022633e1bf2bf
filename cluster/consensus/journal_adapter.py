"""The journal as the engine sees it: a list of (command, index, term) whose position 0 is the first entry kept.

Everything goes to `wal.journal.RaftJournal`. Added here: how far our own disk is, slices of bounded size, and that a
log is cleared by installing a snapshot and by nothing else.
"""

from __future__ import annotations

from typing import Any, Final, Protocol, TypeAlias

from pysyncobj.journal import Journal

from cluster.consensus.seams import Base
from wal.checks import FailStop, invariant

Entry: TypeAlias = tuple[bytes, int, int]  # command, index, term

NO_OP: Final = b"\x01"  # the engine's own entry at the start of a term
SNAPSHOT: Final = b"\x04"  # stands for the last entry that an installed snapshot covers; never applied, never sent


class RaftLog(Protocol):
    """What is needed of `wal.journal.RaftJournal`; its docstrings hold."""

    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    @property
    def last_term(self) -> int: ...
    @property
    def term(self) -> int: ...
    @property
    def vote(self) -> str | None: ...
    @property
    def lsn(self) -> int: ...
    @property
    def durable_lsn(self) -> int: ...
    def entry(self, index: int) -> Entry: ...
    def entries(self, start: int, stop: int, bytes_max: int | None = None) -> list[Entry]: ...
    def term_at(self, index: int) -> int | None: ...
    def append(self, command: bytes, index: int, term: int) -> None: ...
    def truncate_from(self, index: int) -> None: ...
    def compact_to(self, index: int) -> None: ...
    def reset(self, entries: list[Entry]) -> None: ...
    def set_term(self, term: int, vote: str | None) -> None: ...
    def note_commit(self, index: int) -> None: ...
    def lsn_of(self, index: int) -> int: ...


class JournalAdapter(Journal):  # type: ignore[misc]  # the library has no types
    """PySyncObj's Journal over a RaftLog. `keep_votes=False` is the planted bug "vote not persisted"."""

    def __init__(self, log: RaftLog, *, message_bytes: int, keep_votes: bool = True) -> None:
        self.log = log
        self.message_bytes = message_bytes
        self.commit = 1
        self._keep_votes = keep_votes
        self._term, self._vote = log.term, log.vote
        self.durable_index = (
            log.last_index
        )  # of our own disk, as of the last note_durable(); opening a journal syncs what it found
        self._installing: Base | None = None
        self._installed_adds = 0
        self.observer: Any = None  # sees appended and truncated entries: cluster.consensus.membership

    # ---------------------------------------------------------------- reading
    @property
    def first_index(self) -> int:
        return self.log.first_index

    @property
    def last_index(self) -> int:
        return self.log.last_index

    @property
    def last_term(self) -> int:
        return self.log.last_term

    @property
    def term(self) -> int:
        return self._term

    def term_at(self, index: int) -> int | None:
        return self.log.term_at(index)

    def __len__(self) -> int:
        return self.log.last_index - self.log.first_index + 1

    def __getitem__(self, item: int | slice) -> Any:
        """An entry, or a list. An open slice holds about `message_bytes`, but two entries if there are."""
        log = self.log
        first, last = log.first_index, log.last_index
        if item == -1:
            return log.entry(last)
        if isinstance(item, int):
            index = last + 1 + item if item < 0 else first + item
            if not first <= index <= last:
                raise IndexError(item)
            return log.entry(index)
        invariant(item.step is None and (item.start or 0) >= 0, "the engine takes forward slices", item=item)
        start = first + (item.start or 0)
        if item.stop is not None:
            stop = min(first + item.stop, last + 1)
            return log.entries(start, stop) if start < stop else []
        if start > last:
            return []
        if start == last:
            return [log.entry(start)]
        found = log.entries(start, last + 1, self.message_bytes)
        # The engine tells from a second entry that something must be truncated, so a large first one must not hide it.
        return found if len(found) > 1 else log.entries(start, start + 2)

    # ---------------------------------------------------------------- writing
    def add(self, command: bytes, index: int, term: int) -> None:
        if self._installed_adds:
            self._installed_adds -= 1  # the engine repeats what clear() has put there
            return
        self.log.append(command, index, term)
        if self.observer is not None:
            self.observer.on_append(index, command)

    def deleteEntriesFrom(self, position: int) -> None:
        index = self.log.first_index + position
        if index > self.log.last_index:
            return
        if index <= self.commit:
            raise FailStop("truncation of committed entries", index=index, commit=self.commit)
        self.log.truncate_from(index)
        self.durable_index = min(self.durable_index, index - 1)
        if self.observer is not None:
            self.observer.on_truncate(index)

    def deleteEntriesTo(self, position: int) -> None:
        raise FailStop("the engine compacts by itself", position=position)  # we cut after our own checkpoints

    def clear(self) -> None:
        base = self._installing
        if base is None:
            raise FailStop("the engine clears the log outside an install")
        self.log.reset([(SNAPSHOT, base.index, base.term)])
        self._installed_adds = 2
        self.durable_index = 0
        if self.observer is not None:
            self.observer.on_reset(base.index)

    def install(self, base: Base) -> InstallWindow:
        """`with adapter.install(base):` the engine may clear the log, which then begins with `base`."""
        return InstallWindow(self, base)

    def setCurrentTerm(self, term: int, vote: str | None) -> None:
        invariant(term >= self._term, "terms never go back", term=term, known=self._term)
        self._term, self._vote = term, vote
        if self._keep_votes:
            self.log.set_term(term, vote)

    def getCurrentTerm(self) -> int:
        return self._term

    def getVotedForNodeId(self) -> str | None:
        return self._vote

    def setRaftCommitIndex(self, index: int) -> None:
        if index > self.commit:
            self.commit = index
            self.log.note_commit(index)

    def getRaftCommitIndex(self) -> int:
        return self.commit  # volatile, as in the paper; after a restart what the checkpoint covers

    def _destroy(self) -> None: ...

    # ---------------------------------------------------------------- durability
    def note_durable(self) -> None:
        """Set `durable_index`: the highest entry that our own disk has, with everything before it."""
        log, index = self.log, self.durable_index
        last, durable = log.last_index, log.durable_lsn
        index = max(index, log.first_index - 1)
        while index < last and log.lsn_of(index + 1) <= durable:
            index += 1
        self.durable_index = index


class InstallWindow:
    """The one moment at which the engine may replace the log."""

    def __init__(self, adapter: JournalAdapter, base: Base) -> None:
        self._adapter, self._base = adapter, base

    def __enter__(self) -> None:
        self._adapter._installing = self._base

    def __exit__(self, *_: object) -> None:
        self._adapter._installing = None
        self._adapter._installed_adds = 0
