"""Clients: they write through the node that leads, read through any, and tell the checker what they were told."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from chaos.sim.consensus.machine import JOB, WRITE

if TYPE_CHECKING:
    from chaos.sim.consensus.cluster import Cluster
    from chaos.sim.consensus.process import Process


class Clients:
    """The load of a run, and the probes after it that show that the cluster works again."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster = cluster
        self.rng = rng
        self.stopped = False
        self.probes_done = 0
        self.open: dict[bytes, tuple[str, int]] = {}  # command or read -> node and its start count
        self._numbers = 0

    def start(self) -> None:
        self._write()
        self._read()

    # ---------------------------------------------------------------- load
    def _write(self) -> None:
        if self.stopped:
            return
        for _ in range(1 if self.rng.random() < 0.8 else self.rng.randint(2, 12)):
            process = self._node_for_writes()
            if process is not None:
                self.propose(process)
        self.cluster.timeline.after(self.rng.expovariate(self.cluster.scenario.write_rate), self._write)

    def _node_for_writes(self) -> Process | None:
        processes = [process for process in self.cluster.processes.values() if process.up and not process.paused]
        leaders = [process for process in processes if process.leads]
        if leaders and self.rng.random() < 0.95:
            return self.rng.choice(leaders)
        return self.rng.choice(processes) if processes else None

    def _read(self) -> None:
        if self.stopped:
            return
        processes = [process for process in self.cluster.processes.values() if process.up and not process.paused]
        if processes:
            self.read(self.rng.choice(processes))
        self.cluster.timeline.after(self.rng.expovariate(self.cluster.scenario.read_rate), self._read)

    # ---------------------------------------------------------------- single requests
    def propose(self, process: Process, *, probe: bool = False) -> None:
        """One write; the checker hears how it ended."""
        scenario, rng, checker = self.cluster.scenario, self.rng, self.cluster.checker
        self._numbers += 1
        pad = rng.randint(0, scenario.pad_bytes_max) if rng.random() < 0.3 else 20
        kind = JOB if rng.random() < scenario.job_share else WRITE
        command = kind + b"%08d" % self._numbers + bytes(pad)
        floor = checker.floor
        self.open[command] = (process.name, process.starts)

        def done(outcome: str, index: int) -> None:
            if self.open.pop(command, None) is None:
                checker.bad("answered-twice", f"{process.name} answered a write twice, then with {outcome}")
            if outcome == "committed":
                checker.acknowledged(process.name, command, index, floor)
                self.cluster.check_durable(process.name, index)
                self.probes_done += probe
            elif outcome == "refused":
                checker.refuse(process.name, command)
            else:
                checker.counts["unknown"] += 1

        checker.counts["writes"] += 1
        process.propose(command, done)

    def read(self, process: Process) -> None:
        """One linearizable read at any node."""
        checker = self.cluster.checker
        self._numbers += 1
        key, floor = b"r%08d" % self._numbers, checker.floor
        self.open[key] = (process.name, process.starts)

        def done(index: int | None) -> None:
            if self.open.pop(key, None) is None:
                checker.bad("answered-twice", f"{process.name} answered a read twice")
            if index is None:
                checker.counts["reads_refused"] += 1
            else:
                checker.read(process.name, index, floor)

        process.read(done)

    def unanswered(self) -> list[bytes]:
        """Requests to processes that still run and never answered."""
        return [
            key
            for key, (name, starts) in self.open.items()
            if self.cluster.processes[name].up and self.cluster.processes[name].starts == starts
        ]
