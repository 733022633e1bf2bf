"""The replicated state of the simulation: a checksum over everything applied, in order, and its checkpoints.

It is small on purpose. Since the checker knows the truth for each index, a checksum is all that a state needs to be.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final, NamedTuple

from chaos.sim.consensus.checker import Checker, extend

JOB: Final = b"j"  # a command that begins so takes several steps to apply
WRITE: Final = b"w"


class Image(NamedTuple):
    """A state at an index, as a checkpoint keeps it and an install carries it."""

    index: int
    term: int
    chain: int


class Vault:
    """What a computer keeps of its node's state when the process dies: the newest durable checkpoint."""

    def __init__(self) -> None:
        self.image: Image | None = None


class SlowApply:
    """A command whose effects take a few steps. Its effects show at the last one."""

    def __init__(self, steps: int, finish: Callable[[], object]) -> None:
        self._steps = steps
        self._finish = finish

    def step(self, budget_ms: float) -> object | None:
        """Its result, or None while there is more to do."""
        self._steps -= 1
        return self._finish() if self._steps <= 0 else None


class Machine:
    """One node's state machine. It is told the truth's keeper of every command that it applies."""

    def __init__(
        self, name: str, vault: Vault, checker: Checker, rng: random.Random, node_term: Callable[[], int]
    ) -> None:
        self.name = name
        self.vault = vault
        self.checker = checker
        self.rng = rng
        self.node_term = node_term
        self.job_running = False
        self.applied_index, self.applied_term, self.chain = vault.image or Image(0, 0, 0)

    def apply(self, index: int, term: int, raw: bytes) -> object | SlowApply:
        """The index at which the command was applied, now or through a job."""
        if self.job_running:
            self.checker.bad("apply-order", f"{self.name} applies {index} while a job of {self.applied_index + 1} runs")
        if index <= self.applied_index:
            self.checker.bad("double-apply", f"{self.name} applies {index} again, it is at {self.applied_index}")
            return index
        if raw[:1] == JOB:
            self.job_running = True
            return SlowApply(self.rng.randint(2, 12), lambda: self._finish(index, term, raw))
        return self._apply(index, term, raw)

    def _finish(self, index: int, term: int, raw: bytes) -> object:
        self.job_running = False
        return self._apply(index, term, raw)

    def _apply(self, index: int, term: int, raw: bytes) -> object:
        self.chain = extend(self.chain, index, raw)
        self.applied_index, self.applied_term = index, term
        self.checker.apply(self.name, self.node_term(), index, term, raw, self.chain)
        return index

    def image(self) -> Image:
        return Image(self.applied_index, self.applied_term, self.chain)

    def swap(self, image: Image) -> None:
        """Takes an installed state in place of its own."""
        if image.index < self.applied_index:
            self.checker.bad("install-goes-back", f"{self.name} at {self.applied_index} installs {image.index}")
        self.job_running = False
        self.applied_index, self.applied_term, self.chain = image
        self.checker.installed(self.name, image.index, image.chain)
