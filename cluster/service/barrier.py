"""When a read may look at the state: after a ReadIndex round (shared by all that came together), or at once when stale.

In both cases never while an entry is being applied in slices: the state is between two versions then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from cluster.api.answer import Answer
from cluster.api.problem import problem
from cluster.log import get_log
from cluster.service.conditions import BadArgument
from cluster.service.host import Host
from node.faults import RottenPage

log = get_log("cluster.service")
Reply = Callable[[Answer], None]
Work = Callable[[], None]
JOB_POLL_S: Final = 0.002


class Barrier:
    """Loop thread only."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._gathering: list[tuple[Work, Reply]] | None = None

    def run(self, consistency: str, work: Work, reply: Reply) -> None:
        """Calls `work` when the state may be looked at; its exceptions become problems. Or replies why it may not."""
        if consistency == "stale":
            self._when_quiet([(work, reply)])
            return
        if self._host.replica.installing:
            # It would wait for the whole install; another node answers at once.
            reply(self._unreadable())
            return
        if self._gathering is None:
            self._gathering = []
            asyncio.get_running_loop().call_soon(self._ask)
        self._gathering.append((work, reply))

    def _ask(self) -> None:
        waiting, self._gathering = self._gathering or [], None
        open_round = [True]

        def end(failure: Answer | None) -> None:
            if open_round:
                open_round.clear()
                timer.cancel()
                if failure is None:
                    self._when_quiet(waiting)
                else:
                    for _, reply in waiting:
                        reply(failure)

        timeout_s = self._host.config.request_timeout_ms / 1000
        timer = asyncio.get_running_loop().call_later(timeout_s, lambda: end(self._unreadable()))
        self._host.replica.read_barrier(lambda index: end(self._unreadable() if index is None else None))

    def _unreadable(self) -> Answer:
        if self._host.replica.installing:
            return problem("installing", "this node is installing a checkpoint; ask another one, or read stale")
        return problem("no_leader", "no leader confirmed this read in time")

    def _when_quiet(self, waiting: list[tuple[Work, Reply]]) -> None:
        if self._host.replica.job_running:
            asyncio.get_running_loop().call_later(JOB_POLL_S, self._when_quiet, waiting)
            return
        for work, reply in waiting:
            run_guarded(work, reply)


def run_guarded(work: Work, reply: Reply) -> None:
    """Runs `work`; what it raises is answered, and logged where it is our fault."""
    try:
        work()
    except BadArgument as error:
        reply(problem(error.code, error.detail))
    except RottenPage as rotten:
        log.error("page.rotten", space=rotten.space, page=rotten.page, detail=rotten.detail)
        reply(problem("internal", str(rotten), space=rotten.space, page=rotten.page))
    except Exception as error:
        log.error("read.failed", error=error)
        reply(problem("internal", "the read failed; see the node's log"))
