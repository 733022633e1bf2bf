"""The apply loop: every committed command once, in order, some at a time, so that heartbeats never wait for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cluster.consensus.seams import Job
from wal.checks import invariant

if TYPE_CHECKING:
    from cluster.consensus.core import ConsensusCore


class Applier:
    """Feeds the machine. While a Job runs nothing after it is applied; its entry counts as applied when it is done."""

    def __init__(self, core: ConsensusCore) -> None:
        self._core = core
        self._job: tuple[int, int, Job] | None = None  # index, term, job

    @property
    def job_running(self) -> bool:
        return self._job is not None

    @property
    def has_more(self) -> bool:
        return self._job is not None or self._core.engine.applied < self._core.visible_commit()

    def run(self) -> None:
        """One bounded slice: at most `apply_entries_max` entries and about `apply_budget_s`."""
        core = self._core
        settings, engine, journal = core.settings, core.engine, core.journal
        if self._job is not None and not self._step_job():
            return
        limit = core.visible_commit()
        if engine.applied >= limit:
            return
        started, left = core.io.now(), settings.apply_entries_max
        while left > 0 and engine.applied < limit and self._job is None:
            start = engine.applied + 1
            for command, index, term in journal.log.entries(start, min(limit, start + left - 1) + 1, core.apply_bytes):
                invariant(index == engine.applied + 1, "entries apply in order", index=index, applied=engine.applied)
                left -= 1
                self._apply(index, term, command)
                if self._job is not None:
                    return
            if core.io.now() - started > settings.apply_budget_s:
                return

    def _apply(self, index: int, term: int, command: bytes) -> None:
        core = self._core
        if len(command) == 1 or index <= core.machine.applied_index:
            # The engine's own entries, and what the checkpoint has already.
            self._applied(index, term, None)
            return
        result = core.machine.apply(index, term, command)
        invariant(result is not None, "apply answers every command", index=index)
        if hasattr(result, "step"):
            self._job = (index, term, result)
            self._step_job()
        else:
            self._applied(index, term, result)

    def _step_job(self) -> bool:
        invariant(self._job is not None, "a job to step")
        index, term, job = self._job  # type: ignore[misc]
        result = job.step(self._core.settings.job_budget_ms)
        if result is None:
            return False
        self._job = None
        self._applied(index, term, result)
        return True

    def _applied(self, index: int, term: int, result: Any) -> None:
        core = self._core
        core.engine.applied = index
        core.membership.on_applied(index)
        core.proposals.complete(index, term, result)

    def jumped(self) -> None:
        """A snapshot was installed: the running job, if any, belongs to a state that is gone."""
        self._job = None
