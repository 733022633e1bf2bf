"""The consensus core of one node, without I/O: messages, connections and ticks in, messages and outcomes out.

`ConsensusCore` ties the parts together and is all that a host sees. The host calls `tick` after everything that it
delivers and on a timer, journals in a thread what `journal` has buffered, and calls `on_durable` after that.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from cluster.consensus.applier import Applier
from cluster.consensus.engine import LEADER, Engine
from cluster.consensus.flow import Flow
from cluster.consensus.install import Installer
from cluster.consensus.journal_adapter import SNAPSHOT, JournalAdapter, RaftLog
from cluster.consensus.membership import Membership
from cluster.consensus.normaliser import Deliver, decide
from cluster.consensus.peer import Peer, PeerNode
from cluster.consensus.prevote import PreVote
from cluster.consensus.proposals import Proposals
from cluster.consensus.readindex import ReadIndex
from cluster.consensus.seams import Base, CoreIO, Done, Machine, Message, ReadDone
from cluster.consensus.settings import CoreSettings, Guards
from cluster.consensus.wire import Answering, Wire
from wal.checks import FailStop

# Messages that only a leader sends; they carry term and sequence.
FROM_LEADER: Final = frozenset({"append_entries", "install", "beat"})
COMMIT_NEWS_S: Final = 0.005


class ConsensusCore:
    """One member. Every method runs on the same thread; FailStop and InvariantViolation must end the process."""

    apply_bytes = 8 * 1024 * 1024  # read from the journal in one go while applying

    def __init__(self, settings: CoreSettings, log: RaftLog, machine: Machine, io: CoreIO) -> None:
        self.settings, self.machine, self.io = settings, machine, io
        self.guards = Guards(settings.features)
        self.peers = {peer: Peer(peer) for peer in settings.peers}
        self.stats: Counter[str] = Counter()
        self._base = machine.checkpoint_base()
        self._meet_checkpoint(log, self._base)
        self.journal = JournalAdapter(log, message_bytes=settings.message_bytes, keep_votes=self.guards.votes)
        self.membership = Membership(self)
        self.wire, self.flow, self.prevote = Wire(self), Flow(self), PreVote(self)
        self.proposals, self.applier = Proposals(self), Applier(self)
        self.reads, self.installer = ReadIndex(self), Installer(self)
        self.journal.setRaftCommitIndex(self._base.index if self._base is not None else 1)
        nodes = [peer.node for peer in self.peers.values()]
        self.engine = Engine(self, self.journal, PeerNode(settings.node_id), nodes)
        self.engine.applied = max(1, self._base.index if self._base is not None else 1)
        self.membership.restore()
        self.journal.observer = self.membership
        self._voters: tuple[int, set[str]] = (0, set())
        self._commit_news = (0, 0.0)  # commit index, and since when
        self._seen = (self.engine.role, self.engine.leader, self.engine.term)
        self._depth = 0
        self.on_role_change: Callable[[], None] | None = None
        self.has_room: Callable[[bytes], bool] = lambda _command: True  # to apply this command

    @staticmethod
    def _meet_checkpoint(log: RaftLog, base: Base | None) -> None:
        """Make journal and checkpoint meet after a restart, whatever instant the power went at.

        A checkpoint ahead of the journal comes from an install whose journal reset was lost: what the journal has
        instead is covered by it, or was never committed.
        """
        if log.last_index < 1:
            if base is not None:
                log.reset([(SNAPSHOT, base.index, base.term)])
            return
        if base is None:
            if log.first_index > 1:
                raise FailStop("the journal begins after the state", first=log.first_index)
            return
        if log.first_index > base.index:
            raise FailStop("the journal begins after the checkpoint", first=log.first_index, checkpoint=base.index)
        if log.term_at(base.index) != base.term:
            log.reset([(SNAPSHOT, base.index, base.term)])

    # ---------------------------------------------------------------- state
    @property
    def role(self) -> str:
        return self.engine.role

    @property
    def term(self) -> int:
        return self.engine.term

    @property
    def leader(self) -> str | None:
        return self.engine.leader

    @property
    def commit_index(self) -> int:
        return self.visible_commit()

    @property
    def applied_index(self) -> int:
        return self.engine.applied

    @property
    def accepting_writes(self) -> bool:
        return self.membership.accepting_writes

    @property
    def wants_tick(self) -> bool:
        """Whether there is work left that a tick at once would go on with."""
        return self.applier.has_more

    def visible_commit(self) -> int:
        """Committed, and on our own disk if we lead: a majority of one waits for its own fsync too."""
        commit = self.engine.commit
        if self.engine.is_leader and self.guards.self_durable:
            return min(commit, max(self.journal.durable_index, self.engine.applied))
        return commit

    def has_committed_in_its_term(self) -> bool:
        commit = self.visible_commit()
        return self.journal.term_at(commit) == self.engine.term

    # ---------------------------------------------------------------- events
    def tick(self) -> None:
        """Timers, commit, apply, replication. Cheap when there is nothing to do."""
        self._depth += 1
        try:
            self.engine.tick()
            self.membership.advance()
            self.proposals.drain()
            if self.engine.is_leader:
                if self.flow.has_room():
                    self.flow.send_now()
                self._tell_commit()
        finally:
            self._depth -= 1
        self.settle()

    def on_connect(
        self, peer_id: str, cid: int, incarnation: str | None = None, members: Mapping[str, str] | None = None
    ) -> None:
        """A connection is up and its hello was right. `members`: the incarnations that the other side has recorded."""
        peer = self.peers[peer_id]
        if peer.cid is not None and peer.cid != cid:
            self.on_disconnect(peer_id, peer.cid)
        peer.connected(cid, incarnation)
        self.membership.on_hello(peer, members)
        self.wire._onNodeConnected(peer.node)
        self.settle()

    def on_disconnect(self, peer_id: str, cid: int) -> None:
        """Connection `cid` is gone. If it was the leader's, the election timer is shortened at once."""
        peer = self.peers[peer_id]
        if peer.cid != cid:
            return
        peer.disconnected()
        self.wire._onNodeDisconnected(peer.node)
        self.flow.forget(peer_id)
        self.reads.on_disconnect(peer_id)
        if self.engine.leader == peer_id:
            self.prevote.leader_is_gone()
            self.engine.hurry_election(self.io.now() + self.settings.hurry_s * self.io.random())
        self.settle()

    def on_durable(self) -> None:
        """The journal's durable_lsn has moved: send what waited for it."""
        self.journal.note_durable()
        for peer in self.peers.values():
            self.wire.flush(peer)
        self.flow.on_durable()
        self.settle()

    def on_raw(self, peer_id: str, cid: int, message: Message) -> None:
        """One message of connection `cid`, in the order in which it was sent."""
        peer = self.peers[peer_id]
        if cid != peer.cid and self.guards.epochs:
            self.stats["old_connection_dropped"] += 1
            return
        self._depth += 1
        try:
            self._dispatch(peer, cid, message)
        finally:
            self._depth -= 1
        self.settle()

    def propose(self, command: bytes, done: Done) -> None:
        """Replicate one command; see Proposals. Journalled and sent before this returns, if we lead."""
        self.proposals.propose(command, done)
        if self._depth == 0:
            self.proposals.drain()

    def read_index(self, done: ReadDone) -> None:
        """`done(index)` when everything that was acknowledged before this call is applied here; None: nobody knows."""
        self.reads.read(done)

    def checkpointed(self, base: Base) -> None:
        """Our checkpoint at `base` is durable: the journal may drop what is before it (and keeps what it likes)."""
        if self.journal.first_index < base.index <= self.engine.applied:
            self.journal.log.compact_to(base.index)

    def transfer(self) -> str | None:
        """Ask the follower that is caught up to take over; its id, None when there is none. Stop proposing first."""
        last = self.journal.last_index
        for peer in self.peers.values():
            caught_up = peer.cid is not None and self.engine.match_index(peer.node) == last
            if caught_up and self.membership.counts(peer) and self.engine.transfer(peer.node):
                return peer.id
        return None

    def on_life(self, peer_id: str, in_message: bool) -> None:
        """Bytes came from a peer. On a slow line with deep buffers a word may take seconds without anybody being dead.

        `in_message`: they are part of a message that is not complete. From the leader that counts as hearing it; a ping
        does not, for a leader that stepped down pings too. And the leader counts a follower that has not answered yet
        because what it was sent is still on its way, for a bounded time.
        """
        peer = self.peers[peer_id]
        if in_message and self.engine.leader == peer_id:
            self.prevote.leader_is_alive()
            self.engine.heard_from_leader()
        elif peer.inflight_bytes and self.engine.is_leader and self.membership.counts(peer):
            now = self.io.now()
            if now - peer.progress_at < self.settings.unanswered_s:
                self.engine.heard_from(peer.node, now)

    # ---------------------------------------------------------------- dispatch
    def _dispatch(self, peer: Peer, cid: int, message: Message) -> None:
        kind = message["type"]
        if kind in FROM_LEADER:
            self._from_leader(peer, message)
        elif kind == "next_node_idx":
            self._on_ack(peer, cid, message)
        elif kind == "ping":
            self._on_ping(peer, message)
        elif kind == "pong":
            if self.membership.counts(peer):
                self.reads.on_pong(peer, message)
        elif kind == "request_vote":
            if self.membership.lost_disk is None and self.membership.counts(peer, message["inc"]):
                self.engine.receive(peer.node, message)
        elif kind == "response_vote":
            self._on_vote(peer, message)
        elif kind == "prevote":
            self.prevote.on_ask(peer, message)
        elif kind == "prevote_answer":
            if self.membership.counts(peer):
                self.prevote.on_answer(peer, message)
        elif kind == "read_ask":
            self.reads.on_ask(peer, message)
        elif kind == "read_answer":
            self.reads.on_answer(peer, message)
        elif kind == "timeout_now":
            if self.membership.lost_disk is None:
                self.engine.receive(peer.node, message)
        elif kind == "term_hint":
            if message["term"] > self.journal.term:
                self.engine.bump(peer.node, message["term"])
        else:
            self.stats["unknown_message"] += 1

    def _from_leader(self, peer: Peer, message: Message) -> None:
        if message["term"] < self.journal.term:
            return self.put(peer, {"type": "term_hint", "term": self.journal.term})
        if self.membership.lost_disk is not None:
            return None
        self.prevote.leader_is_alive()
        if message["type"] == "append_entries":
            return self._on_append(peer, message)
        if message["type"] == "install":
            return self.installer.on_install(peer, message)
        return self.on_beat(peer, message)

    def _on_append(self, peer: Peer, message: Message) -> None:
        about = Answering(message["seq"])
        entries = message["entries"]
        found = decide(self.journal, message["prevLogIdx"], message["prevLogTerm"], entries)
        if isinstance(found, Deliver):
            if not all(self.has_room(entry[0]) for entry in found.entries if len(entry[0]) > 1):
                self.stats["append_without_room"] += 1
                return self.on_beat(peer, message)  # a follower without room stops acknowledging, and lives
            about.verified = found.verified
            if not self.guards.lazy_truncate:  # planted bug: the engine cuts whatever follows prevLogIdx (S2)
                return self._to_engine(peer, message, about)
            return self.deliver_append(peer, message, about, found.entries, found.verified, found.prev)
        about.hint = found.hint
        return self._to_engine(peer, message | {"commit_index": 0}, about)

    def on_beat(self, peer: Peer, message: Message) -> None:
        self.deliver_append(peer, message, Answering(message["seq"], mute=True), (), 0)

    def deliver_append(
        self,
        peer: Peer,
        message: Message,
        about: Answering,
        entries: Sequence[Any],
        commit_cap: int,
        prev: int | None = None,
    ) -> None:
        """Give the engine an append that it can only take as meant. `prev` None: our last entry."""
        if prev is None:
            prev = self.journal.last_index
        append = {
            "type": "append_entries",
            "term": message["term"],
            "entries": entries,
            "prevLogIdx": prev,
            "prevLogTerm": self.journal.term_at(prev),
            "commit_index": min(message.get("commit_index", 0), commit_cap),
        }
        self._to_engine(peer, append, about)

    def _to_engine(self, peer: Peer, message: Message, about: Answering) -> None:
        self.wire.answering = about
        try:
            self.engine.receive(peer.node, message)
        finally:
            self.wire.answering = None

    def _on_ack(self, peer: Peer, cid: int, message: Message) -> None:
        if message["term"] > self.journal.term:
            self.engine.bump(peer.node, message["term"])
        self.flow.on_ack(peer, cid, message)

    def _on_vote(self, peer: Peer, message: Message) -> None:
        if not self.membership.counts(peer, message["inc"]) or message["term"] != self.journal.term:
            self.stats["vote_dropped"] += 1
            return
        if self._voters[0] != message["term"]:
            self._voters = (message["term"], set())
        if peer.id not in self._voters[1]:  # the engine counts messages, not voters
            self._voters[1].add(peer.id)
            self.engine.receive(peer.node, message)

    def _on_ping(self, peer: Peer, message: Message) -> None:
        term = message["term"]
        if term < self.journal.term:
            return self.put(peer, {"type": "term_hint", "term": self.journal.term})
        if self.membership.lost_disk is not None:
            return None
        if term > self.journal.term:
            self.engine.bump(peer.node, term)
        elif self.engine.leader == peer.id:
            self.prevote.leader_is_alive()
            self.engine.heard_from_leader()
        return self.put(peer, {"type": "pong", "term": term, "round": message["round"]})

    # ---------------------------------------------------------------- after every event
    def put(self, peer: Peer, message: Message) -> None:
        """Send what promises nothing, past what waits for our disk."""
        if peer.cid is not None:
            self.io.send(peer.id, peer.cid, message)

    def _tell_commit(self) -> None:
        """The commit index travels with the next append; when none follows soon, by itself."""
        commit, now = self.engine.commit, self.io.now()
        if commit != self._commit_news[0]:
            self._commit_news = (commit, now)
        elif now - self._commit_news[1] >= COMMIT_NEWS_S and any(
            peer.cid is not None and 0 < peer.commit_sent < commit and not peer.inflight for peer in self.peers.values()
        ):
            self.flow.send_now()

    def settle(self) -> None:
        """Notice what an event changed: role, leader, term; then let reads go on."""
        if self._depth:
            return
        engine = self.engine
        seen = (engine.role, engine.leader, engine.term)
        if seen != self._seen:
            role, leader, term = self._seen
            self._seen = seen
            if role == LEADER and (seen[0] != LEADER or term != seen[2]):
                self.proposals.on_role_lost()
            if (role, leader) != seen[:2] or role == LEADER:
                self.reads.fail()
            if self.on_role_change is not None:
                self.on_role_change()
        self.reads.advance()
