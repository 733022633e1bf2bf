"""The leader's side of replication: who gets an append now, and what an answer means.

The engine decides what to send; members whose window is full or that need a snapshot are set aside while it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from cluster.consensus.seams import Message
from wal.checks import FailStop

if TYPE_CHECKING:
    from cluster.consensus.core import ConsensusCore
    from cluster.consensus.peer import Peer


class Flow:
    """Windows per follower, and acknowledgements with the leader's own share."""

    def __init__(self, core: ConsensusCore) -> None:
        self._core = core
        self._aside: list[Peer] | None = None  # while the engine sends
        self._held: dict[str, tuple[int, int, Message]] = {}  # peer -> index, cid, newest ack ahead of our own disk
        self._term = -1  # for which the members' progress is counted
        self.entries_sent = 0

    # ---------------------------------------------------------------- out
    def send_appends(self, engine_sends: Callable[[], None]) -> None:
        """Let the engine send to every member that can take more; the others get a beat."""
        core = self._core
        if self._aside is not None:
            return  # from inside itself: the engine is about to look at every member anyway
        if self._term != core.journal.term:
            self._on_new_term()
        connected = core.engine.connected
        self._aside = []
        for peer in core.peers.values():
            if peer.cid is None:
                continue
            if peer.inflight_bytes:
                self._ping(peer)
            if core.installer.is_needed_by(peer):
                core.installer.offer(peer)
            elif peer.is_full(core.settings.window_bytes):
                self.beat(peer)
            else:
                continue
            self._set_aside(peer)
        try:
            engine_sends()
        finally:
            aside, self._aside = self._aside, None
            for peer in aside:
                if peer.cid is not None:
                    connected.add(peer.node)

    def send_now(self) -> None:
        """Run the engine's round of appends outside its own timing."""
        if self._core.engine.is_leader:
            self._core.engine.send_appends()

    def _set_aside(self, peer: Peer) -> None:
        self._core.engine.connected.discard(peer.node)
        if self._aside is not None:
            self._aside.append(peer)

    def append_to(self, peer: Peer, message: Message) -> None:
        """One append of the engine: numbered, counted against the window, without the engine's chunks and dumps."""
        core = self._core
        if "transmission" in message or "serialized" in message:
            raise FailStop("the engine sends chunks or a dump", keys=sorted(message))
        if message["prevLogIdx"] is None:
            return self.beat(peer)
        entries = message["entries"]
        seq = peer.next_seq()
        peer.on_its_way(seq, entries, core.io.now())
        if entries:
            peer.hi = entries[-1][1]
            self.entries_sent += len(entries)
        peer.commit_sent = message["commit_index"]
        core.wire.queue(peer, message | {"seq": seq})
        if peer.is_full(core.settings.window_bytes):
            self._set_aside(peer)
        return None

    def beat(self, peer: Peer) -> None:
        """The leader lives but has nothing to compare: keeps the follower's timer, teaches nothing, commits nothing."""
        core = self._core
        now = core.io.now()
        if now - peer.beat_at >= core.settings.heartbeat_s / 2:
            peer.beat_at = now
            core.wire.queue(peer, {"type": "beat", "term": core.engine.term, "seq": peer.next_seq()})

    def _ping(self, peer: Peer) -> None:
        """A large message is on its way: a ping overtakes it, so that neither side takes the other for dead."""
        core = self._core
        now = core.io.now()
        if now - peer.ping_at >= core.settings.heartbeat_s:
            peer.ping_at = now
            core.put(peer, {"type": "ping", "term": core.engine.term, "round": 0})

    # ---------------------------------------------------------------- answers
    def on_ack(self, peer: Peer, cid: int, message: Message) -> None:
        """An answer of `peer` to an append, beat or install. May be held until our own disk has the entry too."""
        core = self._core
        journal = core.journal
        if (cid != peer.cid and core.guards.epochs) or not core.membership.counts(peer, message["inc"]):
            return
        if core.guards.terms and message["term"] != journal.term:
            return
        peer.answered(message["echo"], core.io.now())
        if message["success"]:
            self._on_success(peer, cid, message)
        elif message["reset"]:
            self._on_reject(peer, message)
        else:
            core.engine.receive(peer.node, message)

    def _on_success(self, peer: Peer, cid: int, message: Message) -> None:
        core = self._core
        index = message["next_node_idx"] - 1
        if index > core.journal.last_index and core.engine.is_leader:
            if core.guards.terms:
                raise FailStop("an acknowledgement beyond the log", index=index, last=core.journal.last_index)
            return
        durable = core.journal.durable_index
        if core.guards.self_durable and index > durable:
            held = self._held.get(peer.id)
            if held is None or held[0] < index:
                self._held[peer.id] = (index, cid, message)
            if durable <= core.engine.match_index(peer.node):
                return  # nothing new counts; a leader whose disk hangs is not kept in office by this answer
            index, message = durable, message | {"next_node_idx": durable + 1}
        peer.probing = False
        core.engine.receive(peer.node, message)
        if peer.hi is not None and peer.hi > index:
            # The engine sets its next index back to the acknowledged one: S2c. Put it where it was.
            core.engine.set_next_index(peer.node, peer.hi + 1)

    def _on_reject(self, peer: Peer, message: Message) -> None:
        core = self._core
        if message["echo"] <= peer.floor:
            message = message | {"reset": False}  # answers something sent before the last step back
        else:
            peer.step_back()
            message = message | {"next_node_idx": min(message["next_node_idx"], core.journal.last_index + 1)}
        core.engine.receive(peer.node, message)

    def on_durable(self) -> None:
        """Our own disk has come further: acknowledgements that waited for it count now."""
        if not self._held:
            return
        held, self._held = self._held, {}
        for peer_id, (_, cid, message) in held.items():
            self.on_ack(self._core.peers[peer_id], cid, message)

    def forget(self, peer_id: str) -> None:
        """The connection is gone, and with it what it carried."""
        if self._core.guards.epochs:
            self._held.pop(peer_id, None)

    def _on_new_term(self) -> None:
        self._term = self._core.journal.term
        for peer in self._core.peers.values():
            peer.restart_progress()
        if self._core.guards.terms:
            self._held = {}

    def has_room(self) -> bool:
        """Whether some follower could take entries that it was not sent yet."""
        core = self._core
        last = core.journal.last_index
        return any(
            peer.cid is not None
            and core.engine.next_index(peer.node) <= last
            and not peer.is_full(core.settings.window_bytes)
            and not core.installer.is_needed_by(peer)
            for peer in core.peers.values()
        )
