"""The follower's decision against a naive twin: whatever comes, the log ends as the paper says."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.consensus.normaliser import Deliver, Reject, decide
from wal.checks import FailStop


class Log:
    """Terms of entries from `first` on; everything up to `commit` is committed."""

    def __init__(self, terms: list[int], first: int, commit: int) -> None:
        self.terms, self.first_index, self.commit = terms, first, commit

    @property
    def last_index(self) -> int:
        return self.first_index + len(self.terms) - 1

    def term_at(self, index: int) -> int | None:
        return self.terms[index - self.first_index] if self.first_index <= index <= self.last_index else None


def paper(terms: list[int], prev: int, prev_term: int, entries: list[tuple[bytes, int, int]]) -> list[int] | None:
    """AppendEntries of the paper over a log that begins at 1: terms afterwards, None for a rejection."""
    if prev > len(terms) or (prev > 0 and terms[prev - 1] != prev_term):
        return None
    terms = list(terms)
    for _, index, term in entries:
        if index <= len(terms) and terms[index - 1] != term:
            del terms[index - 1 :]
        if index > len(terms):
            terms.append(term)
    return terms


def engine(terms: list[int], prev: int, entries: Any) -> list[int]:
    """What the engine does with a delivered append: cut behind prev, add."""
    return terms[:prev] + [term for _, _, term in entries]


@given(
    shared=st.lists(st.integers(1, 2), min_size=1, max_size=8).map(sorted),
    ours=st.lists(st.integers(3, 4), max_size=5).map(sorted),
    theirs=st.lists(st.integers(5, 6), max_size=8).map(sorted),
    numbers=st.tuples(st.integers(0, 100), st.integers(0, 100), st.integers(0, 100)),
)
@settings(max_examples=500, deadline=None)
def test_the_log_ends_as_in_the_paper(
    shared: list[int], ours: list[int], theirs: list[int], numbers: tuple[int, int, int]
) -> None:
    follower, leader = shared + ours, shared + theirs
    commit = 1 + numbers[0] % len(shared)
    first = 1 + numbers[1] % commit
    prev = 1 + numbers[2] % len(leader)
    count = (numbers[0] + numbers[1]) % (len(leader) - prev + 1)
    entries = [(b"", index, leader[index - 1]) for index in range(prev + 1, prev + 1 + count)]
    found = decide(Log(follower[first - 1 :], first, commit), prev, leader[prev - 1], entries)
    wanted = paper(follower, prev, leader[prev - 1], entries)
    if isinstance(found, Reject):
        assert wanted is None and commit <= found.hint <= max(prev, len(follower) + 1)
        return
    assert wanted is not None
    after = engine(follower, found.prev, found.entries) if found.entries else follower
    assert after == wanted
    assert found.verified == prev + count and after[: found.verified] == leader[: found.verified]


def test_backing_up_ends_where_the_logs_meet() -> None:
    follower, leader = [1, 1, 1, 2, 2, 2, 2, 3, 3], [1, 1, 1, 4, 4, 4, 4, 4, 4, 4]
    log, prev, probes = Log(follower, 1, 2), len(leader), 0
    while isinstance(found := decide(log, prev, leader[prev - 1], []), Reject):
        prev, probes = found.hint - 1, probes + 1
    assert isinstance(found, Deliver) and prev == 3 and probes <= 3


@pytest.mark.parametrize(("prev", "prev_term", "entries"), [(3, 9, []), (2, 1, [(b"", 3, 9)])])
def test_a_leader_that_contradicts_what_is_committed_stops_the_node(prev: int, prev_term: int, entries: Any) -> None:
    with pytest.raises(FailStop, match="committed"):
        decide(Log([1, 1, 1, 1], 1, 3), prev, prev_term, entries)
