"""Linearizable reads without the log: the leader's commit index, once a majority has confirmed its term since.

One round of pings serves all callers that came before it was sent; those that come meanwhile share the next one.
A follower asks the leader, one question at a time for all its callers.
"""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

from cluster.consensus.seams import Message, ReadDone

if TYPE_CHECKING:
    from cluster.consensus.core import ConsensusCore
    from cluster.consensus.peer import Peer


class ReadIndex:
    """`done(index)` once everything up to `index` is applied here; `done(None)` when nobody can tell now."""

    def __init__(self, core: ConsensusCore) -> None:
        self._core = core
        self._waiting: list[ReadDone] = []  # for the next round or question
        self._round = 0
        self._round_index = 0
        self._round_open = False
        self._round_callers: list[ReadDone] = []
        self._round_pongs: set[str] = set()
        self._pinged_at = -1e9
        self._asked: str | None = None  # whom the open question went to
        self._question = 0
        self._asked_at = 0.0
        self._unapplied: list[tuple[int, int, ReadDone]] = []  # heap: index, order, done
        self._order = 0

    # ---------------------------------------------------------------- callers
    def read(self, done: ReadDone) -> None:
        """Join the next round. May call `done` at once."""
        core = self._core
        if not core.engine.is_leader and core.engine.leader is None:
            return done(None)
        self._waiting.append(done)
        return self.advance()

    def advance(self) -> None:
        """Start what can start, answer what is ready. Called after everything that happens."""
        core = self._core
        if self._unapplied:
            self._release()
        if core.engine.is_leader:
            if self._waiting and not self._round_open and core.has_committed_in_its_term():
                self._start_round()
            elif self._round_open and core.io.now() - self._pinged_at > core.settings.heartbeat_s:
                self._ping()
        elif self._waiting and self._asked is None:
            self._ask()
        elif self._asked is not None and core.io.now() - self._asked_at > core.settings.read_timeout_s:
            self.fail()

    def fail(self) -> None:
        """Role or leader changed: nobody knows; callers ask again."""
        callers = self._round_callers + self._waiting
        self._round_callers, self._waiting = [], []
        self._round_open, self._asked = False, None
        for done in callers:
            done(None)

    def close(self) -> None:
        """The node stops: nobody is left waiting, not even for what is known and not applied yet."""
        unapplied, self._unapplied = self._unapplied, []
        self.fail()
        for _, _, done in unapplied:
            done(None)

    def on_disconnect(self, peer_id: str) -> None:
        if self._asked == peer_id:
            self.fail()

    # ---------------------------------------------------------------- the leader's round
    def _start_round(self) -> None:
        core = self._core
        self._round += 1
        self._round_index = core.visible_commit()
        self._round_callers, self._waiting = self._waiting, []
        self._round_pongs = set()
        self._round_open = True
        if core.settings.is_majority(1) or not core.guards.read_round:
            return self._close_round()
        return self._ping()

    def _ping(self) -> None:
        core = self._core
        self._pinged_at = core.io.now()
        for peer in core.peers.values():
            if peer.id not in self._round_pongs:
                core.put(peer, {"type": "ping", "term": core.engine.term, "round": self._round})

    def on_pong(self, peer: Peer, message: Message) -> None:
        """Still in our term after seeing the ping: with a majority of these no later leader was elected before it."""
        core = self._core
        if message["term"] != core.engine.term or not core.engine.is_leader:
            return
        core.engine.heard_from(peer.node, core.io.now())
        if self._round_open and message["round"] == self._round:
            self._round_pongs.add(peer.id)
            if core.settings.is_majority(len(self._round_pongs) + 1):
                self._close_round()

    def _close_round(self) -> None:
        callers, self._round_callers = self._round_callers, []
        self._round_open = False
        for done in callers:
            self._when_applied(self._round_index, done)
        if self._waiting:
            self._start_round()

    # ---------------------------------------------------------------- a follower's question
    def _ask(self) -> None:
        core = self._core
        leader = core.peers.get(core.engine.leader or "")
        if leader is None or leader.cid is None:
            return self.fail()
        self._question += 1
        self._asked, self._asked_at = leader.id, core.io.now()
        self._round_callers, self._waiting = self._waiting, []
        return core.put(leader, {"type": "read_ask", "id": self._question})

    def on_ask(self, peer: Peer, message: Message) -> None:
        """Answer a follower: with the index, and behind the append that carries the commit index there."""
        core, cid, question = self._core, peer.cid, message["id"]

        def answer(index: int | None) -> None:
            if peer.cid != cid:
                return
            if index is not None and peer.commit_sent < index:
                core.flow.send_now()
            core.put(peer, {"type": "read_answer", "id": question, "index": index})

        if core.engine.is_leader:
            self._waiting.append(answer)
            self.advance()
        else:
            answer(None)

    def on_answer(self, peer: Peer, message: Message) -> None:
        if self._asked != peer.id or message["id"] != self._question:
            return
        callers, self._round_callers = self._round_callers, []
        self._asked = None
        index = message["index"]
        for done in callers:
            if index is None:
                done(None)
            else:
                self._when_applied(index, done)

    # ---------------------------------------------------------------- applied here
    def _when_applied(self, index: int, done: ReadDone) -> None:
        if self._core.engine.applied >= index and not self._core.applier.job_running:
            done(index)
        else:
            self._order += 1
            heapq.heappush(self._unapplied, (index, self._order, done))

    def _release(self) -> None:
        if self._core.applier.job_running:
            return  # the machine is between two states: tests/sim/test_consensus_slice.py
        applied = self._core.engine.applied
        while self._unapplied and self._unapplied[0][0] <= applied:
            index, _, done = heapq.heappop(self._unapplied)
            done(index)
