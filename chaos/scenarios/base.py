"""What a fault scenario is. Each is a coroutine that hurts an `Arena` until its time is over."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.arena import Arena
from chaos.workload import Shape


@dataclass(frozen=True)
class Scenario:
    """`settings` go to every node. `gap_s_max`: how long no write at all may be acknowledged while the faults go on,
    None when the scenario takes the majority away."""

    name: str
    about: str
    run: Callable[[Arena], Awaitable[None]]
    settings: Mapping[str, Any] = field(default_factory=dict)
    shape: Shape = field(default_factory=Shape)
    gap_s_max: float | None = 10.0
    hurts: bool = True  # a run in which no fault happened proves nothing


# Writes so large that journals roll over and a node that was away for some seconds has to install.
PADDED = Shape(pad_bytes=12_288, big_bytes=1_500_000)

# Small enough that checkpoints and compaction happen every few seconds.
SMALL: Mapping[str, Any] = {
    "journal_bytes_max": 4 << 20,
    "checkpoint_bytes": 1 << 20,
    "checkpoint_interval_ms": 2_000,
    "ballast_bytes": 1 << 20,
    "heap_step_bytes": 4 << 20,
}
