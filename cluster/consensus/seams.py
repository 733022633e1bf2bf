"""What the consensus core needs from outside and what it answers: the machine, the wire and the clock, the outcomes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

Message: TypeAlias = dict[str, Any]  # msgpack-able; `type` names it. A message that was sent is never changed


@dataclass(frozen=True, slots=True)
class Base:
    """A durable checkpoint: everything up to `index` is in it. `manifest_digest` names its content."""

    index: int
    term: int
    prev_index: int
    prev_term: int
    manifest_digest: bytes

    def as_list(self) -> list[Any]:
        return [self.index, self.term, self.prev_index, self.prev_term, self.manifest_digest]


@dataclass(frozen=True, slots=True)
class Committed:
    """The command is in the log for good, at `index`; `result` is what this node's machine answered."""

    index: int
    result: Any


@dataclass(frozen=True, slots=True)
class Unknown:
    """The command was journalled and may or may not take effect: only its idempotency key makes a retry safe."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotLeader:
    """Nothing was submitted: ask `leader` (None: unknown)."""

    leader: str | None


@dataclass(frozen=True, slots=True)
class NotSubmitted:
    """Nothing was submitted: this node leads, but is full (`overloaded`) or closed to clients."""

    reason: str


Outcome: TypeAlias = Committed | Unknown | NotLeader | NotSubmitted
Done: TypeAlias = Callable[[Outcome], None]
ReadDone: TypeAlias = Callable[[int | None], None]


@runtime_checkable
class Job(Protocol):
    """An apply that takes several steps. Nothing after it is applied before it has answered."""

    def step(self, budget_ms: float) -> Any | None:
        """Work for about `budget_ms`; the result when done, None when there is more to do."""
        ...


class Machine(Protocol):
    """The replicated state machine as the core sees it."""

    @property
    def applied_index(self) -> int:
        """Last index whose effects are complete in this machine (0 when new). No-ops never get here."""
        ...

    def apply(self, index: int, term: int, raw: bytes) -> Any:
        """Apply one command, once and in order; a result (not None) or a Job. Never raises for bad input."""
        ...

    def checkpoint_base(self) -> Base | None:
        """The newest durable checkpoint, None if there is none."""
        ...

    def members(self) -> Mapping[str, str] | None:
        """Incarnation of each initial member as the log's first command named them; None before it is applied."""
        ...


class CoreIO(Protocol):
    """Clock, chance and wire of one core. Nothing here may call back into the core before it returns."""

    def now(self) -> float:
        """Monotonic seconds."""
        ...

    def random(self) -> float:
        """Uniform in [0, 1)."""
        ...

    def send(self, peer: str, cid: int, message: Message) -> None:
        """Put `message` on connection `cid` to `peer`: in order, at most once, maybe never."""
        ...

    def fetch(self, base: Base, source: str, done: Callable[[Base], None]) -> None:
        """Bring the state at `base` here. `done` is called later, when it is verified, durable and *in* the machine.

        The base that arrived may be newer than the one asked for. A state older than what the machine has applied
        meanwhile must not be put in; then `done` is called all the same.
        """
        ...

    def init_command(self, incarnations: Mapping[str, str]) -> bytes:
        """The cluster's first command (`node.commands.InitCluster`) for these members."""
        ...

    def open_command(self) -> bytes:
        """A command without effect; in the log after the first one it says: every member has that one durably."""
        ...
