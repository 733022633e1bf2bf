"""When a checkpoint is taken: by bytes applied, by time, or because the disk is short. Runs on the node's loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Final

from cluster.config import NodeConfig
from cluster.consensus import seams
from cluster.consensus.replica import Replica
from cluster.log import get_log
from cluster.machine import ConsensusMachine
from cluster.metrics import Metrics
from node.checkpoint import Checkpointer
from node.checkpoint_ledger import Base

log = get_log("cluster.keeper")
LOOK_S: Final = 0.05
NO_ROOM_RETRY_S: Final = 1.0


def seam_base(base: Base) -> seams.Base:
    """The checkpoint's base as consensus names it."""
    return seams.Base(base.index, base.term, base.prev_index, base.prev_term, base.digest)


class CheckpointKeeper:
    """Starts checkpoints, and tells consensus which are durable. Loop thread only."""

    def __init__(self, config: NodeConfig, machine: ConsensusMachine, replica: Replica, metrics: Metrics) -> None:
        self._config = config
        self._machine = machine
        self._replica = replica
        self._metrics = metrics
        self._checkpointer: Checkpointer | None = None
        self._bytes_at = 0
        self._last_s = time.monotonic()
        self._failures = 0
        self._not_before_s = 0.0
        self.wanted = False  # somebody needs room: the next look takes one
        self.after_durable: Callable[[], None] = lambda: None

    def attach(self, checkpointer: Checkpointer) -> None:
        """The checkpointer is made with this keeper's callbacks, so it comes second."""
        self._checkpointer = checkpointer

    @property
    def checkpointer(self) -> Checkpointer:
        """Raises RuntimeError before `attach`."""
        if self._checkpointer is None:
            raise RuntimeError("no checkpointer is attached")
        return self._checkpointer

    def on_durable(self, base: Base, seconds: float) -> None:
        """From the checkpointer: `base` is durable, the journal may be cut there."""
        self._machine.base = seam_base(base)
        self._metrics.add("checkpoints")
        self._metrics.checkpoint_duration.observe(seconds)
        self._metrics.set("checkpoint_index", base.index)
        log.debug("checkpoint.durable", index=base.index, seconds=round(seconds, 4))
        self._replica.checkpointed(seam_base(base))
        self.after_durable()

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            self._note_failures()
            if self._is_due() and self.checkpointer.start():
                self._bytes_at = self._machine.applied_bytes
                self._last_s = time.monotonic()
                self.wanted = False

    def _note_failures(self) -> None:
        failures = self.checkpointer.failures
        if failures != self._failures:
            self._metrics.raft_snap_save_failures += failures - self._failures
            self._failures = failures
            self._not_before_s = time.monotonic() + NO_ROOM_RETRY_S
            log.warning("checkpoint.no_room", failures=failures)

    def _is_due(self) -> bool:
        machine, base = self._machine.machine, self._machine.base
        if self.checkpointer.running or machine.busy or not self._replica.may_checkpoint or self._replica.installing:
            return False
        now_s = time.monotonic()
        if now_s < self._not_before_s or (base is not None and base.index >= machine.applied_index):
            return False
        grown = self._machine.applied_bytes - self._bytes_at
        late = (now_s - self._last_s) * 1000 >= self._config.checkpoint_interval_ms
        return self.wanted or late or grown >= self._config.checkpoint_bytes
