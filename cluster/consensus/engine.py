"""PySyncObj's core under its own names: the only file that touches the engine's private attributes.

The engine keeps elections, terms, votes, the commit rule and the follower's log. Overridden: who may stand (PreVote),
the apply loop (bounded, one call per command, jobs), the command queue (nothing is ever forwarded), and which members
an append is sent to at the moment (flow control, members that need a snapshot).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from pysyncobj.config import SyncObjConf

from cluster.consensus import guard
from cluster.consensus.seams import Base, Message
from cluster.consensus.settings import APPEND_BATCH_BYTES
from wal.checks import FailStop

if TYPE_CHECKING:
    from cluster.consensus.core import ConsensusCore
    from cluster.consensus.journal_adapter import JournalAdapter
    from cluster.consensus.peer import PeerNode

FOLLOWER: Final = "follower"
CANDIDATE: Final = "candidate"
LEADER: Final = "leader"
_ROLES: Final = (FOLLOWER, CANDIDATE, LEADER)
NEVER: Final = 1 << 60


class DumpStub:
    """Stands for the engine's Serializer: checkpoints are ours, and a dump is a base that is already in the machine."""

    def __init__(self) -> None:
        self.base: Base | None = None

    def checkSerializing(self) -> tuple[int, None]:
        return 0, None  # NOT_SERIALIZING, for ever

    def cancelTransmisstion(self, _node: object) -> None: ...  # the library's spelling

    def serialize(self, *_: object) -> None:
        raise FailStop("the engine dumps by itself")

    def getTransmissionData(self, _node: object) -> None:
        raise FailStop("the engine sends a dump by itself")

    def setTransmissionData(self, serialized: object) -> bool:
        return serialized is not None and self.base is not None

    def deserialize(self) -> tuple[Any, ...]:
        """(state, last entry, entry before it, members): the state is in the machine, so only the entries matter."""
        if self.base is None:
            raise FailStop("a dump is loaded that nobody installed")
        entry = (b"", self.base.index, self.base.term)
        return None, entry, entry, ()


class Engine:
    """One SyncObj with the adapter's overrides, and its private state as plain properties."""

    def __init__(self, core: ConsensusCore, journal: JournalAdapter, me: PeerNode, others: list[PeerNode]) -> None:
        settings = core.settings
        module = guard.load_engine(now=core.io.now, random=core.io.random, journal=journal)
        self.dump = DumpStub()
        self.raw: Any = _engine_class(module, core)(
            me,
            others,
            transport=core.wire,
            conf=SyncObjConf(
                autoTick=False,
                useFork=False,
                dynamicMembershipChange=False,
                commandsWaitLeader=False,
                appendEntriesUseBatch=True,
                appendEntriesBatchSizeBytes=APPEND_BATCH_BYTES,
                appendEntriesPeriod=settings.heartbeat_s,
                raftMinTimeout=settings.election_min_s,
                raftMaxTimeout=settings.election_max_s,
                connectionTimeout=max(3.5, settings.election_max_s),
                leaderFallbackTimeout=settings.fallback_s,
                logCompactionMinEntries=NEVER,
                logCompactionMinTime=NEVER,
            ),
        )
        self.raw._SyncObj__serializer = self.dump
        self.tick: Callable[[], None] = self.raw._onTick

    # ---------------------------------------------------------------- state
    @property
    def role(self) -> str:
        return _ROLES[self.raw._SyncObj__raftState]

    @property
    def is_leader(self) -> bool:
        return bool(self.raw._SyncObj__raftState == 2)

    @property
    def term(self) -> int:
        return int(self.raw._SyncObj__raftCurrentTerm)

    @property
    def leader(self) -> str | None:
        node = self.raw._SyncObj__raftLeader
        return None if node is None else str(node.id)

    @property
    def commit(self) -> int:
        return int(self.raw._SyncObj__raftCommitIndex)

    @commit.setter
    def commit(self, index: int) -> None:
        self.raw._SyncObj__raftCommitIndex = index

    @property
    def applied(self) -> int:
        return int(self.raw._SyncObj__raftLastApplied)

    @applied.setter
    def applied(self, index: int) -> None:
        self.raw._SyncObj__raftLastApplied = index

    @property
    def connected(self) -> set[PeerNode]:
        nodes: set[PeerNode] = self.raw._SyncObj__connectedNodes
        return nodes

    @property
    def transfer_asked(self) -> bool:
        return bool(self.raw._SyncObj__transferInProgress)

    def next_index(self, node: PeerNode) -> int:
        return int(self.raw._SyncObj__raftNextIndex.get(node, 0))

    def set_next_index(self, node: PeerNode, index: int) -> None:
        self.raw._SyncObj__raftNextIndex[node] = index

    def match_index(self, node: PeerNode) -> int:
        return int(self.raw._SyncObj__raftMatchIndex.get(node, 0))

    # ---------------------------------------------------------------- actions
    def receive(self, node: PeerNode, message: Message) -> None:
        self.raw._SyncObj__onMessageReceived(node, message)

    def bump(self, node: PeerNode, term: int) -> None:
        """Step down to a higher term: a vote request that can never be granted does exactly that."""
        self.receive(node, {"type": "request_vote", "term": term, "last_log_index": -1, "last_log_term": -1})

    def send_appends(self) -> None:
        self.raw._SyncObj__sendAppendEntries()

    def heard_from_leader(self) -> None:
        """The present leader is alive: start the election timer anew, unless it asked us to take over."""
        if not self.transfer_asked:
            self.raw._SyncObj__raftElectionDeadline = (
                self.raw._lastgood_now() + self.raw._SyncObj__generateRaftTimeout()
            )

    def hurry_election(self, deadline: float) -> None:
        self.raw._SyncObj__raftElectionDeadline = min(self.raw._SyncObj__raftElectionDeadline, deadline)

    def postpone_election(self, deadline: float) -> None:
        self.raw._SyncObj__raftElectionDeadline = max(self.raw._SyncObj__raftElectionDeadline, deadline)

    def heard_from(self, node: PeerNode, now: float) -> None:
        """A member answered in our term: counts for the leader's fallback."""
        if self.is_leader:
            self.raw._SyncObj__lastResponseTime[node] = now

    def transfer(self, node: PeerNode) -> bool:
        """Ask `node` to take over. False when it is not caught up or we do not lead."""
        answers: list[int] = []
        self.raw.transferLeadership(node, lambda _result, error: answers.append(error))
        return answers == [0]


def _engine_class(module: Any, core: ConsensusCore) -> Any:
    class HardenedSyncObj(module.SyncObj):  # type: ignore[misc]  # made at run time, see guard.load_engine
        _lastgood_now = staticmethod(core.io.now)

        def _SyncObj__getCurrentLogIndex(self) -> int:
            return core.journal.log.last_index  # asked a dozen times for every entry

        def _SyncObj__connectedToAnyone(self) -> bool:
            """Evaluated only when the election timer has fired: the gate of PreVote."""
            return core.prevote.may_stand()

        def _SyncObj__applyLogEntries(self) -> bool:
            core.applier.run()
            return False  # the commit index travels with the next append, or with the next tick of the core

        def _SyncObj__doApplyCommand(self, command: bytes) -> None:
            raise FailStop("the engine applies by itself", length=len(command))

        def _SyncObj__sendAppendEntries(self) -> None:
            core.flow.send_appends(super()._SyncObj__sendAppendEntries)

        def _checkCommandsToApply(self) -> None:
            core.proposals.drain()

        def _SyncObj__tryLogCompaction(self) -> None: ...  # the journal is cut after our own checkpoints

        def _applyCommand(self, command: bytes, callback: object, commandType: object = None) -> None:
            raise FailStop("a command in the engine's own queue", length=len(command))

    return HardenedSyncObj
