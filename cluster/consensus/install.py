"""Snapshots between members: a follower that needs what the journal no longer has gets a checkpoint's state instead.

The leader only names its base. The follower fetches the state by other means, and the engine hears of it when all is
verified, durable and in the machine; until then this is a follower that lags, in pure Raft terms (S1, S3, S15, S17).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster.consensus.seams import Base, Message
from cluster.consensus.wire import Answering
from wal.checks import FailStop

if TYPE_CHECKING:
    from cluster.consensus.core import ConsensusCore
    from cluster.consensus.peer import Peer


class Installer:
    """Both sides of an install. One fetch at a time."""

    def __init__(self, core: ConsensusCore) -> None:
        self._core = core
        self._fetching: Base | None = None
        self._ready: Base | None = None  # in the machine, not yet in the log

    @property
    def fetching(self) -> Base | None:
        return self._fetching

    # ---------------------------------------------------------------- the leader's side
    def is_needed_by(self, peer: Peer) -> bool:
        core = self._core
        return core.engine.is_leader and core.engine.next_index(peer.node) <= core.journal.first_index

    def offer(self, peer: Peer) -> None:
        """Name our base; again at every other heartbeat until the follower has it."""
        core = self._core
        now = core.io.now()
        if now - peer.asked_install_at < core.settings.heartbeat_s:
            return core.flow.beat(peer)
        base = core.machine.checkpoint_base()
        if base is None or base.index < core.journal.first_index:
            raise FailStop("the journal was cut before the checkpoint was durable", first=core.journal.first_index)
        peer.asked_install_at = now
        peer.hi = base.index
        message: Message = {"type": "install", "term": core.engine.term, "seq": peer.next_seq()}
        return core.wire.queue(peer, message | {"base": base.as_list(), "commit_index": core.visible_commit()})

    # ---------------------------------------------------------------- the follower's side
    def on_install(self, peer: Peer, message: Message) -> None:
        """The leader (its term is ours or newer) names a base."""
        core = self._core
        base = Base(*message["base"])
        journal = core.journal
        if not core.guards.install_gate:
            self._ungated(peer, message)
        if base.index <= max(journal.commit, core.engine.applied) or journal.term_at(base.index) == base.term:
            # Log matching: a log that has this entry has everything before it.
            return core.deliver_append(peer, message, Answering(message["seq"], verified=base.index), (), base.index)
        core.on_beat(peer, message)
        if self._ready is not None:
            return self.load(peer)
        if self._fetching is None:
            self._fetching = base
            core.io.fetch(base, peer.id, self._fetched)
        return None

    def _fetched(self, base: Base) -> None:
        """The machine holds the state at `base`. The log follows at once, or with a leader's next word."""
        core = self._core
        self._fetching = None
        if base.index <= core.engine.applied:
            return
        self._ready = base
        core.applier.jumped()
        leader = core.peers.get(core.engine.leader or "")
        if leader is not None and not core.engine.is_leader:
            self.load(leader)
        core.settle()

    def load(self, peer: Peer) -> None:
        """Let the log begin at the base that the machine has. `peer` leads in our term."""
        core = self._core
        base, self._ready = self._ready, None
        if base is None or base.index <= core.engine.applied:
            return
        core.engine.dump.base = base
        message = {"type": "append_entries", "term": core.journal.term, "commit_index": base.index, "serialized": True}
        core.wire.answering = Answering(0, verified=base.index)
        try:
            if core.journal.term_at(base.index) == base.term:
                core.engine.applied = base.index  # the log goes on from there; nothing of it is lost
                core.journal.setRaftCommitIndex(base.index)
                core.engine.commit = max(core.engine.commit, base.index)
            else:
                with core.journal.install(base):
                    core.engine.receive(peer.node, message)
        finally:
            core.wire.answering = None
            core.engine.dump.base = None
        # The engine swallows every error of a load and acknowledges it: S3.
        if core.engine.applied != base.index or core.journal.last_index < base.index:
            raise FailStop("a snapshot did not load", index=base.index, applied=core.engine.applied)

    def _ungated(self, peer: Peer, message: Message) -> None:
        """Planted bug: what the bare engine does with the first chunk of a dump (S1)."""
        self._core.engine.receive(
            peer.node,
            {
                "type": "append_entries",
                "term": message["term"],
                "commit_index": message["commit_index"],
                "serialized": None,
            },
        )
