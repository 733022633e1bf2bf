"""The seats of one session: `seq` counts from 1, `ack` is the lowest one without an answer.

A node refuses a seat that lies `window` or more above `ack`, and forgets those below it.
"""

from __future__ import annotations


class Seats:
    """Hands seats out and takes them back. Without a session there are none."""

    __slots__ = ("_next", "_taken", "_window", "ack", "session")

    def __init__(self) -> None:
        self.session: int | None = None
        self.ack = 1
        self._window = 0
        self._next = 1
        self._taken: set[int] = set()

    def open(self, session: int, window: int) -> None:
        """Starts a session; seats of an earlier one mean nothing any more."""
        self.session = session
        self._window = window
        self._next = self.ack = 1
        self._taken.clear()

    def end(self) -> None:
        """The session has ended."""
        self.session = None

    def take(self) -> int | None:
        """The next seat, None while the window is full."""
        seq = self._next
        if self.session is None or seq - self.ack >= self._window:
            return None
        self._taken.add(seq)
        self._next = seq + 1
        return seq

    def give_back(self, session: int | None, seq: int) -> None:
        """The seat's call has its outcome, or nobody waits for it: `ack` moves past every such seat. Idempotent."""
        if session != self.session:
            return
        taken = self._taken
        taken.discard(seq)
        ack, end = self.ack, self._next
        while ack < end and ack not in taken:
            ack += 1
        self.ack = ack
