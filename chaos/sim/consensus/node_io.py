"""The core's `CoreIO` in the simulation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from chaos.sim.consensus.machine import OPEN, init_command
from cluster.consensus.seams import Base, Message

if TYPE_CHECKING:
    from chaos.sim.consensus.process import Process


class NodeIO:
    """What the core sees of the world: this node's clock, chance and wire, in one life of the process."""

    def __init__(self, process: Process) -> None:
        self._process = process
        self._life = process.starts
        self.now = process.clock.monotonic
        self.random = process.rng.random

    def send(self, peer: str, cid: int, message: Message) -> None:
        self._process.cluster.network.send(self._process.name, peer, cid, message)

    def fetch(self, base: Base, source: str, done: Callable[[Base], None]) -> None:
        self._process.fetch(base, source, done)

    def init_command(self, incarnations: Mapping[str, str]) -> bytes:
        return init_command(incarnations)

    def open_command(self) -> bytes:
        return OPEN
