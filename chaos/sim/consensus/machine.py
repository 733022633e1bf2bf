"""The replicated state of the simulation: a checksum over everything applied, in order, and its checkpoints.

It is small on purpose. Since the checker knows the truth for each index, a checksum is all that a state needs to be.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from chaos.sim.consensus.checker import CLIENT_KINDS, Checker, extend
from cluster.consensus.seams import Base
from node.commands import InitCluster, Tick, decode_command, encode_command

WRITE, JOB = CLIENT_KINDS  # a job is a write that takes several steps to apply
OPEN: Final = encode_command([Tick()], stamp_ms=0, wall_ms=0)  # nothing but its place in the log


class Image(NamedTuple):
    """A state at an index, as a checkpoint keeps it and an install carries it."""

    index: int
    term: int
    prev_index: int
    prev_term: int
    chain: int
    members: tuple[tuple[str, str], ...]

    @property
    def base(self) -> Base:
        return Base(self.index, self.term, self.prev_index, self.prev_term, b"%08x" % self.chain)


NOTHING: Final = Image(0, 0, 0, 0, 0, ())


class Vault:
    """What a computer keeps of its node's state when the process dies: the newest durable checkpoint."""

    def __init__(self) -> None:
        self.image: Image | None = None


class SlowApply:
    """A command whose effects take a few steps. Its effects show at the last one."""

    def __init__(self, steps: int, finish: Callable[[], int]) -> None:
        self._steps = steps
        self._finish = finish

    def step(self, budget_ms: float) -> int | None:
        """Its result, or None while there is more to do."""
        self._steps -= 1
        return self._finish() if self._steps <= 0 else None


class Machine:
    """One node's state machine. It tells the checker of everything that it applies."""

    def __init__(
        self, name: str, vault: Vault, checker: Checker, rng: random.Random, node_term: Callable[[], int]
    ) -> None:
        self.name = name
        self.vault = vault
        self.checker = checker
        self.rng = rng
        self.node_term = node_term
        self.job_at: int | None = None  # index of the job that runs
        self.image = vault.image or NOTHING

    @property
    def applied_index(self) -> int:
        return self.image.index

    def checkpoint_base(self) -> Base | None:
        """The newest durable checkpoint."""
        return self.vault.image.base if self.vault.image else None

    def members(self) -> Mapping[str, str] | None:
        return dict(self.image.members) or None

    def apply(self, index: int, term: int, raw: bytes) -> int | SlowApply:
        """The index at which the command was applied, now or through a job."""
        if self.job_at is not None:
            self.checker.bad("apply-order", f"{self.name} applies {index} while the job of {self.job_at} runs")
        if index <= self.image.index:
            self.checker.bad("double-apply", f"{self.name} applies {index}, it is at {self.image.index}")
            return index
        if raw[:1] == JOB:
            self.job_at = index
            return SlowApply(self.rng.randint(2, 12), lambda: self._apply(index, term, bytes(raw)))
        return self._apply(index, term, bytes(raw))

    def _apply(self, index: int, term: int, raw: bytes) -> int:
        self.job_at = None
        before = self.image
        members = before.members
        if not members and raw[:1] not in CLIENT_KINDS:
            first = decode_command(raw).operations[0]
            members = tuple(sorted(first.incarnations.items())) if isinstance(first, InitCluster) else ()
        chain = extend(before.chain, index, raw)
        self.image = Image(index, term, before.index, before.term, chain, members)
        self.checker.apply(self.name, self.node_term(), index, term, raw, chain)
        return index

    def swap(self, image: Image) -> None:
        """Takes an installed state in place of its own, unless its own is further by now."""
        if image.index > self.image.index:
            self.job_at = None
            self.image = image
            self.checker.installed(self.name, image.index, image.chain)


def init_command(incarnations: Mapping[str, str]) -> bytes:
    """The real first command of a cluster."""
    return encode_command([InitCluster("simulated", dict(incarnations))], stamp_ms=0, wall_ms=0)
