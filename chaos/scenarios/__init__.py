"""Fault scenarios, by the name that `lastgood chaos run` takes."""

from __future__ import annotations

from typing import Final

from chaos.scenarios import links, mixed, processes, transfer
from chaos.scenarios.base import SMALL, Scenario

__all__ = ["SCENARIOS", "SMALL", "Scenario"]

SCENARIOS: Final[dict[str, Scenario]] = {
    scenario.name: scenario
    for scenario in (*links.SCENARIOS, *processes.SCENARIOS, *transfer.SCENARIOS, *mixed.SCENARIOS)
}
