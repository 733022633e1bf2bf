"""What clients did and saw: the only evidence that the checkers judge by.

All times come from one monotonic clock of one process. Three outcomes: `ok`; `fail`, which says that nothing happened;
and `info`, where nobody knows. After an `info` the process id is never used again, because its operation may take
effect at any later time.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

Outcome = Literal["ok", "fail", "info"]
Kind = Literal["write", "read", "snapshot", "snapread", "rollback"]


@dataclass(slots=True)
class Op:
    """One operation on one space.

    `args`: write {values: {register: value}, if_lvc?, epoch?, tx_id}, snapread {id}, rollback {to | lvc, epoch?}.
    `result` when ok: write {lvc, epoch}, read {values, lvc, epoch}, snapshot {id, lvc, epoch, root}, snapread {values},
    rollback {lvc, epoch, from_lvc, to_lvc}; when fail: {code}; when info: {why}.
    """

    process: int
    kind: Kind
    space: str
    args: dict[str, Any]
    called: float
    returned: float | None = None
    outcome: Outcome = "info"
    result: dict[str, Any] = field(default_factory=dict)
    node: str = ""
    attempts: int = 1


class History:
    """Grows while the workload runs."""

    def __init__(self) -> None:
        self.ops: list[Op] = []

    def add(self, op: Op) -> Op:
        self.ops.append(op)
        return op

    def spaces(self) -> list[str]:
        return sorted({op.space for op in self.ops})

    def of(self, space: str) -> list[Op]:
        return [op for op in self.ops if op.space == space]

    def count(self, outcome: Outcome, kinds: Iterable[str] | None = None) -> int:
        wanted = None if kinds is None else set(kinds)
        return sum(1 for op in self.ops if op.outcome == outcome and (wanted is None or op.kind in wanted))

    def longest_gap(self, start: float, stop: float) -> float:
        """Seconds of the longest stretch between `start` and `stop` in which no write was acknowledged."""
        times = sorted(
            op.returned
            for op in self.ops
            if op.outcome == "ok" and op.kind == "write" and op.returned is not None and start <= op.returned <= stop
        )
        edges = [start, *times, stop]
        return max((b - a for a, b in itertools.pairwise(edges)), default=0.0)

    def save(self, path: Path) -> None:
        """One JSON object a line, in order of call."""
        with open(path, "w", encoding="utf-8") as file:
            for op in sorted(self.ops, key=lambda op: op.called):
                file.write(json.dumps(asdict(op), sort_keys=True) + "\n")
