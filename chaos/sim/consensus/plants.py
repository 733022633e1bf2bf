"""Bugs planted on purpose. Each must be found, or the simulation proves nothing (figures: docs/simulation.md).

A plant takes one guard away from the adapter, or spoils a part around it.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from cluster.consensus.settings import ALL_FEATURES, Feature


class Plant(NamedTuple):
    """`mode`, `nodes` and `seeds`: where tests look. `aim`: faults instead of the usual mix, where it is rare."""

    text: str
    mode: str
    nodes: int
    removed: Feature = Feature(0)
    aim: dict[str, float] | None = None
    seeds: str | None = "0:80"  # None: too rare for the tests


HALF_TOLD: Final = {"half-told": 3.0, "heal": 2.0, "slow": 0.5, "isolate-leader": 0.5}
DEPOSED: Final = {"depose": 2.0, "heal": 2.0, "slow": 0.5, "reset": 0.5}
LOST: Final = {"lose-disk": 1.0, "crash": 1.0, "crash-all": 0.5, "isolate": 1.0, "slow-disk": 0.5, "heal": 2.0}

LAGGARDS: Final = {"isolate": 2.0, "crash": 2.5, "slow-disk": 0.5, "heal": 2.0}

PLANTS: Final[dict[str, Plant]] = {
    "no-barrier": Plant("votes and acknowledgements leave before they are durable", "power", 3, Feature.BARRIER),
    "own-share": Plant("the leader counts itself before its own disk has the entry", "power", 3, Feature.SELF_DURABLE),
    "no-fsync": Plant("the disk says yes and forgets at a power cut", "power", 3),
    "truncate-on-match": Plant(
        "an append that matches truncates what follows it", "power", 3, Feature.LAZY_TRUNCATE, HALF_TOLD
    ),
    "old-terms": Plant(
        "acknowledgements of older terms and connections count",
        "zombie",
        5,
        Feature.TERMS | Feature.EPOCHS,
        DEPOSED,
        None,
    ),
    "open-gate": Plant("a snapshot is loaded before it is there", "net", 3, Feature.INSTALL_GATE),
    "vote-forgotten": Plant("term and vote are not journalled", "kill", 3, Feature.VOTES),
    "stale-read": Plant("reads are answered without asking a majority", "net", 3, Feature.READ_ROUND),
    "new-disk-votes": Plant(
        "a node with an empty disk takes part under its old name", "power", 3, Feature.INCARNATIONS, LOST
    ),
    "cut-early": Plant("the journal is cut before the checkpoint is durable", "power", 3),
    "volatile-install": Plant("an install is acknowledged before it is durable", "power", 3, aim=LAGGARDS),
}


def features_without(plant: str | None) -> Feature:
    """All guards but those that the plant removes."""
    return ALL_FEATURES if plant is None else ALL_FEATURES & ~PLANTS[plant].removed
