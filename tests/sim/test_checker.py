"""The simulation's judge convicts: each rule is broken once by hand. And the network keeps to what TCP gives."""

from __future__ import annotations

import random
from typing import Any

import pytest

from chaos.sim.consensus.checker import Checker, extend
from chaos.sim.consensus.clock import LOOKS_MAX, Hung, NodeClock, Timeline
from chaos.sim.consensus.network import Network


class FakeLog:
    """A leader's log by terms: `terms[0]` is the term of index 1."""

    def __init__(self, *terms: int) -> None:
        self._terms = terms
        self.last_index = len(terms)

    def term_at(self, index: int) -> int | None:
        return self._terms[index - 1] if 1 <= index <= self.last_index else None


def checker(leader: FakeLog | None = None) -> Checker:
    return Checker(lambda: 1.0, lambda _line: None, lambda _term: leader)


def apply(judge: Checker, name: str, index: int, command: bytes, *, term: int = 1, node_term: int = 1) -> None:
    before = judge.truth[index - 1].chain if index - 1 in judge.truth else 0
    judge.apply(name, node_term, index, term, command, extend(before, index, command))


def test_two_leaders_of_one_term() -> None:
    judge = checker()
    judge.leads("a", 3, FakeLog(1))
    judge.leads("a", 3, FakeLog(1))
    assert not judge.violations
    judge.leads("b", 3, FakeLog(1))
    assert list(judge.violations) == ["election-safety"]


def test_two_votes_in_one_term() -> None:
    judge = checker()
    judge.vote("a", 2, "b")
    judge.vote("a", 2, "b")
    judge.vote("a", 3, "c")
    assert not judge.violations
    judge.vote("a", 3, "b")
    assert list(judge.violations) == ["two-votes"]


@pytest.mark.parametrize("log", [FakeLog(1), FakeLog(1, 2)], ids=["shorter", "another entry there"])
def test_a_leader_without_what_was_applied_before(log: FakeLog) -> None:
    judge = checker()
    apply(judge, "a", 2, b"w1", term=1, node_term=1)
    judge.leads("b", 2, log)
    assert list(judge.violations) == ["leader-completeness"]


def test_a_candidate_of_an_old_term_may_win_late() -> None:
    judge = checker()
    apply(judge, "a", 2, b"w1", term=2, node_term=2)
    judge.leads("b", 1, FakeLog(1))
    assert not judge.violations


def test_logs_that_do_not_match() -> None:
    judge = checker()
    judge.entry("a", 5, 2, b"w1", 1)
    judge.entry("b", 5, 2, b"w1", None)
    assert not judge.violations
    judge.entry("c", 5, 2, b"w1", 2)
    assert list(judge.violations) == ["log-matching"]
    judge = checker()
    judge.entry("a", 5, 2, b"w1", 1)
    judge.entry("b", 5, 2, b"w2", 1)
    assert list(judge.violations) == ["log-matching"]


def test_truncation_of_what_the_leader_has_too() -> None:
    judge = checker(FakeLog(1, 1, 2))
    judge.truncates("a", 3, 1, 2)
    assert not judge.violations
    judge.truncates("a", 2, 1, 2)
    assert list(judge.violations) == ["match-truncated"]


def test_what_is_applied() -> None:
    judge = checker()
    apply(judge, "a", 1, b"w1")
    apply(judge, "b", 1, b"w1")
    assert not judge.violations
    apply(judge, "b", 1, b"w2")
    apply(judge, "a", 2, b"w1")
    judge.apply("c", 1, 1, 1, b"w1", 12345)
    judge.installed("c", 1, 12345)
    assert list(judge.violations) == ["state-machine-safety", "double-apply", "state-divergence"]


def test_what_is_refused_stays_refused() -> None:
    judge = checker()
    judge.refuse("a", b"w1")
    apply(judge, "a", 1, b"w1")
    assert list(judge.violations) == ["refused-but-applied"]


def test_reads_and_writes_in_real_time() -> None:
    judge = checker()
    apply(judge, "a", 1, b"w1")
    apply(judge, "a", 2, b"w2")
    floor = judge.floor
    judge.acknowledged("a", b"w2", 2, floor)
    judge.read("b", 1, floor)  # it began before anybody had seen 2
    assert not judge.violations
    judge.read("b", 1, judge.floor)
    judge.acknowledged("a", b"w1", 1, judge.floor)
    judge.acknowledged("a", b"w3", 3, 0)
    assert list(judge.violations) == ["stale-read", "write-order", "acknowledged-elsewhere"]


class Ear:
    """An end of the network that writes down what it hears."""

    up = True

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def connected(self, peer: str, connection: int) -> None:
        self.heard.append(("up", connection))

    def disconnected(self, peer: str, connection: int) -> None:
        self.heard.append(("down", connection))

    def receive(self, peer: str, connection: int, message: Any) -> None:
        self.heard.append((connection, message))


def network(*, old_data: bool = False) -> tuple[Timeline, Network, Ear, Ear]:
    timeline, ears = Timeline(), {"a": Ear(), "b": Ear()}
    net = Network(timeline, random.Random(1), ["a", "b"], old_data=old_data)
    net.endpoints.update(ears)
    net.redial("a")
    timeline.run_until(1.0)
    return timeline, net, ears["a"], ears["b"]


def test_messages_keep_their_order_and_are_copies() -> None:
    timeline, net, _, b = network()
    message = {"type": "x", "entries": [(b"c", 1, 1)]}
    for number in range(20):
        net.send("a", "b", 1, message | {"n": number})
    timeline.run_until(2.0)
    assert [heard[1]["n"] for heard in b.heard[1:]] == list(range(20))
    assert b.heard[1][1]["entries"] == [[b"c", 1, 1]], "as the wire gives it"


def test_a_short_cut_delays_and_a_long_one_ends_the_connection() -> None:
    timeline, net, a, b = network()
    net.cut("a", "b")
    net.send("a", "b", 1, {"type": "waits"})
    timeline.run_until(2.0)
    assert b.heard == [("up", 1)]
    net.mend("a", "b")
    timeline.run_until(2.1)
    assert b.heard[-1] == (1, {"type": "waits"})
    net.cut("a", "b")
    timeline.run_until(5.0)
    assert a.heard[-1] == ("down", 1)
    assert b.heard[-1] == ("down", 1)
    net.heal()
    timeline.run_until(6.0)
    assert a.heard[-1] == ("up", 2)


@pytest.mark.parametrize("old_data", [False, True])
def test_data_of_an_old_connection(old_data: bool) -> None:
    seen = False
    for seed in range(30):
        timeline, net, a, _ = network(old_data=old_data)
        net.rng.seed(seed)
        net.delays["b", "a"] = (0.25, 0.25)
        net.send("b", "a", 1, {"type": "late"})
        net.reset("a", "b")
        timeline.run_until(3.0)
        up = a.heard.index(("up", 2))
        seen |= (1, {"type": "late"}) in a.heard[up:]
    assert seen == old_data


def test_clocks_never_go_backwards_and_a_spin_is_noticed() -> None:
    timeline = Timeline()
    clock = NodeClock(timeline, origin_s=5.0, rate=0.95)
    looks: list[float] = []

    def look() -> None:
        looks.extend(clock.monotonic() for _ in range(100))

    for number in range(20):
        timeline.after(number * 0.0001, look)
    timeline.run_until(1.0)
    assert looks == sorted(looks)
    with pytest.raises(Hung):
        for _ in range(LOOKS_MAX + 1):
            clock.monotonic()
