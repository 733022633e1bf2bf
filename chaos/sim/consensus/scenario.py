"""What a run is made of: sizes, rates and which faults may happen. Everything else is drawn from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from chaos.sim.consensus.plants import PLANTS

MODES: Final = ("net", "zombie", "kill", "power")


@dataclass(frozen=True)
class Scenario:
    """One run. Times in virtual seconds, sizes in bytes; `draw` makes them differ from seed to seed."""

    mode: str
    nodes: int
    plant: str | None = None  # name of a planted bug, see plants.py
    fault_s: float = 7.0  # faults and load for so long
    heal_s: float = 25.0  # then so long at most to converge
    tick_s: float = 0.02
    write_rate: float = 40.0  # proposals per second, single ones and bursts
    read_rate: float = 12.0
    pad_bytes_max: int = 700
    fault_rate: float = 2.0  # faults per second
    checkpoint_every: int = 40  # applied entries between checkpoints
    journal_bytes_max: int = 64 * 1024
    cache_bytes: int = 16 * 1024  # entries that the journal holds in memory
    apply_entries_max: int = 256  # entries applied in one tick
    message_bytes: int = 1 << 20  # entries in one append
    window_bytes: int = 4 << 20  # entries on their way to one follower
    job_share: float = 0.03  # share of the commands that take several ticks to apply
    clock_drift: float = 0.02
    weights: dict[str, float] = field(default_factory=dict)  # fault name -> weight

    @property
    def old_data(self) -> bool:
        """Do bytes of a given-up connection still arrive?"""
        return self.mode != "net"

    @property
    def crashes(self) -> bool:
        return self.mode in ("kill", "power")


CALM: Final = {
    "isolate": 1.0,
    "isolate-leader": 1.5,
    "split": 1.0,
    "one-way": 1.0,
    "slow": 1.0,
    "reset": 2.0,
    "pause": 1.0,
    "pause-leader": 0.5,
    "slow-disk": 0.7,
    "no-room": 0.3,
    "flap": 0.5,
    "depose": 0.7,
    "half-told": 0.7,
    "heal": 3.0,
    "move": 0.4,
}
CRASHES: Final = {
    "crash": 3.0,
    "crash-leader": 2.0,
    "crash-all": 1.0,
    "crash-majority": 0.7,
    "lose-disk": 0.1,
    "disk-error": 0.3,
    "restart": 1.5,
}


ALONE: Final = (
    "pause",
    "slow-disk",
    "no-room",
    "heal",
    "crash",
    "restart",
    "disk-error",
)  # what can happen to a cluster of one


def draw(mode: str, nodes: int, rng: random.Random, plant: str | None = None) -> Scenario:
    """A scenario for one seed. Each seed leaves some faults out and weighs the others anew: seeds differ in kind."""
    weights = dict(CALM)
    if mode in ("kill", "power"):
        weights |= CRASHES
    for name in list(weights):
        if name != "heal":
            weights[name] = 0.0 if rng.random() < 0.2 else weights[name] * rng.uniform(0.3, 2.0)
    if nodes == 1:
        weights = {name: weight for name, weight in weights.items() if name in ALONE}
    aim = PLANTS[plant].aim if plant is not None else None
    return Scenario(
        mode=mode,
        nodes=nodes,
        plant=plant,
        write_rate=rng.choice([10.0, 30.0, 30.0, 80.0]),
        pad_bytes_max=rng.choice([60, 1500, 3000, 6000]),
        fault_rate=rng.choice([1.5, 2.5, 2.5, 5.0]),
        checkpoint_every=rng.choice([6, 15, 40, 40, 120]),
        journal_bytes_max=rng.choice([32, 32, 32, 64]) * 1024,
        cache_bytes=rng.choice([0, 4, 64]) * 1024,
        apply_entries_max=rng.choice([2, 16, 256]),
        message_bytes=rng.choice([300, 2000, 1 << 20]),
        window_bytes=rng.choice([1000, 20_000, 4 << 20]),
        job_share=rng.choice([0.0, 0.02, 0.1]),
        clock_drift=rng.choice([0.0, 0.02, 0.05]),
        weights=aim or weights,
    )
