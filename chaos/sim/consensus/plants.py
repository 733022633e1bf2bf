"""Bugs planted on purpose. Each must be found, or the simulation proves nothing (figures: docs/simulation.md)."""

from __future__ import annotations

from typing import Final

PLANTS: Final[dict[str, str]] = {}
