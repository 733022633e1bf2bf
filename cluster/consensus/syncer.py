"""The thread that makes the journal durable: while one fdatasync runs, the next batch gathers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from time import perf_counter

from wal.journal import RaftJournal, SyncMark


class JournalSyncer:
    """At most one sync at a time. The callbacks run on the loop's thread; `on_sync` gets the seconds of each sync."""

    def __init__(
        self,
        journal: RaftJournal,
        loop: asyncio.AbstractEventLoop,
        on_durable: Callable[[], None],
        on_failed: Callable[[BaseException], None],
        on_sync: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._journal, self._loop = journal, loop
        self._on_durable, self._on_failed, self._on_sync = on_durable, on_failed, on_sync
        self._marks: SimpleQueue[SyncMark | None] = SimpleQueue()
        self._busy = False
        self._failed = False
        self._stopping = False
        self.syncs = 0
        self._thread = Thread(target=self._work, name="journal-sync", daemon=True)
        self._thread.start()

    def kick(self) -> None:
        """Sync what is new, unless a sync runs: then its end does."""
        if self._busy or self._failed or self._stopping:
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
        self._stopping = True  # a mark that nobody syncs would be missing in the row
        self._marks.put(None)
        self._thread.join()

    def _work(self) -> None:
        while (mark := self._marks.get()) is not None:
            started = perf_counter()
            try:
                self._journal.sync(mark)
            except BaseException as error:
                # Whatever it was: the disk may have lost bytes that a second attempt would call durable.
                self._call(self._end_badly, error)
                return
            self._call(self._end, mark, perf_counter() - started)

    def _call(self, function: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(function, *arguments)
        except RuntimeError:  # the loop is closed: the process is on its way out
            return

    def _end(self, mark: SyncMark, seconds: float) -> None:
        self._journal.synced(mark)
        self._busy = False
        self.syncs += 1
        self._on_sync(seconds)
        self.kick()
        self._on_durable()

    def _end_badly(self, error: BaseException) -> None:
        self._failed = True
        self._on_failed(error)
