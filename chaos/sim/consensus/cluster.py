"""One run: nodes, network, clients and nemesis under one seed, then the heal and the last judgement."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

from chaos.sim.consensus.checker import Checker
from chaos.sim.consensus.clients import Clients
from chaos.sim.consensus.clock import Timeline
from chaos.sim.consensus.journal import WatchedJournal
from chaos.sim.consensus.nemesis import Nemesis
from chaos.sim.consensus.network import Network
from chaos.sim.consensus.process import Process
from chaos.sim.consensus.scenario import Scenario

LOAD_AFTER_S = 0.8
PROBE_EVERY_S = 0.5
QUIET_S = 3.0  # a healed cluster is watched for so long at least


class Verdict(NamedTuple):
    """What a run found: violations by kind, and what happened, for the summary."""

    seed: int
    violations: dict[str, tuple[float, str]]
    counts: dict[str, int]
    virtual_s: float
    events: int


class Cluster:
    """Everything of one run. `lines` is its trace; equal seeds give equal traces."""

    def __init__(self, seed: int, scenario: Scenario, *, loud: bool = False) -> None:
        self.seed = seed
        self.scenario = scenario
        self.loud = loud
        self.lines: list[str] = []
        self.timeline = Timeline()
        self.names = [f"n{number}" for number in range(scenario.nodes)]
        self.checker = Checker(lambda: self.timeline.now, self.trace, self.leader_log)
        rng = random.Random(f"{seed}/{scenario.mode}/{scenario.nodes}")
        self.rng = rng
        self.network = Network(self.timeline, random.Random(rng.random()), self.names, old_data=scenario.old_data)
        self.processes = {name: Process(self, name, random.Random(rng.random())) for name in self.names}
        self.network.endpoints.update(self.processes)
        self.network.watch = self._see
        self.nemesis = Nemesis(self, random.Random(rng.random()))
        self.clients = Clients(self, random.Random(rng.random()))

    def _see(self, source: str, target: str, message: dict[str, Any]) -> None:
        """A vote that leaves a node is a promise: one candidate in a term."""
        if message["type"] == "response_vote":
            self.checker.vote(source, message["term"], target)
        elif message["type"] == "request_vote":
            self.checker.vote(source, message["term"], source)

    def trace(self, line: str) -> None:
        text = f"{self.timeline.now:9.4f} {line}"
        self.lines.append(text)
        if self.loud:
            print(text)

    def run(self) -> Verdict:
        """Load under faults, then heal, then wait until all nodes agree or the time for that is over."""
        scenario, timeline = self.scenario, self.timeline
        for process in self.processes.values():
            timeline.after(0.2 * self.rng.random(), process.start)
        timeline.after(LOAD_AFTER_S, self.clients.start)
        timeline.after(LOAD_AFTER_S + 0.5, self.nemesis.start)
        stop_s = LOAD_AFTER_S + scenario.fault_s
        while timeline.now < stop_s and not self.checker.violations:
            timeline.run_until(timeline.now + 0.5)
        if not self.checker.violations:
            self._heal()
        return Verdict(
            self.seed, self.checker.violations, dict(self.checker.counts), round(timeline.now, 2), timeline.events
        )

    def _heal(self) -> None:
        self.trace("heal everything")
        self.nemesis.stopped = True
        self.network.heal()
        for process in self.processes.values():
            process.disk_is_fast_again()
            process.find_room()
            process.resume()
            if not process.up:
                self.timeline.after(0.0, process.start)
        healed_s = self.timeline.now
        while self.timeline.now < healed_s + self.scenario.heal_s:
            if self.timeline.now >= healed_s + QUIET_S - 1:
                self.clients.stopped = True
            for process in self.processes.values():
                if process.leads and self.clients.stopped:
                    self.clients.propose(process, probe=True)
                    self.clients.read(process)
            self.timeline.run_until(self.timeline.now + PROBE_EVERY_S)
            if self.checker.violations or (self.timeline.now >= healed_s + QUIET_S and self._settled()):
                return
        if self.checker.violations:
            return
        states = [(process.name, process.up, process.state()) for process in self.processes.values()]
        left = self.clients.unanswered()
        if left and self.clients.probes_done:
            node, starts = self.clients.open[left[0]]
            text = f"{len(left)} requests never answered, first {left[0][:9]!r} at {node} (start {starts})"
            self.checker.bad("never-answered", text)
        else:
            text = (
                f"not settled {self.scenario.heal_s} s after the heal: {states}, probes done {self.clients.probes_done}"
            )
            self.checker.bad("liveness", text)

    def leader_log(self, term: int) -> WatchedJournal | None:
        """The log of the node that leads `term` right now."""
        for process in self.processes.values():
            if process.leads and process.core.term == term:
                return process.journal
        return None

    def check_matches(self, leader: Process) -> None:
        """What a leader counts its followers for, compared with what they have. Those of later terms have moved on."""
        term, journal = leader.core.term, leader.journal
        for name, peer in leader.core.peers.items():
            index, follower = leader.core.engine.match_index(peer.node), self.processes[name]
            if index <= 1 or not follower.up or follower.excluded or follower.core.term > term:
                continue
            if follower.core.term < term:
                self.checker.bad(
                    "match-false", f"{leader.name} counts {name} in term {term}, which it has not heard of"
                )
            there = journal.term_at(index)
            if there is not None and not follower.holds(index, there):
                self.checker.bad("match-false", f"{leader.name} counts {name} as having {index}/{there} durably")

    def check_durable(self, name: str, index: int) -> None:
        """Invariant 1 at the moment of the acknowledgement: a majority would still have the entry after a power cut.

        Nodes that are down get the benefit of the doubt.
        """
        truth = self.checker.truth.get(index)
        holders = [process.name for process in self.processes.values() if truth and process.holds(index, truth.term)]
        if len(holders) <= len(self.names) // 2:
            self.checker.bad("not-durable", f"{name} acknowledged {index}, durable only at {holders}")

    def _settled(self) -> bool:
        """All nodes up, at one state that holds all that was acknowledged; a probe done, nothing unanswered."""
        members = [process for process in self.processes.values() if not process.excluded]
        if not all(process.up for process in members) or not self.clients.probes_done:
            return False
        states = {process.state() for process in members}
        if len(states) != 1 or self.clients.unanswered():
            return False
        index, chain = states.pop()
        if index < self.checker.floor:
            self.checker.bad(
                "acknowledged-lost", f"all nodes settled at {index}, a client had seen {self.checker.floor}"
            )
        if self.checker.truth[index].chain != chain:
            self.checker.bad("state-divergence", f"all nodes settled on a foreign state at {index}")
        return True
