"""What the engine sends, made safe before it leaves: sequence and term on everything, and the durability barrier.

A vote or an acknowledgement waits in its connection's queue until the journal is durable up to what it promises;
what is behind it waits too, so that the order of a connection stays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pysyncobj.transport import Transport

from cluster.consensus.seams import Message
from wal.checks import FailStop

if TYPE_CHECKING:
    from cluster.consensus.core import ConsensusCore
    from cluster.consensus.peer import Peer, PeerNode


@dataclass(slots=True)
class Answering:
    """What the engine's next answer is about: the message being handled, and what the normaliser found."""

    seq: int
    verified: int | None = None  # highest index that was compared
    hint: int | None = None
    mute: bool = False  # the message taught nothing, so the answer acknowledges nothing


class Wire(Transport):  # type: ignore[misc]  # the library has no types
    """The engine's `transport=`."""

    def __init__(self, core: ConsensusCore) -> None:
        super().__init__(None, None, None)
        self._core = core
        self.answering: Answering | None = None

    def send(self, node: PeerNode, message: Message) -> bool:
        """Called by the engine only. False when there is no connection."""
        core = self._core
        peer = core.peers[node.id]
        if peer.cid is None:
            return False
        kind = message["type"]
        if kind == "append_entries":
            core.flow.append_to(peer, message)
        elif kind == "next_node_idx":
            self._acknowledge(peer, message)
        elif kind in ("request_vote", "response_vote"):
            vote = message | {"inc": core.settings.incarnation}
            self._queue(peer, core.journal.log.lsn, vote)
        elif kind == "timeout_now":
            self._queue(peer, 0, message)
        else:
            raise FailStop("the engine sends what the adapter does not know", type=kind)
        return True

    def _acknowledge(self, peer: Peer, message: Message) -> None:
        core = self._core
        about = self.answering
        index, success, reset = message["next_node_idx"], message["success"], message["reset"]
        if about is not None:
            if success and about.verified is not None:
                index = about.verified + 1  # acknowledge only what was compared
            if reset and about.hint is not None:
                index = about.hint
            if about.mute:
                success = reset = False
        answer: Message = {
            "type": "next_node_idx",
            "term": core.journal.term,
            "echo": about.seq if about is not None else 0,
            "next_node_idx": index,
            "success": success,
            "reset": reset,
            "inc": core.settings.incarnation,
        }
        self._queue(peer, core.journal.log.lsn if success else 0, answer)

    def _queue(self, peer: Peer, needs_lsn: int, message: Message) -> None:
        if not self._core.guards.barrier:
            needs_lsn = 0
        peer.out.append((needs_lsn, message))
        self.flush(peer)

    def queue(self, peer: Peer, message: Message) -> None:
        """Send without a promise about our disk, but behind what waits."""
        if peer.cid is not None:
            peer.out.append((0, message))
            self.flush(peer)

    def flush(self, peer: Peer) -> None:
        """Send what our disk allows. Called when something was queued or became durable."""
        durable, out, io = self._core.journal.log.durable_lsn, peer.out, self._core.io
        while out and out[0][0] <= durable and peer.cid is not None:
            io.send(peer.id, peer.cid, out.popleft()[1])
