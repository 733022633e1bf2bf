"""What must hold. The checker sees every node from outside and knows what was applied first at each index.

Since everything that is applied is compared with that truth at once, a state is known by its index, and each check
costs O(1): what a read saw is an index, and so is what a write became.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol
from zlib import crc32

CLIENT_KINDS: Final = (b"w", b"j")  # first byte of the commands of clients; each of those is proposed once


class Log(Protocol):
    """As much of a journal as is needed to judge a new leader."""

    last_index: int

    def term_at(self, index: int) -> int | None: ...


class Applied(NamedTuple):
    """What the first node that applied an index did there."""

    term: int
    command: bytes
    chain: int  # checksum over everything applied up to here
    by: str


def extend(chain: int, index: int, command: bytes) -> int:
    """The chain after one more command; holds the index too, so that nodes that skip differently differ."""
    return crc32(command, crc32(b"%d" % index, chain))


class Checker:
    """Collects violations: kind -> (virtual time, text) of the first of each kind."""

    def __init__(
        self, now: Callable[[], float], trace: Callable[[str], None], leader_log: Callable[[int], Log | None]
    ) -> None:
        self.now = now
        self.leader_log = leader_log  # of the node that leads a term at this moment
        self.trace = trace
        self.violations: dict[str, tuple[float, str]] = {}
        self.truth: dict[int, Applied] = {}
        self.places: dict[bytes, int] = {}  # command -> index at which it was applied
        self.counts: Counter[str] = Counter()
        self.floor = 0  # the highest index that any client has seen: in an acknowledgement or in a read
        self.refused: set[bytes] = set()
        self._leaders: dict[int, str] = {}
        self._top_in_term: dict[int, int] = {}  # term of the node when it applied -> highest index so applied
        self._entries: dict[tuple[int, int], tuple[bytes, int | None]] = {}  # (index, term) -> command, term before it
        self._votes: dict[tuple[str, int], str] = {}

    def bad(self, kind: str, text: str) -> None:
        if kind not in self.violations:
            self.violations[kind] = (round(self.now(), 4), text)
            self.trace(f"*** {kind}: {text}")

    # ---------------------------------------------------------------- the log
    def entry(self, name: str, index: int, term: int, command: bytes, term_before: int | None) -> None:
        """Log matching: an index and a term name one command, with one history before it. Called for each append."""
        known = self._entries.get((index, term))
        if known is None:
            self._entries[index, term] = (command, term_before)
            return
        if known[0] != command:
            self.bad("log-matching", f"{name}: index {index} term {term} holds another command than elsewhere")
        elif term_before is not None and known[1] is not None and known[1] != term_before:
            self.bad("log-matching", f"{name}: before {index}/{term} stands term {term_before}, elsewhere {known[1]}")
        elif known[1] is None and term_before is not None:
            self._entries[index, term] = (command, term_before)

    def truncates(self, name: str, index: int, term: int | None, node_term: int) -> None:
        """Only what conflicts with the leader's log may be truncated: a matching entry may have been acknowledged."""
        log = self.leader_log(node_term)
        if log is not None and term is not None and log.term_at(index) == term:
            self.bad("match-truncated", f"{name} truncates from {index}, which its leader of term {node_term} has too")

    # ---------------------------------------------------------------- elections
    def vote(self, voter: str, term: int, candidate: str) -> None:
        """A node says yes to one candidate in a term, whatever it has been through since."""
        other = self._votes.setdefault((voter, term), candidate)
        if other != candidate:
            self.bad("two-votes", f"{voter} voted for {other} and for {candidate} in term {term}")

    def leads(self, name: str, term: int, log: Log) -> None:
        """Election safety, and leader completeness when a node is first seen leading a term."""
        other = self._leaders.get(term)
        if other == name:
            return
        if other is not None:
            self.bad("election-safety", f"term {term} has two leaders, {other} and {name}")
            return
        self._leaders[term] = name
        self.counts["elections"] += 1
        last_index = log.last_index
        self.trace(f"{name} leads term {term}, its log ends at {last_index}")
        # A candidate of an old term may win late, so only what was applied by nodes of earlier terms must be there.
        top = max((index for applied_in, index in self._top_in_term.items() if applied_in < term), default=0)
        if not top:
            return
        if last_index < top:
            self.bad("leader-completeness", f"{name} leads term {term}, ends at {last_index}, {top} was applied before")
        elif log.term_at(top) not in (None, self.truth[top].term):
            self.bad("leader-completeness", f"{name} leads term {term} with a foreign entry at {top}")

    # ---------------------------------------------------------------- the state machine
    def apply(self, name: str, node_term: int, index: int, term: int, command: bytes, chain: int) -> None:
        """State-machine safety: everybody applies the same command at an index, after the same history."""
        truth = self.truth.get(index)
        if truth is None:
            self.truth[index] = Applied(term, command, chain, name)
            if index > self._top_in_term.get(node_term, 0):
                self._top_in_term[node_term] = index
            earlier = self.places.setdefault(command, index)
            if earlier != index and command[:1] in CLIENT_KINDS:
                self.bad("double-apply", f"{name} applies at {index} what was applied at {earlier}")
            if command in self.refused:
                self.bad("refused-but-applied", f"{name} applies at {index} a command that was refused")
        elif (truth.term, truth.command) != (term, command):
            self.bad("state-machine-safety", f"{name} applies another command at {index} than {truth.by} did")
        elif truth.chain != chain:
            self.bad("state-divergence", f"{name} reached {index} with another history than {truth.by}")

    def installed(self, name: str, index: int, chain: int) -> None:
        """A state that came from elsewhere is the state that belongs to its index."""
        self.counts["installs"] += 1
        truth = self.truth.get(index)
        if truth is not None and truth.chain != chain:
            self.bad("state-divergence", f"{name} installed a foreign state for {index}")

    # ---------------------------------------------------------------- clients
    def acknowledged(self, name: str, command: bytes, index: int, floor: int) -> None:
        """A write that a client was told is done: it is in the order of everything, after all that was seen before."""
        self.counts["acknowledged"] += 1
        truth = self.truth.get(index)
        if truth is None or truth.command != command:
            self.bad("acknowledged-elsewhere", f"{name} acknowledged index {index}, where another command stands")
        if index <= floor:
            self.bad("write-order", f"{name} acknowledged {index}, although {floor} was seen before it was proposed")
        self.floor = max(self.floor, index)

    def refuse(self, name: str, command: bytes) -> None:
        """What was refused has no effect, ever."""
        self.counts["refused"] += 1
        self.refused.add(command)
        if command in self.places:
            self.bad("refused-but-applied", f"{name} refused a command that stands at {self.places[command]}")

    def read(self, name: str, index: int, floor: int) -> None:
        """A linearizable read shows everything that any client had seen before it began."""
        self.counts["reads"] += 1
        if index < floor:
            self.bad("stale-read", f"{name} read a state of {index}, a client had seen {floor} before the read began")
        self.floor = max(self.floor, index)
