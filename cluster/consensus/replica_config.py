"""What a replica is told and what it tells: its configuration, the machine that it drives, the state of its peers."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from cluster.consensus.network import Address
from cluster.consensus.seams import Base
from cluster.consensus.settings import ALL_FEATURES, CoreSettings, Feature


class NoLeader(Exception):
    """Nobody can tell the index now: an election runs, or the leader was lost meanwhile. Ask again."""


class ReplicatedMachine(Protocol):
    """The host's view of the node."""

    @property
    def applied_index(self) -> int: ...

    def apply(self, index: int, term: int, raw: bytes) -> Any:
        """A result, or a Job; see seams.Machine."""
        ...

    def checkpoint_base(self) -> Base | None: ...

    def members(self) -> Mapping[str, str] | None: ...

    async def install(self, base: Base, source: str) -> Base:
        """Bring the state at `base` (or a newer one) here from `source` or any other member.

        Returns the base that the machine now has, durably, as state and as checkpoint; never puts a state in that is
        older than what was applied meanwhile. Tries for ever; raises only what must stop the process.
        """
        ...


@dataclass(frozen=True)
class ReplicaConfig:
    """One member's place in its cluster. `peers`: the others' addresses. Times in seconds."""

    node_id: str
    cluster_id: str
    incarnation: str
    listen: Address
    peers: Mapping[str, Address]
    heartbeat_s: float = 0.05
    election_min_s: float = 0.4
    election_max_s: float = 0.8
    fallback_s: float = 1.4
    limits: Mapping[str, int] | None = None  # replicated limits, named once, in the cluster's first entry
    features: Feature = ALL_FEATURES
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None
    core: Mapping[str, Any] = field(default_factory=dict)  # further fields of CoreSettings

    def settings(self) -> CoreSettings:
        """Raises BadSettings when the times contradict each other."""
        return CoreSettings(
            node_id=self.node_id,
            peers=tuple(sorted(self.peers)),
            cluster_id=self.cluster_id,
            incarnation=self.incarnation,
            heartbeat_s=self.heartbeat_s,
            election_min_s=self.election_min_s,
            election_max_s=self.election_max_s,
            fallback_s=self.fallback_s,
            features=self.features,
            **self.core,
        )


@dataclass(frozen=True, slots=True)
class PeerStatus:
    """What this node knows of another member. `match_index` is None where we don't lead."""

    id: str
    reachable: bool
    incarnation: str | None
    match_index: int | None
    silent_s: float | None
    problem: str | None  # why there is no connection
    installing: bool = False  # it needs what our journal no longer has; known only where we lead
    counts: bool = True  # its votes and acknowledgements do; False once its data folder is another one
