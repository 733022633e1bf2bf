"""The node's state machine as consensus sees it: apply, members, the newest durable checkpoint, install."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from cluster.consensus.seams import Base
from node.state import StateMachine

Install = Callable[[Base, str], Awaitable[Base]]


class ConsensusMachine:
    """Implements `cluster.consensus.replica.ReplicatedMachine` on a StateMachine. Loop thread only."""

    def __init__(self, machine: StateMachine, *, base: Base | None, install: Install) -> None:
        self.machine = machine
        self.base = base
        self._install = install
        self.applied_bytes = 0  # of commands, since the start

    @property
    def applied_index(self) -> int:
        return self.machine.applied_index

    def apply(self, index: int, term: int, raw: bytes) -> Any:
        self.applied_bytes += len(raw)
        return self.machine.apply(index, term, raw)

    def checkpoint_base(self) -> Base | None:
        """The newest durable checkpoint, None before the first."""
        return self.base

    def members(self) -> Mapping[str, str] | None:
        """What the log's first command named, once it is applied."""
        return self.machine.registry.incarnations or None

    async def install(self, base: Base, source: str) -> Base:
        return await self._install(base, source)
