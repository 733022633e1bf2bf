"""What a follower does with an append: a pure decision over its log, taken before the engine sees the message.

The engine truncates after `prevLogIdx` even when the entries match (S2), takes the commit index without comparing
logs (S1), and answers a mismatch with a hint that may never converge (S14, S16). So it gets only what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from wal.checks import FailStop


class ComparableLog(Protocol):
    """The part of the journal that is compared. `commit`: nothing up to it may be truncated."""

    commit: int

    @property
    def first_index(self) -> int: ...
    @property
    def last_index(self) -> int: ...
    def term_at(self, index: int) -> int | None: ...


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand `entries` to the engine behind `prev`. `verified`: compared, so acknowledge and commit no more."""

    prev: int
    entries: Sequence[Any]
    verified: int


@dataclass(frozen=True, slots=True)
class Reject:
    """The logs don't meet at prev: the leader is to go on at `hint`."""

    hint: int


Decision: TypeAlias = Deliver | Reject


def decide(log: ComparableLog, prev: int, prev_term: int, entries: Sequence[Any]) -> Decision:
    """Decision for an append of `entries` (command, index, term) behind (`prev`, `prev_term`).

    Raises FailStop when the leader contradicts a committed entry: one of us has lost what it promised.
    """
    first, last = log.first_index, log.last_index
    top = entries[-1][1] if entries else prev
    if prev < first:
        # What was compacted away is committed, hence the same in the leader's log.
        if top <= first:
            return Deliver(last, (), top)
        entries = entries[first - prev :]
        prev, prev_term = first, log.term_at(first) or 0
    if prev > last:
        return Reject(last + 1)
    if log.term_at(prev) != prev_term:
        if prev <= log.commit:
            raise FailStop("the leader disagrees with a committed entry", index=prev, commit=log.commit)
        return Reject(_start_of_term(log, prev))
    new = 0
    while new < len(entries) and entries[new][1] <= last and log.term_at(entries[new][1]) == entries[new][2]:
        new += 1
    if new == len(entries):
        return Deliver(last, (), top)  # all known: nothing may be truncated
    if entries[new][1] <= log.commit:
        raise FailStop("the leader overwrites a committed entry", index=entries[new][1], commit=log.commit)
    return Deliver(entries[new][1] - 1, entries[new:] if new else entries, top)


def _start_of_term(log: ComparableLog, index: int) -> int:
    """Back up a whole term at a time, but never behind what is committed."""
    term = log.term_at(index)
    while index - 1 > max(log.commit, log.first_index) and log.term_at(index - 1) == term:
        index -= 1
    return index
