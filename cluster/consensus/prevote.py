"""PreVote: a member asks whether it could win before it raises its term, so that a cut-off one disturbs nobody."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cluster.consensus.seams import Message

if TYPE_CHECKING:
    from cluster.consensus.core import ConsensusCore
    from cluster.consensus.peer import Peer

LONG_AGO: Final = -1e9


class PreVote:
    """The gate in front of the engine's candidacy, and the answers to other members' questions."""

    def __init__(self, core: ConsensusCore) -> None:
        self._core = core
        self._round = 0
        self._granted: set[str] | None = None
        self._ask_again_at = LONG_AGO
        self._yielded = False
        self.leader_heard_at = LONG_AGO

    def leader_is_alive(self) -> None:
        self.leader_heard_at = self._core.io.now()
        self._granted = None
        self._yielded = False

    def leader_is_gone(self) -> None:
        """The leader's connection closed: grant others at once."""
        self.leader_heard_at = LONG_AGO

    def may_stand(self) -> bool:
        """Asked in every tick after the election timer has fired."""
        core = self._core
        if core.membership.lost_disk is not None:
            return False
        if not core.peers or core.engine.transfer_asked:
            return True
        if not core.guards.prevote:
            return any(peer.cid is not None for peer in core.peers.values())
        if self._granted is not None and core.settings.is_majority(len(self._granted) + 1):
            self._granted = None
            return True
        now = core.io.now()
        if now >= self._ask_again_at:
            self._ask(now)
        return False

    def _ask(self, now: float) -> None:
        core = self._core
        self._round += 1
        self._granted = set()
        self._ask_again_at = now + 2 * core.settings.heartbeat_s + 4 * core.settings.heartbeat_s * core.io.random()
        log = core.journal
        for peer in core.peers.values():
            message = {"type": "prevote", "round": self._round, "term": log.term}
            core.put(peer, message | {"last_index": log.last_index, "last_term": log.last_term})

    def on_ask(self, peer: Peer, message: Message) -> None:
        core = self._core
        if core.membership.lost_disk is not None:
            return
        log = core.journal
        silent = core.io.now() - self.leader_heard_at > core.settings.election_min_s
        theirs, ours = (message["last_term"], message["last_index"]), (log.last_term, log.last_index)
        behind, ahead = theirs < ours, theirs > ours
        granted = silent and not behind and not core.engine.is_leader and message["term"] + 1 >= log.term
        if granted and not self._yielded and (ahead or peer.id > core.settings.node_id):
            # Two that stand at once split the votes and wait out another timeout. Once for each lost leader, so that
            # one who asks and can't win holds nobody up.
            self._yielded = True
            self._granted = None
            core.engine.postpone_election(core.io.now() + 3 * core.settings.heartbeat_s)
        core.put(peer, {"type": "prevote_answer", "round": message["round"], "granted": granted, "term": log.term})

    def on_answer(self, peer: Peer, message: Message) -> None:
        if message["term"] > self._core.journal.term:
            self._core.engine.bump(peer.node, message["term"])
        elif message["granted"] and self._granted is not None and message["round"] == self._round:
            self._granted.add(peer.id)
