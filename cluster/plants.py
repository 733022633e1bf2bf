"""Planted bugs, so that the fault suite can show that it finds them. Never in production: `plant` names one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from cluster.consensus.seams import Outcome
from cluster.consensus.settings import ALL_FEATURES, Feature
from cluster.service.pipeline import Proposer
from node.commands import decode_command, encode_command

WITHOUT: Final = {
    "no_barrier": Feature.BARRIER | Feature.SELF_DURABLE,
    "stale_read": Feature.READ_ROUND,
    "truncate_on_match": Feature.LAZY_TRUNCATE,
}


def features_for(plant: str | None) -> Feature:
    """The guards of consensus that are left."""
    return ALL_FEATURES & ~WITHOUT.get(plant or "", Feature(0))


def proposer_for(plant: str | None, proposer: Proposer) -> Proposer:
    """`retry_twice`: who asked is forgotten before the log, so a retry is applied again."""
    return Forgetful(proposer) if plant == "retry_twice" else proposer


class Forgetful:
    """Removes the identity of every operation."""

    def __init__(self, proposer: Proposer) -> None:
        self._proposer = proposer

    def propose(self, command: bytes, done: Callable[[Outcome], None]) -> None:
        decoded = decode_command(command)
        bare = [
            msgspec.structs.replace(operation, ident=None) if hasattr(operation, "ident") else operation
            for operation in decoded.operations
        ]
        self._proposer.propose(
            encode_command(bare, stamp_ms=decoded.stamp_ms, wall_ms=decoded.wall_ms),
            done,
        )
