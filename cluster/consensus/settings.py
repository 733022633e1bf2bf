"""Settings of the consensus core, and the guards that the simulator may take away one at a time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import IntFlag
from typing import Final

MIB: Final = 1024 * 1024
APPEND_BATCH_BYTES: Final = 8 * MIB  # the engine's batch; S7 waits for commands that come near it
COMMAND_BYTES_MAX: Final = APPEND_BATCH_BYTES // 4


class Feature(IntFlag):
    """Guards of the adapter. All are on in production; a simulation that removes one must find the bug behind it."""

    BARRIER = 1  # votes and acknowledgements leave only when what they promise is fdatasynced
    SELF_DURABLE = 2  # the leader counts itself only when its own disk has the entry
    LAZY_TRUNCATE = 4  # truncate only where terms really conflict; acknowledge only what was compared
    TERMS = 8  # an acknowledgement of another term is dropped
    EPOCHS = 16  # a message of an older connection is dropped
    INSTALL_GATE = 32  # a snapshot reaches the core only when all of it is verified and durable
    VOTES = 64  # term and vote are journalled
    READ_ROUND = 128  # a linearizable read waits for a round of pings
    INCARNATIONS = 256  # votes and acknowledgements of another data folder under the same id are dropped
    PREVOTE = 512  # ask before standing


ALL_FEATURES: Final = Feature(1023)


class Guards:
    """The same as plain booleans: an enum's `&` costs more than what it guards."""

    __slots__ = tuple(feature.name.lower() for feature in Feature if feature.name)

    barrier: bool
    self_durable: bool
    lazy_truncate: bool
    terms: bool
    epochs: bool
    install_gate: bool
    votes: bool
    read_round: bool
    incarnations: bool
    prevote: bool

    def __init__(self, features: Feature) -> None:
        for feature in Feature:
            setattr(self, str(feature.name).lower(), bool(features & feature))


class BadSettings(ValueError):
    """The settings contradict each other; the text names the relation that does not hold."""


@dataclass(frozen=True)
class CoreSettings:
    """One node's view of its cluster and its timing. Times in seconds, sizes in bytes."""

    node_id: str
    peers: tuple[str, ...]  # ids of the other voters
    cluster_id: str = "lastgood"
    incarnation: str = ""
    heartbeat_s: float = 0.05
    election_min_s: float = 0.4
    election_max_s: float = 0.8
    fallback_s: float = 1.4  # a leader that no majority answers for this long steps down
    hurry_s: float = 0.12  # election timer, at most, once the leader's connection was seen to close
    unanswered_s: float = 10.0  # a follower that lives may take this long to answer what is on its way to it
    message_bytes: int = MIB  # entries of one append, unless a single entry is larger
    window_bytes: int = 4 * MIB  # entries on their way to one follower and not yet answered
    command_bytes_max: int = COMMAND_BYTES_MAX
    pending_bytes_max: int = 64 * MIB
    apply_entries_max: int = 256  # entries a tick
    apply_budget_s: float = 0.010  # and time a tick
    job_budget_ms: float = 5.0
    read_timeout_s: float = 2.0
    features: Feature = ALL_FEATURES

    def __post_init__(self) -> None:
        if not 3 * self.heartbeat_s < self.election_min_s < self.election_max_s:
            raise BadSettings(f"need 3*heartbeat_s < election_min_s < election_max_s: {asdict(self)}")
        if not self.election_min_s < self.fallback_s:
            raise BadSettings(f"need election_min_s < fallback_s: {asdict(self)}")
        if self.node_id in self.peers or len(set(self.peers)) != len(self.peers):
            raise BadSettings(f"node {self.node_id} among its peers, or a peer twice: {self.peers}")
        if not 0 < self.command_bytes_max <= COMMAND_BYTES_MAX:
            raise BadSettings(f"command_bytes_max {self.command_bytes_max}, at most {COMMAND_BYTES_MAX}")

    @property
    def voters(self) -> int:
        return len(self.peers) + 1

    def is_majority(self, count: int) -> bool:
        """Whether `count` voters, oneself included, are more than half."""
        return 2 * count > self.voters
