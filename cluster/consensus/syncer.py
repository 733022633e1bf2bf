"""The thread that makes the journal durable: while one fdatasync runs, the next batch gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread

from wal.journal import RaftJournal, SyncMark


class JournalSyncer:
    """At most one sync at a time. `on_durable` and `on_failed` are called on the loop's thread."""

    def __init__(
        self,
        journal: RaftJournal,
        loop: asyncio.AbstractEventLoop,
        on_durable: Callable[[], None],
        on_failed: Callable[[BaseException], None],
    ) -> None:
        self._journal, self._loop = journal, loop
        self._on_durable, self._on_failed = on_durable, on_failed
        self._marks: SimpleQueue[SyncMark | None] = SimpleQueue()
        self._busy = False
        self._failed = False
        self.syncs = 0
        self._thread = Thread(target=self._work, name="journal-sync", daemon=True)
        self._thread.start()

    def kick(self) -> None:
        """Sync what is new, unless a sync runs: then its end does."""
        if self._busy or self._failed:
            return
        mark = self._journal.flush()
        if mark is not None:
            self._busy = True
            self._marks.put(mark)

    @property
    def idle(self) -> bool:
        return not self._busy

    def stop(self) -> None:
        """End the thread after the sync that runs. What was not flushed stays in memory."""
        self._marks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (mark := self._marks.get()) is not None:
            try:
                self._journal.sync(mark)
            except BaseException as error:
                # Whatever it was: the disk may have lost bytes that a second attempt would call durable.
                self._call(self._end_badly, error)
                return
            self._call(self._end, mark)

    def _call(self, function: Callable[..., None], argument: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, argument)
        except RuntimeError:  # the loop is closed: the process is on its way out
            return

    def _end(self, mark: SyncMark) -> None:
        self._journal.synced(mark)
        self._busy = False
        self.syncs += 1
        self.kick()
        self._on_durable()

    def _end_badly(self, error: BaseException) -> None:
        self._failed = True
        self._on_failed(error)
