"""Is there an order of these operations that explains what the clients saw? Wing & Gong's search with Lowe's memory.

Every operation takes effect at one instant between call and return; one of unknown outcome at any instant after its
call, or never. Three verdicts: `ok` (such an order was found), `violation` (there is none), `unknown` (the bound on
steps was reached). Unknown never counts as ok.

Sequential objects are given by a model: see `Model`. The search is exponential in the number of operations of unknown
outcome, so a model may say by `ceiling` how far its version may have come before an operation: orders that overshoot
are left at once.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from chaos.history import Op

STEPS_MAX = 2_000_000


class Model(Protocol):
    """A sequential object. States are hashable; equal states must be equal objects in every respect."""

    def step(self, state: Any, op: Op) -> Hashable | None:
        """The state after `op`, None if `op` can't have had its outcome in `state`."""

    def version(self, state: Any) -> int:
        """A number that no operation lowers."""

    def ceiling(self, op: Op) -> int | None:
        """The highest version at which `op`, whose outcome is known, can take effect; None if any."""


@dataclass(frozen=True)
class Verdict:
    """`order` is the explanation that was found, or the longest part of one; `stuck` are those that fit nowhere."""

    verdict: Literal["ok", "violation", "unknown"]
    steps: int
    order: tuple[Op, ...] = ()
    stuck: tuple[Op, ...] = ()

    @property
    def ok(self) -> bool:
        return self.verdict == "ok"


class _Entry:
    """A call or a return in the list of what happened."""

    __slots__ = ("index", "match", "next", "prev")

    def __init__(self, index: int) -> None:
        self.index = index
        self.match: _Entry | None = None  # of a call: its return, None when the outcome is unknown
        self.prev: _Entry | None = None
        self.next: _Entry | None = None


class _Search:
    """One run; see `check`."""

    def __init__(self, ops: Sequence[Op], model: Model, initial: Hashable, steps_max: int) -> None:
        self._ops = ops
        self._model = model
        self._steps_max = steps_max
        self._state = initial
        self._done = 0  # bit i: operation i has taken effect
        self._left = sum(1 for op in ops if op.outcome != "info")
        self._head = _linked(ops)
        self._infos = [i for i, op in sorted(enumerate(ops), key=lambda row: row[1].called) if op.outcome == "info"]
        ceilings = [(model.ceiling(op), i) for i, op in enumerate(ops) if op.outcome != "info"]
        self._ceilings = sorted((top, i) for top, i in ceilings if top is not None)
        self._lowest = 0  # position in _ceilings of the first whose operation is still to come
        self._stack: list[tuple[int, _Entry | None, Hashable, int]] = []
        self._seen: set[tuple[int, Hashable]] = set()
        self._best: list[int] = []
        self._stuck: set[int] = set()
        self._left_behind: set[int] = set()  # what the last orders overshot
        self.steps = 0

    def run(self) -> Verdict:
        entry: _Entry | None = self._head.next
        info = -1  # >= 0: position in _infos of the next one to try, after all with known outcome were tried
        while self._left:
            if self.steps > self._steps_max:
                return self._verdict("unknown")
            if info < 0:
                if entry is not None and entry.match is not None:
                    if self._take(entry.index, entry):
                        entry = self._head.next
                    else:
                        entry = entry.next
                    continue
                info = 0
            # `entry` is the first return: no later call may come before it, and its own operation has not been placed.
            now = self._horizon(entry)
            moved = False
            while info < len(self._infos):
                index = self._infos[info]
                if self._ops[index].called > now:
                    info = len(self._infos)
                    break
                info += 1
                if not self._done >> index & 1 and self._take(index, None):
                    moved = True
                    break
            if moved:
                entry, info = self._head.next, -1
                continue
            self._remember(entry)
            if not self._stack:
                return self._verdict("violation")
            entry, info = self._undo()
        return self._verdict("ok")

    def _horizon(self, entry: _Entry | None) -> float:
        """Time of the first return that is still open."""
        while entry is not None and entry.match is not None:
            entry = entry.next
        if entry is None:
            return float("inf")
        returned = self._ops[entry.index].returned
        return float("inf") if returned is None else returned

    def _take(self, index: int, entry: _Entry | None) -> bool:
        """Lets operation `index` take effect now, if it can and if that leads to a situation not seen before."""
        self.steps += 1
        after = self._model.step(self._state, self._ops[index])
        if after is None:
            return False
        done = self._done | 1 << index
        lowest = self._lowest
        while lowest < len(self._ceilings) and done >> self._ceilings[lowest][1] & 1:
            lowest += 1
        if lowest < len(self._ceilings) and self._model.version(after) > self._ceilings[lowest][0]:
            self._left_behind.add(self._ceilings[lowest][1])
            return False
        key = (done, after)
        if key in self._seen:
            return False
        self._seen.add(key)
        self._left_behind.clear()
        self._stack.append((index, entry, self._state, self._lowest))
        self._state, self._done, self._lowest = after, done, lowest
        if entry is not None:
            self._left -= 1
            _lift(entry)
        return True

    def _undo(self) -> tuple[_Entry | None, int]:
        """Takes the last choice back; returns where to go on looking."""
        index, entry, self._state, self._lowest = self._stack.pop()
        self._done &= ~(1 << index)
        if entry is not None:
            self._left += 1
            _unlift(entry)
            return entry.next, -1
        first = self._head.next
        while first is not None and first.match is not None:
            first = first.next
        return first, self._infos.index(index) + 1

    def _remember(self, entry: _Entry | None) -> None:
        if len(self._stack) >= len(self._best):
            if len(self._stack) > len(self._best):
                self._stuck.clear()
            self._best = [row[0] for row in self._stack]
            if self._left_behind:
                self._stuck |= self._left_behind
            elif entry is not None:
                self._stuck.add(entry.index)
        self._left_behind.clear()

    def _verdict(self, verdict: Literal["ok", "violation", "unknown"]) -> Verdict:
        order = [row[0] for row in self._stack] if verdict == "ok" else self._best
        stuck = () if verdict == "ok" else tuple(self._ops[i] for i in sorted(self._stuck))
        return Verdict(verdict, self.steps, tuple(self._ops[i] for i in order), stuck)


def check(ops: Sequence[Op], model: Model, initial: Hashable, *, steps_max: int = STEPS_MAX) -> Verdict:
    """Judges one object's history. Operations that failed must be among `ops` only if the model judges failures."""
    return _Search(list(ops), model, initial, steps_max).run()


def _linked(ops: Sequence[Op]) -> _Entry:
    """Calls and returns in order of time. At one instant calls come first: the two may overlap, which allows more."""
    rows: list[tuple[float, int, int, _Entry]] = []
    for index, op in enumerate(ops):
        if op.outcome == "info":
            continue
        if op.returned is None or op.returned < op.called:
            raise ValueError(f"operation {index} is {op.outcome} but never returned")
        call, back = _Entry(index), _Entry(index)
        call.match = back
        rows.append((op.called, 0, index, call))
        rows.append((op.returned, 1, index, back))
    rows.sort(key=lambda row: row[:3])
    head = _Entry(-1)
    last = head
    for *_, entry in rows:
        last.next, entry.prev, last = entry, last, entry
    return head


def _lift(call: _Entry) -> None:
    for entry in (call, call.match):
        if entry is not None and entry.prev is not None:
            entry.prev.next = entry.next
            if entry.next is not None:
                entry.next.prev = entry.prev


def _unlift(call: _Entry) -> None:
    for entry in (call.match, call):
        if entry is not None and entry.prev is not None:
            entry.prev.next = entry
            if entry.next is not None:
                entry.next.prev = entry
