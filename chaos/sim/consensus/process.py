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
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from chaos.sim.consensus.clock import NodeClock
from chaos.sim.consensus.computer import Platter
from chaos.sim.consensus.journal import WatchedJournal
from chaos.sim.consensus.machine import Image, Machine, Vault
from chaos.sim.consensus.node_io import NodeIO
from chaos.sim.consensus.plants import features_without
from chaos.sim.disk import PowerCut
from cluster.consensus.core import ConsensusCore
from cluster.consensus.seams import Base, Committed, Outcome, Unknown
from cluster.consensus.settings import CoreSettings
from wal.checks import FailStop
from wal.journal import JournalConfig

if TYPE_CHECKING:
    from chaos.sim.consensus.cluster import Cluster

SYNC_S: Final = (0.0005, 0.002, 0.002, 0.03)  # how long an fdatasync takes, one of these
CHECKPOINT_S: Final = (0.005, 0.05, 0.3)
FETCH_S: Final = (0.001, 0.02, 0.3, 1.2)
LANDED_S: Final = (0.0, 0.0, 0.02)  # from a fetched state being durable to the core hearing of it
JOURNAL: Final = "journal"


class Process:
    """A node. `starts` counts its lives; whatever was scheduled in an earlier life does nothing."""

    def __init__(self, cluster: Cluster, name: str, rng: random.Random) -> None:
        self.cluster = cluster
        self.name = name
        self.rng = rng
        self.vault = Vault()
        self.disk = Platter(rng.randrange(1 << 30), forgetful=cluster.scenario.plant == "no-fsync")
        self.incarnation = f"{name}.{rng.randrange(1 << 32):08x}"
        drift = cluster.scenario.clock_drift
        self.clock = NodeClock(cluster.timeline, origin_s=rng.uniform(0, 1000), rate=1 + rng.uniform(-drift, drift))
        self.up = False
        self.paused = False
        self.excluded = False  # has lost its disk, so it will never take part again
        self.starts = 0
        self.sync_s_max: float | None = None
        self.room = True
        self._inbox: deque[tuple[Callable[..., None], tuple[Any, ...]]] = deque()
        self._mark: Any = None  # what the sync thread works on
        self._tick_asked = False
        self._saving = False

    # ---------------------------------------------------------------- life
    def start(self) -> None:
        """Recovers what the disk holds and takes part."""
        if self.up:
            return
        self.starts += 1
        self.up, self.paused = True, False
        self._inbox.clear()
        self._mark = None
        self._tick_asked = self._saving = False
        checker = self.cluster.checker
        self.machine = Machine(self.name, self.vault, checker, self.rng, lambda: self.core.term)
        try:
            self._build()
        except Exception as error:
            self._halt(error)
            return
        self.cluster.trace(f"{self.name} starts ({self.starts}), {self.describe()}")
        self.tick()
        self._tick_later(self.starts)
        self.cluster.network.redial(self.name)

    def _build(self) -> None:
        scenario = self.cluster.scenario
        config = JournalConfig(bytes_max=scenario.journal_bytes_max, cache_bytes=scenario.cache_bytes)
        self.journal = WatchedJournal.open(self.disk, JOURNAL, config)
        if (
            scenario.nodes > 1
        ):  # alone a node may lead a term before that is durable: nobody has seen it, so it never was
            self.journal.watch(self.name, self.cluster.checker)
        settings = CoreSettings(
            node_id=self.name,
            peers=tuple(name for name in self.cluster.names if name != self.name),
            incarnation=self.incarnation,
            apply_entries_max=scenario.apply_entries_max,
            message_bytes=scenario.message_bytes,
            window_bytes=scenario.window_bytes,
            features=features_without(scenario.plant),
        )
        self.core = ConsensusCore(settings, self.journal, self.machine, NodeIO(self))
        self.core.has_room = lambda _command: self.room

    def crash(self, *, power: bool) -> None:
        """SIGKILL, or the power goes: then what was not synced is lost or torn."""
        if not self.up:
            return
        self.cluster.checker.counts["crashes"] += 1
        self.cluster.trace(f"{self.name} {'loses power' if power else 'is killed'}, {self.describe()}")
        self._cut_the_disk(power=power)
        self.up = False
        self.cluster.network.drop(self.name, notice_s=1.0 if power else 0.1)

    def stop(self) -> None:
        """A clean stop: leadership moves if it can, all is made durable, the journal says so in a last record."""
        if not self.up or self.paused:
            return
        self.cluster.checker.counts["stops"] += 1
        self.cluster.trace(f"{self.name} is stopped, {self.describe()}")
        if self.leads and not self._guarded(self.core.transfer):
            return
        try:
            if self._mark is not None:
                self.journal.sync(self._mark)
                self.journal.synced(self._mark)
            self.journal.close()
        except Exception as error:
            self._halt(error)
            return
        self.up = False
        self.cluster.network.drop(self.name, notice_s=0.1)

    def _cut_the_disk(self, *, power: bool) -> None:
        """What a crash leaves: maybe a part of the sync that was going on; without power not even that for certain."""
        if self._mark is not None and self.rng.random() < 0.5:
            self.disk.cut_after = self.disk.effects + self.rng.randint(0, 4)
            with suppress(PowerCut, FailStop):
                self.journal.sync(self._mark)
        self.disk.fail_sync = None
        if power:
            self.disk.power_cut()
            self.disk.restart(keep=self.rng.choice([0.0, 0.5, 0.9]), torn=0.5)
        else:
            self.disk.killed()

    def lose_disk(self) -> None:
        """The computer comes back with an empty disk under the old name; it must never take part again."""
        self.crash(power=True)
        self.cluster.trace(f"{self.name} has lost its disk")
        self.cluster.checker.counts["disks_lost"] += 1
        self.excluded = True
        self.vault = Vault()
        self.disk = Platter(self.rng.randrange(1 << 30))
        self.incarnation = f"{self.name}.{self.rng.randrange(1 << 32):08x}"

    def _halt(self, error: Exception) -> None:
        """The process stopped itself. Without a disk fault that is a violation: a rule of its own was broken."""
        where = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{self.name}: {type(error).__name__}: {error} ({where.filename.rsplit('/', 1)[-1]}:{where.lineno})"
        if self.cluster.loud:
            traceback.print_exception(error)
        if self.disk.fail_sync is not None:  # it has to stop; the disk is well again when it comes back
            self.cluster.trace(text)
            self.disk.fail_sync = None
            self.cluster.checker.counts["disk_errors"] += 1
            self.cluster.timeline.after(self.rng.uniform(0.1, 1.0), self.start)
        else:
            self.cluster.checker.bad("halted", text)
        self.crash(power=False)

    def _guarded(self, act: Callable[..., None], *args: Any) -> bool:
        """Runs one step of the node, then looks at what it has become."""
        try:
            act(*args)
            if self.core.role == "leader":
                self.cluster.checker.leads(self.name, self.core.term, self.journal)
            self._sync_if_needed()
        except Exception as error:
            self._halt(error)
            return False
        return True

    def _run(self, act: Callable[..., None], *args: Any) -> None:
        if not self.up:
            return
        if self.paused:
            self._inbox.append((act, args))
        elif self._guarded(act, *args):
            self._ask_tick()

    # ---------------------------------------------------------------- pauses
    def pause(self, seconds: float) -> None:
        """SIGSTOP: nothing runs, what arrives waits, the clocks go on."""
        if self.up and not self.paused:
            self.cluster.trace(f"{self.name} stands still for {seconds} s")
            self.paused = True
            self.cluster.timeline.after(seconds, self._resume_if, self.starts)

    def _resume_if(self, life: int) -> None:
        if life == self.starts:
            self.resume()

    def resume(self) -> None:
        """SIGCONT: first what arrived meanwhile, as the host's loop does, then the timers."""
        if not self.up or not self.paused:
            return
        self.paused = False
        while self._inbox and self.up:
            act, args = self._inbox.popleft()
            self._guarded(act, *args)
        self.tick()
        self._tick_later(self.starts)

    # ---------------------------------------------------------------- what arrives
    def connected(self, peer: str, connection: int) -> None:
        other = self.cluster.processes[peer]
        self._run(self.core.on_connect, peer, connection, other.incarnation, other.core.membership.recorded)

    def disconnected(self, peer: str, connection: int) -> None:
        self._run(self.core.on_disconnect, peer, connection)

    def receive(self, peer: str, connection: int, message: Any) -> None:
        self._run(self.core.on_raw, peer, connection, message)

    # ---------------------------------------------------------------- ticks
    def tick(self) -> None:
        if self.up and not self.paused and self._guarded(self.core.tick):
            self._checkpoint_if_due()

    def _tick_later(self, life: int) -> None:
        self.cluster.timeline.after(self.cluster.scenario.tick_s, self._timer, life)

    def _timer(self, life: int) -> None:
        if life == self.starts and self.up and not self.paused:
            self.tick()
            if self.leads:
                self.cluster.check_matches(self)
            self._tick_later(life)

    def _ask_tick(self) -> None:
        """One tick after all that arrives at this very moment, as one wake-up of the loop does."""
        if self.up and not self._tick_asked:
            self._tick_asked = True
            self.cluster.timeline.after(0.0, self._wake, self.starts)

    def _wake(self, life: int) -> None:
        if life == self.starts:
            self._tick_asked = False
            self.tick()

    # ---------------------------------------------------------------- the journal's sync thread
    def _sync_if_needed(self) -> None:
        if self._mark is not None:
            return
        self._mark = self.journal.flush()
        if self._mark is not None:
            slow = self.sync_s_max
            took_s = self.rng.choice(SYNC_S) if slow is None else self.rng.uniform(0.0, slow)
            self.cluster.timeline.after(took_s, self._synced, self.starts)

    def _synced(self, life: int) -> None:
        if life == self.starts and self.up:
            self._run(self._sync_done)

    def _sync_done(self) -> None:
        mark, self._mark = self._mark, None
        self.journal.sync(mark)
        self.journal.synced(mark)
        self.core.on_durable()

    def disk_is_fast_again(self) -> None:
        self.sync_s_max = None

    def break_disk(self) -> None:
        """The next fdatasync fails, and what it should have written is gone, although it can still be read."""
        self.cluster.trace(f"{self.name} gets an I/O error")
        self.disk.fail_sync = lambda _path: True

    def run_out_of_room(self, seconds: float) -> None:
        """No client's command can be taken in for some time."""
        self.cluster.trace(f"{self.name} has no room for {seconds} s")
        self.room = False
        self.cluster.timeline.after(seconds, self.find_room)

    def find_room(self) -> None:
        self.room = True

    # ---------------------------------------------------------------- checkpoints and installs
    def _checkpoint_if_due(self) -> None:
        due = (self.vault.image.index if self.vault.image else 0) + self.cluster.scenario.checkpoint_every
        idle = not self._saving and self.machine.job_at is None
        if self.up and idle and self.machine.applied_index >= due and self.core.membership.may_checkpoint:
            self._saving = True
            if self.cluster.scenario.plant == "cut-early":
                self._run(self.core.checkpointed, self.machine.image.base)
            self.cluster.timeline.after(self.rng.choice(CHECKPOINT_S), self._saved, self.starts, self.machine.image)

    def _saved(self, life: int, image: Image) -> None:
        if life != self.starts or not self.up:
            return
        self._saving = False
        if self.vault.image is None or image.index > self.vault.image.index:  # else an install was faster
            self.vault.image = image
            self.cluster.checker.counts["checkpoints"] += 1
            self._run(self._checkpointed)

    def _checkpointed(self) -> None:
        if self.vault.image is not None:
            self.core.checkpointed(self.vault.image.base)

    def fetch(self, base: Base, source: str, done: Callable[[Base], None]) -> None:
        """Pulls a state at `base` or a newer one, without end, from the source, or now and then from another node."""
        self.cluster.timeline.after(self.rng.choice(FETCH_S), self._pull, self.starts, base, source, done)

    def _pull(self, life: int, base: Base, source: str, done: Callable[[Base], None]) -> None:
        if life != self.starts or not self.up:
            return
        peer = self.cluster.processes[source if self.rng.random() < 0.8 else self.rng.choice(self.cluster.names)]
        image, cuts = peer.vault.image, self.cluster.network.cuts
        away = (self.name, peer.name) in cuts or (peer.name, self.name) in cuts or not peer.up or peer.paused
        if away or peer is self or image is None or image.index < base.index:
            self.cluster.timeline.after(0.3, self._pull, life, base, source, done)
            return
        news = self.vault.image is None or image.index > self.vault.image.index
        if news and self.cluster.scenario.plant != "volatile-install":
            self.vault.image = image  # durable first; a crash after this line leaves a journal that is behind
        self.cluster.timeline.after(self.rng.choice(LANDED_S), self._landed, life, image, done)

    def _landed(self, life: int, image: Image, done: Callable[[Base], None]) -> None:
        if life == self.starts and self.up:
            self._run(self._install, image, done)

    def _install(self, image: Image, done: Callable[[Base], None]) -> None:
        self.machine.swap(image)
        done(image.base)

    # ---------------------------------------------------------------- clients
    @property
    def leads(self) -> bool:
        return self.up and bool(self.core.role == "leader")

    def state(self) -> tuple[int, int]:
        """(applied index, checksum of everything applied), to compare nodes."""
        return self.machine.image.index, self.machine.image.chain

    def propose(self, command: bytes, done: Callable[[str, int], None]) -> None:
        """`done` gets committed, unknown or refused, and the index of a committed one."""

        def ended(outcome: Outcome) -> None:
            if isinstance(outcome, Committed):
                done("committed", outcome.index)
            else:
                done("unknown" if isinstance(outcome, Unknown) else "refused", 0)

        if self.up and not self.paused and not (self.core.accepting_writes and self.room):
            done("refused", 0)
        else:
            self._run(self.core.propose, command, ended)

    def read(self, done: Callable[[int | None], None]) -> None:
        """`done` gets the index of the state that was read, None when the node can't tell what is current."""

        def ready(index: int | None) -> None:
            if index is not None and self.core.applied_index < index:
                self.cluster.checker.bad("read-too-early", f"{self.name} at {self.core.applied_index} reads {index}")
            if index is not None and self.machine.job_at is not None:
                self.cluster.checker.bad("read-too-early", f"{self.name} reads in the middle of a job")
            done(None if index is None else self.machine.applied_index)

        self._run(self.core.read_index, ready)

    def move_leadership(self) -> None:
        """A planned move to whoever has all of the log."""
        if self.leads:
            self.cluster.trace(f"{self.name} is asked to move leadership away")
            self._run(self.core.transfer)

    def holds(self, index: int, term: int) -> bool:
        """Would this node still have the entry after a power cut now? One that is down or lost may have had it."""
        saved = self.vault.image is not None and self.vault.image.index >= index
        return self.excluded or not self.up or saved or self.journal.has_durably(index, term)

    def describe(self) -> str:
        """One line for the trace."""
        journal, image = self.journal, self.vault.image
        log = f"log {journal.first_index}..{journal.last_index} lsn {journal.durable_lsn}/{journal.lsn}"
        saved = image.index if image else 0
        return f"term {journal.term} vote {journal.vote} {log} applied {self.machine.applied_index} saved {saved}"
