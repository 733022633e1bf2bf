"""One simulated node: a process that starts, pauses and dies, on a computer whose disk outlives it.

The process plays the host of the consensus core: it delivers what arrived, ticks, lets the journal sync in the
background, takes checkpoints, fetches installs. Whatever the core raises halts the process, which is a violation unless
a disk fault was injected.
"""

from __future__ import annotations

import random
import traceback
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from chaos.sim.consensus.clock import NodeClock
from chaos.sim.consensus.machine import Image, Machine, Vault

if TYPE_CHECKING:
    from chaos.sim.consensus.cluster import Cluster

SYNC_S = (0.0005, 0.002, 0.002, 0.03)  # how long an fdatasync takes, one of these
CHECKPOINT_S = (0.005, 0.05, 0.3)
FETCH_S = (0.0, 0.02, 0.3, 1.2)


class Process:
    """A node. `starts` counts its lives; whatever was scheduled in an earlier life does nothing."""

    def __init__(self, cluster: Cluster, name: str, rng: random.Random) -> None:
        self.cluster = cluster
        self.name = name
        self.rng = rng
        self.vault = Vault()
        drift = cluster.scenario.clock_drift
        self.clock = NodeClock(cluster.timeline, origin_s=rng.uniform(0, 1000), rate=1 + rng.uniform(-drift, drift))
        self.up = False
        self.paused = False
        self.excluded = False  # has lost its disk, so it will never take part again
        self.starts = 0
        self.sync_s_max: float | None = None
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._syncing = False
        self._tick_asked = False
        self._saving = False

    # ---------------------------------------------------------------- life
    def start(self) -> None:
        """Recovers what the disk holds and takes part."""
        if self.up or self.excluded:
            return
        self.starts += 1
        self.up, self.paused = True, False
        self._inbox.clear()
        self._syncing = self._tick_asked = self._saving = False
        self.machine = Machine(self.name, self.vault, self.cluster.checker, self.rng, lambda: self.core.term)
        if not self._guarded(self._build):
            return
        self.cluster.trace(f"{self.name} starts ({self.starts}), term {self.core.term}, log {self._log_span()}")
        self.tick()
        self._tick_later(self.starts)
        self.cluster.network.redial(self.name)

    def _build(self) -> None:
        raise NotImplementedError

    def crash(self, *, power: bool) -> None:
        """SIGKILL, or the power goes: then what was not synced is lost or torn."""
        if not self.up:
            return
        self.cluster.checker.counts["crashes"] += 1
        self.cluster.trace(f"{self.name} {'loses power' if power else 'is killed'}")
        self._stop_disk(power=power)
        self.up = False
        self.cluster.network.drop(self.name, notice_s=1.0 if power else 0.1)

    def _stop_disk(self, *, power: bool) -> None:
        raise NotImplementedError

    def _halt(self, error: Exception) -> None:
        """The process stopped itself. Without a disk fault that is a violation: a rule of its own was broken."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{self.name}: {type(error).__name__}: {error} ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"
        if self.cluster.loud:
            traceback.print_exception(error)
        self.cluster.checker.bad("halted", text)
        self.crash(power=False)

    def _guarded(self, act: Callable[..., None], *args: Any) -> bool:
        """Runs one step of the node, then looks at what it has become."""
        try:
            act(*args)
        except Exception as error:
            self._halt(error)
            return False
        core = self.core
        if core.role == "leader":
            self.cluster.checker.leads(self.name, core.term, self.journal.last_index, self.journal.term_at)
        self._sync_if_needed()
        return True

    # ---------------------------------------------------------------- pauses
    def pause(self, seconds: float) -> None:
        """SIGSTOP: nothing runs, what arrives waits, the clocks go on."""
        if self.up and not self.paused:
            self.cluster.trace(f"{self.name} stands still for {seconds} s")
            self.paused = True
            self.cluster.timeline.after(seconds, self._resume_if, self.starts)

    def _resume_if(self, starts: int) -> None:
        if starts == self.starts:
            self.resume()

    def resume(self) -> None:
        """SIGCONT: first what arrived meanwhile, as the host's loop does, then the timers."""
        if not self.paused:
            return
        self.paused = False
        if not self.up:
            return
        while self._inbox and self.up:
            act, args = self._inbox.popleft()
            self._guarded(act, *args)
        self.tick()
        self._tick_later(self.starts)

    def _run(self, act: Callable[..., None], *args: Any) -> None:
        if not self.up:
            return
        if self.paused:
            self._inbox.append((act, args))
            return
        if self._guarded(act, *args):
            self.ask_tick()

    # ---------------------------------------------------------------- what arrives
    def connected(self, peer: str, connection: int) -> None:
        self._run(self.core.on_connect, peer, connection)

    def disconnected(self, peer: str, connection: int) -> None:
        self._run(self.core.on_disconnect, peer, connection)

    def receive(self, peer: str, connection: int, message: Any) -> None:
        self._run(self.core.on_raw, peer, connection, message)

    # ---------------------------------------------------------------- ticks
    def tick(self) -> None:
        if self.up and not self.paused and self._guarded(self.core.tick):
            self._checkpoint_if_due()

    def _tick_later(self, starts: int) -> None:
        self.cluster.timeline.after(self.cluster.scenario.tick_s, self._timer, starts)

    def _timer(self, starts: int) -> None:
        if starts == self.starts and self.up and not self.paused:
            self.tick()
            self._tick_later(starts)

    def ask_tick(self) -> None:
        """One tick after all that arrives at this very moment, as one wake-up of the loop does."""
        if self.up and not self._tick_asked:
            self._tick_asked = True
            self.cluster.timeline.after(0.0, self._wake, self.starts)

    def _wake(self, starts: int) -> None:
        if starts == self.starts:
            self._tick_asked = False
            self.tick()

    # ---------------------------------------------------------------- the journal's sync thread
    def _sync_if_needed(self) -> None:
        if not self.up or self._syncing:
            return
        mark = self.journal.flush()
        if mark is None:
            return
        self._syncing = True
        took_s = self.rng.choice(SYNC_S) if self.sync_s_max is None else self.rng.uniform(0.0, self.sync_s_max)
        self.cluster.timeline.after(took_s, self._synced, self.starts, mark)

    def _synced(self, starts: int, mark: Any) -> None:
        if starts != self.starts or not self.up:
            return
        self.journal.sync(mark)  # the thread goes on while the process stands still? No: SIGSTOP stops all threads
        self._syncing = False
        self.journal.synced(mark)
        self._run(self.core.on_durable)

    def disk_is_fast_again(self) -> None:
        self.sync_s_max = None

    # ---------------------------------------------------------------- checkpoints
    def _checkpoint_if_due(self) -> None:
        every = self.cluster.scenario.checkpoint_every
        last = self.vault.image.index if self.vault.image else 0
        if not self.up or self._saving or self.machine.job_running or self.machine.applied_index < last + every:
            return
        self._saving = True
        self.cluster.timeline.after(self.rng.choice(CHECKPOINT_S), self._saved, self.starts, self.machine.image())

    def _saved(self, starts: int, image: Image) -> None:
        if starts != self.starts or not self.up:
            return
        self._saving = False
        if self.vault.image is not None and image.index <= self.vault.image.index:
            return  # an install has overtaken it
        self.vault.image = image
        self.cluster.checker.counts["checkpoints"] += 1
        self._run(self.core.checkpointed, image)

    # ---------------------------------------------------------------- clients
    @property
    def leads(self) -> bool:
        return self.up and bool(self.core.role == "leader")

    def state(self) -> tuple[int, int]:
        """(applied index, checksum of everything applied), to compare nodes."""
        return self.machine.applied_index, self.machine.chain

    def propose(self, command: bytes, done: Callable[[str, int], None]) -> None:
        """`done` gets committed, unknown or refused, and the index of a committed one."""
        self._run(self.core.propose, command, done)

    def read(self, done: Callable[[int | None], None]) -> None:
        """`done` gets the index of the state that was read, None when the node can't tell what is current."""

        def ready(index: int | None) -> None:
            if index is not None and self.machine.applied_index < index:
                self.cluster.checker.bad("read-too-early", f"{self.name} at {self.machine.applied_index} reads {index}")
            done(None if index is None else self.machine.applied_index)

        self._run(self.core.read_barrier, ready)

    def move_leadership(self) -> None:
        """Asks the core for a planned move to whom it likes."""

    def _log_span(self) -> str:
        return f"{self.journal.first_index}..{self.journal.last_index}"
