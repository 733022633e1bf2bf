"""A transaction of more than one command: its bytes travel as staged parts, one commit entry makes them visible."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import msgspec

from cluster.api.answer import Answer
from cluster.service.host import Host
from cluster.service.outcomes import refusal
from node import commands as ops
from node.results import Outcome, Refused

Reply = Callable[[Answer], None]
PARTS_AHEAD: Final = 4
"""Parts of one transaction with the pipeline at a time: the queue is for everybody, and smaller than 64 such parts."""


class Stager:
    """Cuts, sends the parts, then hands over the commit. A refused part refuses the whole; nothing is visible."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._count = 0

    async def run(self, tx: ops.Tx, commit: Callable[[ops.Tx], None], reply: Reply) -> None:
        """Stages `tx.writes`, then calls `commit` with the transaction that names them; or replies with the refusal."""
        self._count += 1
        # Unique in the cluster: the term and the leader's count of stages in it (one leader a term).
        stage = f"{self._host.replica.term}.{self._host.config.id}.{self._count}"
        parts = cut(tx.writes, self._host.config.batch_bytes_max)
        refused = await self._send_all(stage, parts)
        if refused is not None:
            # A part whose fate is unknown is as good as refused: without the commit it has no effect.
            known = "no_leader" if refused.code == "unknown_outcome" else refused.code
            reply(refusal(Refused(known, f"staging: {refused.detail}", refused.extra)))
            return
        commit(msgspec.structs.replace(tx, writes=[], stage=stage, stage_parts=len(parts)))

    async def _send_all(self, stage: str, parts: list[list[tuple[int, memoryview]]]) -> Refused | None:
        """The first refusal; nothing further is sent after it."""
        queue = iter(enumerate(parts))
        refused: list[Refused] = []

        async def send_on() -> None:
            for number, part in queue:
                outcome = await self._send(stage, number, part)
                if isinstance(outcome, Refused):
                    refused.append(outcome)
                if refused:
                    return

        await asyncio.gather(*(send_on() for _ in range(PARTS_AHEAD)))
        return refused[0] if refused else None

    async def _send(self, stage: str, number: int, writes: list[tuple[int, memoryview]]) -> Outcome:
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        size = sum(len(piece) for _, piece in writes)
        self._host.pipeline.submit(ops.StagePart(stage, number, writes), size, future.set_result)
        return await future


def cut(writes: list[tuple[int, memoryview]], part_bytes_max: int) -> list[list[tuple[int, memoryview]]]:
    """The writes in order, in parts of at most `part_bytes_max` bytes; a longer range is cut in several."""
    parts: list[list[tuple[int, memoryview]]] = [[]]
    room = part_bytes_max
    for offset, piece in writes:
        while len(piece):
            if room == 0:
                parts.append([])
                room = part_bytes_max
            taken = piece[:room]
            parts[-1].append((offset, taken))
            offset += len(taken)
            piece = piece[len(taken) :]
            room -= len(taken)
    return parts
