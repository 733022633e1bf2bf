"""One node's consensus on an asyncio loop: the core, its connections, its journal's sync thread.

Deliver what arrived, then tick; a timer ticks when nothing arrives. Whatever goes wrong in the core or on the disk
ends in `on_fatal`: the process must stop, because going on could lie.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, Final

from cluster.consensus.core import ConsensusCore
from cluster.consensus.guard import check_installed
from cluster.consensus.network import Network, NetworkConfig
from cluster.consensus.replica_config import NoLeader, PeerStatus, ReplicaConfig, ReplicatedMachine
from cluster.consensus.seams import (
    Base,
    Committed,
    Done,
    Job,
    Message,
    NotLeader,
    NotSubmitted,
    Outcome,
    ReadDone,
    Unknown,
)
from cluster.consensus.syncer import JournalSyncer
from cluster.log import get_log
from node.commands import InitCluster, Tick, encode_command
from wal.journal import RaftJournal

__all__ = [
    "Base",
    "Committed",
    "Job",
    "NoLeader",
    "NotLeader",
    "NotSubmitted",
    "Outcome",
    "PeerStatus",
    "Replica",
    "ReplicaConfig",
    "ReplicatedMachine",
    "Unknown",
]

log = get_log("cluster.consensus")

TICK_S: Final = 0.015
MOVE_S: Final = 1.0  # for a planned move of the leadership at stop


class Replica:
    """See the module. Everything but the constructor runs on the loop's thread; callbacks come on it too."""

    def __init__(
        self,
        *,
        config: ReplicaConfig,
        journal: RaftJournal,
        machine: ReplicatedMachine,
        now: Callable[[], float],
        random: Callable[[], float],
        wall_ms: Callable[[], int],
        on_fatal: Callable[[BaseException], None],
        has_room: Callable[[bytes], bool] | None = None,
    ) -> None:
        """Raises guard.WrongEngine when the installed PySyncObj is not the one that is known to be safe here."""
        check_installed()
        self.config, self.journal, self.machine = config, journal, machine
        self.now, self.random, self._wall_ms = now, random, wall_ms
        self.on_fatal = on_fatal
        self.on_role_change: Callable[[], None] | None = None
        self.on_applied: Callable[[int], None] | None = None
        self.on_sync: Callable[[float], None] = lambda seconds: None  # set before `start`
        self.core = ConsensusCore(config.settings(), journal, machine, self)
        self.core.on_role_change = self._role_changed
        if has_room is not None:
            self.core.has_room = has_room
        self._network = Network(
            NetworkConfig(
                config.node_id,
                config.cluster_id,
                config.incarnation,
                f"{int(random() * 2**64):016x}",
                config.listen,
                config.peers,
                config.server_tls,
                config.client_tls,
            ),
            self,
            now=now,
            random=random,
            members=lambda: self.core.membership.recorded,
        )
        self._loop: asyncio.AbstractEventLoop | None = None
        self._syncer: JournalSyncer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._turn_due = False
        self._moving = False
        self._stopped = False
        self._dead = False
        self._applied_told = 0
        self._installs: set[asyncio.Task[None]] = set()

    # ---------------------------------------------------------------- life
    async def start(self) -> None:
        """Listen, dial, vote. Raises OSError when the address can't be bound."""
        self._loop = asyncio.get_running_loop()
        self._syncer = JournalSyncer(self.journal, self._loop, self._durable, self._fatal, self.on_sync)
        await self._network.start()
        self._turn()
        self._on_timer()

    async def stop(self) -> None:
        """Hand the leadership over if there is somebody for it, close the connections, end the sync thread."""
        if self._stopped:
            return
        if not self._dead:
            await self.move_leadership()
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._installs):
            task.cancel()
        await asyncio.gather(*self._installs, return_exceptions=True)
        await self._network.stop()
        if self._syncer is not None:
            self._syncer.stop()
            await asyncio.sleep(0)
        # Also when the core has halted: whoever waits hears that the outcome is not known.
        self.core.proposals.on_role_lost()
        self.core.reads.close()

    async def move_leadership(self, timeout_s: float = MOVE_S) -> bool:
        """Pause writes, wait for a follower to catch up, let it take over. True when we don't lead any more."""
        if self.role != "leader" or not self.config.peers:
            return self.role != "leader"
        self._moving = True
        try:
            deadline = self.now() + timeout_s
            asked_at = -1e9
            while self.role == "leader" and self.now() < deadline and not self._dead:
                quiet = len(self.core.proposals) == 0 and self.now() - asked_at > 4 * self.config.heartbeat_s
                if quiet and self._guard(self.core.transfer) is not None:
                    asked_at = self.now()
                await asyncio.sleep(0.005)
        finally:
            self._moving = False
        return self.role != "leader"

    @property
    def port(self) -> int:
        """The port on which the other members reach us."""
        return self._network.port

    # ---------------------------------------------------------------- state
    @property
    def role(self) -> str:
        """leader, follower or candidate."""
        return self.core.role

    @property
    def term(self) -> int:
        return self.core.term

    @property
    def leader(self) -> str | None:
        return self.core.leader

    @property
    def commit_index(self) -> int:
        return self.core.commit_index

    @property
    def applied_index(self) -> int:
        return self.core.applied_index

    @property
    def accepting_writes(self) -> bool:
        """Whether client commands may be proposed here now."""
        return self.core.accepting_writes and not self._moving

    @property
    def lost_disk(self) -> str | None:
        """Why this node neither votes nor acknowledges, and what to do; None when it is a member in good order."""
        return self.core.membership.lost_disk

    @property
    def may_checkpoint(self) -> bool:
        """False until the cluster is open: a checkpoint implies that it is."""
        return self.core.membership.may_checkpoint

    @property
    def members(self) -> Mapping[str, str] | None:
        """Incarnation of each member as the log recorded them."""
        return self.core.membership.recorded

    @property
    def installing(self) -> bool:
        """A checkpoint is on its way here; until it is in, this node lags."""
        return self.core.installer.fetching is not None

    @property
    def job_running(self) -> bool:
        """An entry is being applied in slices: the machine is between two versions."""
        return self.core.applier.job_running

    @property
    def last_index(self) -> int:
        """Index of the last entry of the journal, committed or not."""
        return self.core.journal.last_index

    @property
    def syncs(self) -> int:
        """fdatasyncs of the journal since start."""
        return self._syncer.syncs if self._syncer is not None else 0

    def peers(self) -> list[PeerStatus]:
        """The other members, by id."""
        core, leads, found = self.core, self.role == "leader", []
        for peer in sorted(core.peers.values(), key=lambda peer: peer.id):
            heard = self._network.heard_at(peer.id)
            found.append(
                PeerStatus(
                    id=peer.id,
                    reachable=peer.cid is not None,
                    incarnation=peer.incarnation,
                    match_index=core.engine.match_index(peer.node) if leads else None,
                    silent_s=None if heard is None else max(0.0, self.now() - heard),
                    problem=self._network.complaint(peer.id),
                    installing=leads and core.installer.is_needed_by(peer),
                    counts=core.membership.counts(peer),
                )
            )
        return found

    # ---------------------------------------------------------------- use
    def propose(self, command: bytes, done: Done) -> None:
        """Replicate one command; `done` gets its outcome, maybe at once. Raises CommandTooLarge."""
        self.core.proposals.check(command)
        if self._dead or self._stopped:
            done(NotSubmitted("this node stops"))
        elif self.role == "leader" and not self.accepting_writes:
            done(NotSubmitted("the leadership moves" if self._moving else "the cluster is not open yet"))
        else:
            self._guard(self.core.propose, command, done)
            self._after()

    def read_barrier(self, done: ReadDone) -> None:
        """`done(index)` once all that was acknowledged before is applied here; `done(None)`: nobody knows now."""
        if self._dead or self._stopped:
            done(None)
        else:
            self._guard(self.core.read_index, done)

    async def read_index(self) -> int:
        """The awaitable form of `read_barrier`. Raises NoLeader."""
        answer: asyncio.Future[int | None] = asyncio.get_running_loop().create_future()
        self.read_barrier(lambda index: None if answer.done() else answer.set_result(index))
        index = await answer
        if index is None:
            raise NoLeader
        return index

    def checkpointed(self, base: Base) -> None:
        """A checkpoint is durable: the journal may be cut below it (and keeps what followers may need)."""
        self._guard(self.core.checkpointed, base)
        self._after()

    # ---------------------------------------------------------------- the core's side (CoreIO)
    def send(self, peer: str, cid: int, message: Message) -> None:
        self._network.send(peer, cid, message)

    def fetch(self, base: Base, source: str, done: Callable[[Base], None]) -> None:
        task = asyncio.get_running_loop().create_task(self._install(base, source, done))
        self._installs.add(task)
        task.add_done_callback(self._installs.discard)

    async def _install(self, base: Base, source: str, done: Callable[[Base], None]) -> None:
        log.info("raft.install_started", index=base.index, term=base.term, source=source)
        try:
            installed = await self.machine.install(base, source)
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            self._fatal(error)
            return
        log.info("raft.install_done", index=installed.index, term=installed.term)
        self._guard(done, installed)
        self._after()

    def init_command(self, incarnations: Mapping[str, str]) -> bytes:
        limits = dict(self.config.limits) if self.config.limits is not None else None
        first = InitCluster(self.config.cluster_id, dict(incarnations), limits)
        return encode_command([first], stamp_ms=0, wall_ms=self._wall_ms())

    def open_command(self) -> bytes:
        # Nothing was stamped before this one, so zero does not go back.
        return encode_command([Tick()], stamp_ms=0, wall_ms=self._wall_ms())

    # ---------------------------------------------------------------- the network's side (NetworkEvents)
    def on_connect(self, peer: str, cid: int, incarnation: str, members: Mapping[str, str] | None) -> None:
        was_lost = self.lost_disk
        self._guard(self.core.on_connect, peer, cid, incarnation, members)
        if self.lost_disk is not None and was_lost is None:
            log.error("raft.lost_disk", reason=self.lost_disk)
        self._after()

    def on_disconnect(self, peer: str, cid: int) -> None:
        self._guard(self.core.on_disconnect, peer, cid)
        self._after()

    def on_message(self, peer: str, cid: int, message: Message) -> None:
        self._guard(self.core.on_raw, peer, cid, message)
        self._after()

    def on_life(self, peer: str, in_message: bool) -> None:
        self._guard(self.core.on_life, peer, in_message)

    # ---------------------------------------------------------------- the loop
    def _after(self) -> None:
        """Sync what is new at once, tick in the loop's next turn: what else arrived is delivered first."""
        if self._syncer is not None and not self._dead:
            self._syncer.kick()
        if not self._turn_due and self._loop is not None and not self._stopped:
            self._turn_due = True
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        self._turn_due = False
        if self._dead or self._stopped:
            return
        self._guard(self.core.tick)
        applied = self.core.applied_index
        if applied != self._applied_told:
            self._applied_told = applied
            if self.on_applied is not None:
                self._guard(self.on_applied, applied)
        if self._syncer is not None and not self._dead:
            self._syncer.kick()
        if self.core.wants_tick and not self._dead:
            self._turn_due = True
            if self._loop is not None:
                self._loop.call_soon(self._turn)

    def _on_timer(self) -> None:
        if self._stopped or self._dead or self._loop is None:
            return
        if not self._turn_due:
            self._turn()
        self._timer = self._loop.call_later(TICK_S, self._on_timer)

    def _durable(self) -> None:
        if not self._stopped:
            self._guard(self.core.on_durable)
            self._after()

    def _role_changed(self) -> None:
        log.info("raft.role", role=self.role, term=self.term, leader=self.leader)
        if self.on_role_change is not None:
            self.on_role_change()

    def _guard(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call into the core. What can't be explained halts the node."""
        if self._dead:
            return None
        try:
            return function(*arguments)
        except BaseException as error:
            self._fatal(error)
            return None

    def _fatal(self, error: BaseException) -> None:
        if self._dead:
            return
        self._dead = True
        log.error("raft.halted", error=repr(error))
        self.on_fatal(error)
