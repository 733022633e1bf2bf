"""What one space is to a client: registers, an LVC, an epoch, snapshots, rollbacks. The sequential truth.

A register is a run of bytes that crosses a page boundary and repeats one number, so that a torn write shows. A state is
(moment, epoch, catalogue): `moment` stands for the whole past of (LVC, registers) because a rollback may go to any LVC,
`catalogue` for the snapshots. Both are interned, so that states are three small numbers.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from chaos.checker import STEPS_MAX, Verdict, check
from chaos.history import Op

PAGE = 4096
COPIES = 40
SPAN = COPIES * 8
FIRST = PAGE - SPAN // 2  # half of a register lies on the next page
TORN = -1


def offset_of(register: int) -> int:
    return register * PAGE + FIRST


def length_of(registers: int) -> int:
    """Bytes to read so that all registers are in."""
    return offset_of(registers - 1) + SPAN


def encode(value: int) -> bytes:
    return value.to_bytes(8, "big") * COPIES


def decode(page_bytes: bytes, registers: int) -> tuple[int, ...]:
    """Values of all registers; never-written bytes are 0; `TORN` where the copies differ."""
    raw = page_bytes.ljust(length_of(registers), b"\0")
    values = []
    for register in range(registers):
        start = offset_of(register)
        span = raw[start : start + SPAN]
        values.append(int.from_bytes(span[:8], "big") if span == span[:8] * COPIES else TORN)
    return tuple(values)


class State(NamedTuple):
    moment: int
    epoch: int
    catalogue: int


class SpaceModel:
    """Model of one space for `chaos.checker.check`. One object a search: it interns."""

    def __init__(self) -> None:
        self._moments: list[tuple[int, int, tuple[int, ...]]] = []  # (moment before, lvc, values)
        self._catalogues: list[tuple[int, int, int, tuple[int, ...]]] = [(-1, -1, -1, ())]  # (rest, id, lvc, values)
        self._ids: dict[Hashable, int] = {}

    def start(self, *, values: tuple[int, ...], lvc: int, epoch: int) -> State:
        return State(self._moment(-1, lvc, values), epoch, 0)

    # ------------------------------------------------------------------ for the checker

    def version(self, state: State) -> int:
        return self._moments[state.moment][1]

    def ceiling(self, op: Op) -> int | None:
        if op.outcome != "ok" or "lvc" not in op.result:
            return None
        lvc = int(op.result["lvc"])
        return lvc - 1 if op.kind in ("write", "rollback") else lvc

    def step(self, state: State, op: Op) -> State | None:
        if op.kind == "write":
            return self._write(state, op)
        if op.kind == "rollback":
            return self._rollback(state, op)
        if op.outcome != "ok":
            return None
        _, lvc, values = self._moments[state.moment]
        if op.kind == "read":
            seen = (tuple(op.result["values"]), op.result["lvc"], op.result["epoch"])
            return state if seen == (values, lvc, state.epoch) else None
        if op.kind == "snapshot":
            return self._snapshot(state, op)
        found = self._find(state.catalogue, op.args["id"])
        return state if found is not None and found[1] == tuple(op.result["values"]) else None

    # ------------------------------------------------------------------ operations

    def _write(self, state: State, op: Op) -> State | None:
        _, lvc, values = self._moments[state.moment]
        if not self._admitted(state, op):
            return state if op.outcome == "fail" else None
        if op.outcome == "fail":
            return None
        if op.result.get("lvc", lvc + 1) != lvc + 1 or op.result.get("epoch", state.epoch) != state.epoch:
            return None
        after = list(values)
        for register, value in op.args["values"].items():
            after[int(register)] = value
        return State(self._moment(state.moment, lvc + 1, tuple(after)), state.epoch, state.catalogue)

    def _admitted(self, state: State, op: Op) -> bool:
        """Whether the conditions hold; for a failure, whether they hold that would have failed with another code."""
        stale = op.args.get("epoch") is not None and op.args["epoch"] != state.epoch
        moved = op.args.get("if_lvc") is not None and op.args["if_lvc"] != self._moments[state.moment][1]
        if op.outcome == "fail":
            code = op.result.get("code")
            return not (stale if code == "stale_epoch" else moved and not stale)
        return not (stale or moved)

    def _snapshot(self, state: State, op: Op) -> State | None:
        _, lvc, values = self._moments[state.moment]
        if op.result["lvc"] != lvc or op.result["epoch"] != state.epoch:
            return None
        if self._find(state.catalogue, op.result["id"]) is not None:
            return None
        row = (state.catalogue, op.result["id"], lvc, values)
        return State(state.moment, state.epoch, self._intern(self._catalogues, row))

    def _rollback(self, state: State, op: Op) -> State | None:
        _, lvc, _ = self._moments[state.moment]
        if not self._admitted(state, op):
            return state if op.outcome == "fail" else None
        if op.outcome == "fail":
            return None
        to = self._find(state.catalogue, op.args["to"]) if "to" in op.args else self._at(state.moment, op.args["lvc"])
        if to is None:
            return None
        expected = {"lvc": lvc + 1, "epoch": state.epoch + 1, "from_lvc": lvc, "to_lvc": to[0]}
        if op.outcome == "ok" and any(op.result[name] != value for name, value in expected.items()):
            return None
        return State(self._moment(state.moment, lvc + 1, to[1]), state.epoch + 1, state.catalogue)

    # ------------------------------------------------------------------ the past

    def _moment(self, before: int, lvc: int, values: tuple[int, ...]) -> int:
        return self._intern(self._moments, (before, lvc, values))

    def _intern(self, rows: list[Any], row: tuple[Any, ...]) -> int:
        key = (id(rows), row)
        if key not in self._ids:
            rows.append(row)
            self._ids[key] = len(rows) - 1
        return self._ids[key]

    def _at(self, moment: int, lvc: int) -> tuple[int, tuple[int, ...]] | None:
        while moment >= 0:
            before, at, values = self._moments[moment]
            if at == lvc:
                return at, values
            moment = before
        return None

    def _find(self, catalogue: int, snapshot: int) -> tuple[int, tuple[int, ...]] | None:
        while catalogue > 0:
            rest, found, lvc, values = self._catalogues[catalogue]
            if found == snapshot:
                return lvc, values
            catalogue = rest
        return None


JUDGED_FAILURES = frozenset({"conflict", "stale_epoch"})


def judged(ops: Iterable[Op]) -> list[Op]:
    """The operations that an order must explain: known outcomes that say something about the state, unknown changes.

    Reads and snapshots of unknown outcome, and refusals for other reasons, had no effect that anyone can see.
    """
    return [
        op
        for op in ops
        if op.outcome == "ok"
        or (op.outcome == "fail" and op.result.get("code") in JUDGED_FAILURES)
        or (op.outcome == "info" and op.kind in ("write", "rollback"))
    ]


def check_space(
    ops: Iterable[Op],
    *,
    values: tuple[int, ...],
    lvc: int,
    epoch: int,
    committed: Mapping[str, int] | None = None,
    steps_max: int = STEPS_MAX,
) -> Verdict:
    """Judges the history of one space that began with `values` at `lvc` and `epoch`.

    `committed` maps tx_id to LVC for every transaction that the node's own log of before-images names. It is a hint:
    an order in which exactly those unknown writes took effect is a proof; if there is none, all is open again.
    """
    every = judged(ops)
    if committed is not None:
        hinted = [_with_hint(op, committed) for op in every if op.outcome != "info" or _in(op, committed)]
        model = SpaceModel()
        found = check(hinted, model, model.start(values=values, lvc=lvc, epoch=epoch), steps_max=steps_max)
        if found.ok:
            return found
    model = SpaceModel()
    return check(every, model, model.start(values=values, lvc=lvc, epoch=epoch), steps_max=steps_max)


def _in(op: Op, committed: Mapping[str, int]) -> bool:
    return op.kind == "rollback" or op.args.get("tx_id") in committed


def _with_hint(op: Op, committed: Mapping[str, int]) -> Op:
    if op.outcome != "info" or op.kind != "write":
        return op
    return replace(op, result={"lvc": committed[op.args["tx_id"]]})
