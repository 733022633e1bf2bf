"""What goes wrong. Each fault is one method; a run draws them by the scenario's weights while its fault time lasts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from chaos.sim.consensus.cluster import Cluster
    from chaos.sim.consensus.process import Process


class Nemesis:
    """Draws and causes faults. It knows everything, so that it can aim at the leader."""

    def __init__(self, cluster: Cluster, rng: random.Random) -> None:
        self.cluster = cluster
        self.rng = rng
        self.stopped = False
        weights = cluster.scenario.weights
        self.names = [name for name, weight in weights.items() if weight > 0]
        self.shares = [weights[name] for name in self.names]

    def start(self) -> None:
        self._next()

    def _next(self) -> None:
        self.cluster.timeline.after(self.rng.expovariate(self.cluster.scenario.fault_rate), self._strike)

    def _strike(self) -> None:
        if self.stopped:
            return
        name = self.rng.choices(self.names, self.shares)[0]
        getattr(self, "_" + name.replace("-", "_"))()
        self._next()

    # ---------------------------------------------------------------- whom
    def _anyone(self) -> Process:
        return self.cluster.processes[self.rng.choice(self.cluster.names)]

    def _leader(self) -> Process:
        leaders = [process for process in self.cluster.processes.values() if process.leads]
        return self.rng.choice(leaders) if leaders else self._anyone()

    def _cut_off(self, group: list[str]) -> None:
        rest = [name for name in self.cluster.names if name not in group]
        self.cluster.trace(f"cut {'+'.join(group)} | {'+'.join(rest)}")
        for a in group:
            for b in rest:
                self.cluster.network.cut(a, b)
                self.cluster.network.cut(b, a)

    # ---------------------------------------------------------------- network
    def _isolate(self) -> None:
        self._cut_off([self._anyone().name])

    def _isolate_leader(self) -> None:
        self._cut_off([self._leader().name])

    def _split(self) -> None:
        names = list(self.cluster.names)
        self.rng.shuffle(names)
        self._cut_off(names[: self.rng.randint(1, len(names) - 1)])

    def _one_way(self) -> None:
        a, b = self.rng.sample(self.cluster.names, 2)
        self.cluster.trace(f"cut {a} -> {b}")
        self.cluster.network.cut(a, b)

    def _flap(self) -> None:
        """A link that goes and comes a few times, too fast to be noticed as dead."""
        a, b = self.rng.sample(self.cluster.names, 2)
        self.cluster.trace(f"flap {a} -- {b}")
        at_s = 0.0
        for _ in range(self.rng.randint(2, 5)):
            for act in (self.cluster.network.cut, self.cluster.network.mend):
                at_s += self.rng.uniform(0.05, 0.4)
                self.cluster.timeline.after(at_s, act, a, b)
                self.cluster.timeline.after(at_s, act, b, a)

    def _depose(self) -> None:
        """A leader and one follower of its own, cut from all others and slow to answer, then back among them.

        What it had sent to that follower is answered when it may lead again, in a later term.
        """
        leader, names = self._leader().name, self.cluster.names
        friend = self.rng.choice([name for name in names if name != leader])
        self.cluster.network.delays[friend, leader] = (1.0, 3.0)
        self._cut_off([leader, friend] if len(names) > 3 else [leader])
        self.cluster.timeline.after(self.rng.uniform(0.5, 1.5), self._back, leader, friend)

    def _back(self, leader: str, friend: str) -> None:
        if self.stopped:
            return
        self.cluster.trace(f"{leader} is back, {friend} is not, but its answers are on the way")
        self.cluster.network.cut(leader, friend)
        for name in self.cluster.names:
            if name not in (leader, friend):
                self.cluster.network.mend(leader, name)
                self.cluster.network.mend(name, leader)
        now_leads = self._leader()
        if now_leads.name != leader:
            now_leads.pause(self.rng.choice([0.6, 1.0]))

    def _half_told(self) -> None:
        """A leader that reaches one follower at once and the others late goes away, and that follower with it.

        The others elect somebody who has a part of what the follower has: the logs meet in the middle of a term.
        """
        leader, names = self._leader(), self.cluster.names
        friend = self.rng.choice([name for name in names if name != leader.name])
        self.cluster.trace(f"{leader.name} reaches {friend} only in time")
        for name in names:
            if name not in (leader.name, friend):
                self.cluster.network.delays[leader.name, name] = (0.1, 0.3)
                self.cluster.network.delays[name, leader.name] = (0.4, 0.8)  # so they have what is not known committed
        leader.sync_s_max = 1.0
        self.cluster.timeline.after(self.rng.uniform(0.4, 1.2), self._tear, leader, friend)

    def _tear(self, leader: Process, friend: str) -> None:
        if self.stopped:
            return
        self._cut_off([friend])
        if self.cluster.scenario.crashes:
            self._down([leader])
        else:
            self._cut_off([leader.name])
        leader.disk_is_fast_again()

    def _slow(self) -> None:
        a, b = self.rng.sample(self.cluster.names, 2)
        delay_s = self.rng.choice([0.02, 0.1, 0.4, 1.5, 3.0])
        self.cluster.trace(f"slow {a} -> {b} {delay_s} s")
        self.cluster.network.delays[a, b] = (delay_s / 2, delay_s)

    def _reset(self) -> None:
        a, b = self.rng.sample(self.cluster.names, 2)
        self.cluster.trace(f"reset {a} -- {b}")
        self.cluster.network.reset(a, b)

    def _heal(self) -> None:
        self.cluster.trace("heal")
        self.cluster.network.heal()

    # ---------------------------------------------------------------- processes and disks
    def _pause(self) -> None:
        self._anyone().pause(self.rng.choice([0.2, 0.8, 2.0]))

    def _pause_leader(self) -> None:
        self._leader().pause(self.rng.choice([0.5, 1.0, 2.5]))

    def _slow_disk(self) -> None:
        process, delay_s = self._anyone(), self.rng.choice([0.05, 0.3, 1.0])
        self.cluster.trace(f"{process.name} fdatasync takes up to {delay_s} s")
        process.sync_s_max = delay_s
        self.cluster.timeline.after(self.rng.uniform(0.5, 3.0), process.disk_is_fast_again)

    def _no_room(self) -> None:
        self._anyone().run_out_of_room(self.rng.choice([0.3, 1.0, 3.0]))

    def _disk_error(self) -> None:
        process = self._anyone()
        if process.up:
            process.break_disk()

    def _move(self) -> None:
        """A planned move of leadership."""
        self._leader().move_leadership()

    def _restart(self) -> None:
        """A planned restart of one node."""
        process = self._anyone()
        process.stop()
        self.cluster.timeline.after(self.rng.uniform(0.05, 1.0), process.start)

    def _crash(self) -> None:
        self._down([self._anyone()])

    def _crash_leader(self) -> None:
        self._down([self._leader()])

    def _crash_majority(self) -> None:
        names = self.rng.sample(self.cluster.names, len(self.cluster.names) // 2 + 1)
        self._down([self.cluster.processes[name] for name in names])

    def _crash_all(self) -> None:
        self._down(list(self.cluster.processes.values()))

    def _lose_disk(self) -> None:
        """One computer comes back empty. Only once there is something to lose: before, it is a new one."""
        lost = sum(process.excluded for process in self.cluster.processes.values())
        process = self._anyone()
        if self.cluster.checker.floor and not lost and process.up:
            process.lose_disk()
            self.cluster.timeline.after(self.rng.uniform(0.1, 1.0), process.start)

    def _down(self, victims: list[Process]) -> None:
        # In power mode some crashes are kills: what a killed process wrote is then only in the page cache of a machine
        # that may lose its power later, which is a case of its own.
        power = self.cluster.scenario.mode == "power" and self.rng.random() < 0.75
        for process in victims:
            if process.up:
                process.crash(power=power)
                pause_s = self.rng.choice([0.05, 0.5, 2.0]) * self.rng.uniform(0.5, 1.5)
                self.cluster.timeline.after(pause_s, process.start)
