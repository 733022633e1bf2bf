"""The way of a write on the leader: batcher → one command → consensus → one reply for each operation.

Replies get an outcome of apply, or a `Refused` that says what is known: `no_leader` and `storage_full` when nothing was
submitted, `unknown_outcome` when the entry was submitted and its fate can't be told.
"""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any, Protocol

from cluster.batcher import Batch, Batcher, Overloaded, Reply, Stamper
from cluster.consensus.seams import Committed, NotLeader, Unknown
from cluster.consensus.seams import Outcome as Proposal
from node.commands import COMMAND_BYTES_MAX, BadCommand, Operation, decode_command, encode_command
from node.results import Refused


class Proposer(Protocol):
    """What the pipeline needs of consensus."""

    def propose(self, command: bytes, done: Callable[[Proposal], None]) -> None: ...


class Room(Protocol):
    """What the pipeline needs of the node: whether an entry could be applied on this disk."""

    def can_accept(self, raw: bytes) -> bool: ...


LOST = Refused("no_leader", "this node is not the leader any more; nothing was submitted")
UNKNOWN = Refused("unknown_outcome", "the leader was lost while the entry was on its way; retry with the same key")
FULL = Refused("storage_full", "the reserve of this node does not cover the write; delete snapshots or spaces")


class WritePipeline:
    """Joins batcher, clock and consensus. Loop thread only. `call_soon` defers to the loop's next turn."""

    def __init__(
        self,
        *,
        batcher: Batcher,
        stamper: Stamper,
        proposer: Proposer,
        room: Room,
        wall_ms: Callable[[], int],
        call_soon: Callable[[Callable[[], None]], Any],
        on_batch: Callable[[int, float], None] = lambda operations, seconds: None,
    ) -> None:
        self.batcher = batcher
        self.stamper = stamper
        self._proposer = proposer
        self._room = room
        self._wall_ms = wall_ms
        self._call_soon = call_soon
        self._on_batch = on_batch
        self._scheduled = False

    def submit(self, operation: Operation, data_bytes: int, reply: Reply) -> None:
        """Queues one operation; everything that arrives in this turn of the loop shares a batch."""
        try:
            self.batcher.add(operation, data_bytes, reply)
        except Overloaded as full:
            reply(Refused("rate_limited", str(full)))
            return
        if not self._scheduled:
            self._scheduled = True
            self._call_soon(self._pump)

    def lost_leadership(self) -> None:
        """What is still queued was never submitted."""
        for reply in self.batcher.drain():
            reply(LOST)

    def _pump(self) -> None:
        self._scheduled = False
        while (batch := self.batcher.take()) is not None:
            self._propose(batch)

    def _propose(self, batch: Batch) -> None:
        raw = encode_command(batch.operations, stamp_ms=self.stamper.stamp(), wall_ms=self._wall_ms())
        if len(raw) > COMMAND_BYTES_MAX:
            # Only metadata can do this (the data are bounded): refuse, never propose what the core would cut in pieces.
            self._end(batch, Refused("too_large", f"the command has {len(raw)} bytes, at most {COMMAND_BYTES_MAX}"))
            return
        try:
            decode_command(raw)  # what no node could decode must never be in the log: it would halt every one of them
        except BadCommand as error:
            self._end(batch, Refused("internal", f"a request of this batch can't be said in a command: {error}"))
            return
        if not self._room.can_accept(raw):
            self._end(batch, FULL)
            return
        started = perf_counter()

        def done(proposal: Proposal) -> None:
            if type(proposal) is Committed:
                self.batcher.finished()
                self._on_batch(len(batch.replies), perf_counter() - started)
                for reply, outcome in zip(batch.replies, proposal.result, strict=True):
                    reply(outcome)
                if len(self.batcher):
                    self._pump()
            else:
                self._end(batch, _refusal(proposal))

        self._proposer.propose(raw, done)

    def _end(self, batch: Batch, refusal: Refused) -> None:
        self.batcher.finished()
        for reply in batch.replies:
            reply(refusal)
        if len(self.batcher) and not self._scheduled:
            self._scheduled = True
            self._call_soon(self._pump)


def _refusal(proposal: Proposal) -> Refused:
    if isinstance(proposal, Unknown):
        return UNKNOWN
    if isinstance(proposal, NotLeader):
        return LOST
    return Refused("rate_limited", f"consensus takes no more at the moment: {getattr(proposal, 'reason', proposal)}")
