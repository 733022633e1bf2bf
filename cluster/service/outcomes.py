"""What the log or the state said, as answers: refusals as problems, snapshots with the roots that threads compute."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cluster.api.answer import Answer
from cluster.api.problem import problem
from cluster.service.host import Host
from node.results import Refused, SnapshotInfo


def refusal(refused: Refused) -> Answer:
    """The problem that a refusal of apply or of a read is."""
    return problem(refused.code, refused.detail, **(refused.extra or {}))


def with_roots(host: Host, infos: list[SnapshotInfo], done: Callable[[list[bytes | None]], None]) -> None:
    """`done(roots)` when this node knows the root of each; None for one that has gone. Maybe at once."""
    roots: list[bytes | None] = [None] * len(infos)
    missing = len(infos) + 1

    def known(place: int | None, root: bytes | None) -> None:
        nonlocal missing
        if place is not None:
            roots[place] = root
        missing -= 1
        if missing == 0:
            done(roots)

    for place, info in enumerate(infos):
        if not host.machine.on_root(info.uid, info.id, partial(known, place)):
            known(place, None)
    known(None, None)
