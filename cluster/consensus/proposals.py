"""Commands from proposal to outcome. Each `done` is called exactly once, and nothing hangs on a lost leader."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

from cluster.consensus.seams import Committed, Done, NotLeader, NotSubmitted, Unknown

if TYPE_CHECKING:
    from cluster.consensus.core import ConsensusCore


class CommandTooLarge(ValueError):
    """A command above a quarter of the append batch is refused before it is proposed (finding S7)."""


class Proposals:
    """The queue in front of the log, and who waits for which entry."""

    def __init__(self, core: ConsensusCore) -> None:
        self._core = core
        self._queue: deque[tuple[bytes, Done]] = deque()
        self._pending: dict[int, tuple[int, int, Done]] = {}  # index -> (term, bytes, done)
        self.bytes = 0  # queued and pending

    def __len__(self) -> int:
        return len(self._queue) + len(self._pending)

    def check(self, command: bytes) -> None:
        """Raise CommandTooLarge for what can't be a command. One byte is the engine's own."""
        most = self._core.settings.command_bytes_max
        if not 1 < len(command) <= most:
            raise CommandTooLarge(f"{len(command)} bytes, allowed are 2 to {most}")

    def propose(self, command: bytes, done: Done) -> None:
        """Queue a command. `done` may be called at once (NotLeader, NotSubmitted); raises CommandTooLarge."""
        settings = self._core.settings
        self.check(command)
        if not self._core.engine.is_leader:
            done(NotLeader(self._core.engine.leader))
        elif self.bytes + len(command) > settings.pending_bytes_max:
            done(NotSubmitted("overloaded"))
        else:
            self.bytes += len(command)
            self._queue.append((command, done))

    def drain(self) -> None:
        """Journal what is queued and send it. Called by the engine at the end of a tick, and by the core."""
        if not self._queue:
            return None
        engine, journal = self._core.engine, self._core.journal
        if not engine.is_leader:
            return self.on_role_lost()
        term = engine.term
        while self._queue:
            command, done = self._queue.popleft()
            index = journal.last_index + 1
            journal.add(command, index, term)
            self._pending[index] = (term, len(command), done)
        engine.send_appends()
        return None

    def complete(self, index: int, term: int, result: Any) -> None:
        """Entry `index` of `term` is applied here."""
        waiting = self._pending.pop(index, None)
        if waiting is None:
            return
        proposed_in, size, done = waiting
        self.bytes -= size
        if proposed_in == term:
            done(Committed(index, result))
        else:
            done(Unknown("another leader's entry took this place in the log"))

    def on_role_lost(self) -> None:
        """We no longer lead: what was journalled may still win, what was only queued was never submitted."""
        pending, self._pending = self._pending, {}
        queue, self._queue = self._queue, deque()
        self.bytes = 0
        leader = self._core.engine.leader
        for _, _, done in pending.values():
            done(Unknown("leadership was lost before the command was committed"))
        for _, done in queue:
            done(NotLeader(leader))
