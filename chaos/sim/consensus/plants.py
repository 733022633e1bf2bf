"""Bugs planted on purpose. Each must be found, or the simulation proves nothing (figures: docs/simulation.md).

A plant takes one guard away from the adapter, or spoils a part around it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cluster.consensus.settings import ALL_FEATURES, Feature


class Plant(NamedTuple):
    """`mode` and `nodes`: where it is found soonest."""

    removed: Feature
    mode: str
    nodes: int
    text: str


PLANTS: Final[dict[str, Plant]] = {
    "no-barrier": Plant(Feature.BARRIER, "power", 3, "votes and acknowledgements leave before they are durable"),
    "own-share": Plant(Feature.SELF_DURABLE, "power", 3, "the leader counts itself before its own disk has the entry"),
    "truncate-on-match": Plant(Feature.LAZY_TRUNCATE, "net", 3, "an append that matches truncates what follows it"),
    "old-terms": Plant(Feature.TERMS | Feature.EPOCHS, "zombie", 5, "acknowledgements of older terms count"),
    "open-gate": Plant(Feature.INSTALL_GATE, "net", 3, "a snapshot is loaded before it is there"),
    "vote-forgotten": Plant(Feature.VOTES, "kill", 3, "term and vote are not journalled"),
    "stale-read": Plant(Feature.READ_ROUND, "net", 3, "reads are answered without asking a majority"),
}


def features_without(plant: str | None) -> Feature:
    """All guards but those that the plant removes."""
    return ALL_FEATURES if plant is None else ALL_FEATURES & ~PLANTS[plant].removed
