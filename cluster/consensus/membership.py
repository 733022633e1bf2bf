"""Whose disk is whose: the incarnations of the initial members, as the cluster's first command names them.

A member with an empty disk under an old id has forgotten its votes and acknowledgements, so they must not count; and
no client write is accepted before every member has the first command durably, so that such a member can be told.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from node.commands import BadCommand, InitCluster, decode_command
from wal.checks import FailStop

if TYPE_CHECKING:
    from cluster.consensus.core import ConsensusCore
    from cluster.consensus.peer import Peer


class Membership:
    """In force as soon as it is in the log, given up when that entry is truncated; a checkpoint implies `opened`."""

    def __init__(self, core: ConsensusCore) -> None:
        self._core = core
        self.recorded: dict[str, str] | None = None
        self.recorded_at = 0  # index of the first command, 0: from a checkpoint
        self.opened_at: int | None = None  # index of the first command after it
        self.lost_disk: str | None = None
        self._applied_open = False
        self._proposed = ""  # "init" or "open" while that proposal has no outcome

    def restore(self) -> None:
        """At start: from the checkpoint, else from the journal."""
        core = self._core
        log = core.journal
        members = core.machine.members()
        if members is not None:
            self._record(members, 0)
            self.opened_at, self._applied_open = 0, True
            return
        if core.machine.checkpoint_base() is not None:
            raise FailStop("a checkpoint that does not know the members")
        index = log.first_index
        while index <= log.last_index and self.opened_at is None:
            for command, at, _ in log.log.entries(index, log.last_index + 1, core.apply_bytes):
                self.on_append(at, command)
                index = at + 1

    # ---------------------------------------------------------------- the log's side
    def on_append(self, index: int, command: bytes) -> None:
        if self.opened_at is not None or len(command) == 1:
            return
        if self.recorded is not None:
            self.opened_at = index
            return
        named = _init_of(command)
        if named is not None:
            self._record(named, index)

    def on_truncate(self, index: int) -> None:
        if self.opened_at is not None and self.opened_at >= index:
            self.opened_at = None
        if self.recorded is not None and self.recorded_at >= index:
            self.recorded = None

    def on_reset(self, _index: int) -> None:
        """A snapshot took the log's place: the machine knows the members."""
        members = self._core.machine.members()
        if members is not None:
            self._record(members, 0)
            self.opened_at, self._applied_open = 0, True

    def on_applied(self, index: int) -> None:
        if not self._applied_open and self.opened_at is not None and index >= self.opened_at:
            self._applied_open = True

    def _record(self, members: Mapping[str, str], index: int) -> None:
        settings = self._core.settings
        if set(members) != {settings.node_id, *settings.peers}:
            # Members come from the log; two majorities of different sizes could not be told apart (S18).
            raise FailStop("the configuration names other members than the log", log=sorted(members))
        self.recorded, self.recorded_at = dict(members), index
        self._check_own_disk(self.recorded)

    # ---------------------------------------------------------------- the peers' side
    def on_hello(self, peer: Peer, members: Mapping[str, str] | None) -> None:
        """`members`: what the other side has recorded. An empty folder learns from it that it has lost its disk."""
        if members is not None:
            self._check_own_disk(members)

    def _check_own_disk(self, members: Mapping[str, str]) -> None:
        settings = self._core.settings
        known = members.get(settings.node_id)
        if not self._core.guards.incarnations or known == settings.incarnation or self.lost_disk is not None:
            return
        self.lost_disk = (
            f"The cluster knows {settings.node_id} by another data folder (incarnation {known}, this one is "
            f"{settings.incarnation}): votes and acknowledgements of the old one are gone, so this node neither votes "
            "nor acknowledges. Stop it and put the old data folder back, or replace the member under a new incarnation."
        )

    def counts(self, peer: Peer, incarnation: str | None = None) -> bool:
        """Whether a vote or an acknowledgement counts: of this incarnation, or of the one that the connection named."""
        if not self._core.guards.incarnations or self.recorded is None:
            return True
        return self.recorded.get(peer.id) == (peer.incarnation if incarnation is None else incarnation)

    # ---------------------------------------------------------------- opening the cluster
    @property
    def accepting_writes(self) -> bool:
        """Whether client commands may be proposed here: we lead, and every member has had the first command durably."""
        return self._applied_open and self._core.engine.is_leader and self.lost_disk is None

    @property
    def may_checkpoint(self) -> bool:
        """A checkpoint implies that the cluster was opened, so none may be taken before."""
        return self._applied_open

    def advance(self) -> None:
        """The leader's part, in every tick until the cluster is open."""
        core = self._core
        if self._applied_open or self._proposed or not core.engine.is_leader or not core.has_committed_in_its_term():
            return
        if self.recorded is None:
            seen = {peer.id: peer.incarnation for peer in core.peers.values() if peer.incarnation is not None}
            if len(seen) == len(core.peers):
                incarnations = {core.settings.node_id: core.settings.incarnation} | seen
                self._propose("init", core.io.init_command(dict(sorted(incarnations.items()))))
        elif self.opened_at is None and self._all_have(self.recorded_at):
            self._propose("open", core.io.open_command())

    def _all_have(self, index: int) -> bool:
        core = self._core
        return core.journal.durable_index >= index and all(
            self.counts(peer) and core.engine.match_index(peer.node) >= index for peer in core.peers.values()
        )

    def _propose(self, what: str, command: bytes) -> None:
        def done(_outcome: object) -> None:
            self._proposed = ""

        self._proposed = what
        self._core.proposals.propose(command, done)


def _init_of(command: bytes) -> dict[str, str] | None:
    try:
        operations = decode_command(command).operations
    except BadCommand:
        return None
    if operations and isinstance(operations[0], InitCluster):
        return operations[0].incarnations
    return None
