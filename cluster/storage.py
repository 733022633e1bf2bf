"""The durable half of a node: journal, page heaps, undo log, checkpoint, and the state machine over them."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from cluster.config import NodeConfig
from node.checkpoint import Checkpointer
from node.checkpoint_ledger import Base
from node.commands import COMMAND_BYTES_MAX
from node.heap import HeapSet
from node.recovery import HEAP_FOLDER, JOURNAL_FOLDER, open_storage
from node.settings import Limits
from node.state import StateMachine
from wal.disk import Disk
from wal.journal import JournalConfig, RaftJournal
from wal.undo import UndoConfig

Post = Callable[[Callable[[], object]], object]
SPARE_SEGMENTS: Final = 2  # of the journal and of the undo log each are kept free beside the ballast
ON_THEIR_WAY: Final = 6  # times a batch: admitted, but neither in heap, undo log nor journal yet; checkpoint beside it
UNDO_SEGMENT_BYTES_MAX: Final = 32 << 20


def monotonic_ms() -> float:
    """Monotonic milliseconds of this process."""
    return time.monotonic() * 1000


def limits_of(config: NodeConfig) -> Limits:
    """The replicated limits that this node would give a new cluster."""
    return Limits(
        undo_bytes_total=config.undo_bytes_total,
        undo_records_max=config.undo_records_max,
        events_max=config.events_kept,
    )


class NodeStorage:
    """Opened from the folder in `config.data`; the machine stands at the newest durable checkpoint.

    `post` runs a call on the loop thread. Raises Corrupt (named damage), FailStop or OSError.
    """

    def __init__(self, config: NodeConfig, disk: Disk, pool: Executor, post: Post) -> None:
        folder = str(Path(config.data))
        segment_bytes = config.journal_segment_bytes()
        journal = JournalConfig(bytes_max=config.journal_bytes_max, segment_bytes=segment_bytes)
        self.journal = RaftJournal.open(disk, f"{folder}/{JOURNAL_FOLDER}", journal)
        disk.makedirs(f"{folder}/{HEAP_FOLDER}")
        self.heaps = HeapSet(disk, f"{folder}/{HEAP_FOLDER}")
        undo = UndoConfig(segment_bytes=min(UNDO_SEGMENT_BYTES_MAX, max(segment_bytes, config.undo_bytes_total // 8)))
        self.stored = open_storage(disk, folder, self.heaps, undo_config=undo, ballast_bytes=config.ballast_bytes)
        self.machine = StateMachine(
            heaps=self.heaps,
            undo=self.stored.undo,
            submit=pool.submit,
            post=post,
            monotonic_ms=monotonic_ms,
            limits=limits_of(config),
            spare_bytes=SPARE_SEGMENTS * (max(segment_bytes, COMMAND_BYTES_MAX) + undo.segment_bytes)
            + ON_THEIR_WAY * config.batches_in_flight_max * config.batch_bytes_max,
        )
        if self.stored.held is not None:
            self.machine.restore(self.stored.held)

    def term_at(self, index: int) -> int:
        """Term of an entry; 0 where the journal no longer tells. The entry before a checkpoint's is information only:
        with a journal of few entries it may be gone as soon as the one after it is applied.
        """
        return self.journal.term_at(index) or 0

    def make_checkpointer(
        self,
        pool: Executor,
        post: Post,
        on_durable: Callable[[Base, float], None],
        on_fatal: Callable[[BaseException], None],
    ) -> Checkpointer:
        """The one checkpointer of this machine. Callbacks come on the loop thread."""
        return Checkpointer(
            machine=self.machine,
            storage=self.stored,
            term_at=self.term_at,
            submit=pool.submit,
            post=post,
            monotonic_ms=monotonic_ms,
            on_durable=on_durable,
            on_fatal=on_fatal,
        )

    def close(self) -> None:
        """Closes files. Nothing is made durable that was not already: a stop is as good as a kill."""
        self.journal.close()
        self.stored.undo.close()
        self.stored.store.close()
        self.heaps.close()
