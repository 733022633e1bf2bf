"""The verdict on a run: what the clients saw against the model, and the nodes against each other.

Every judgement is a `Finding`; a run holds only when all of them do. What could not be found out does not hold.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from chaos.door import Door, Reply
from chaos.history import History, Op
from chaos.model import check_space, decode, length_of
from chaos.workload import SpaceSeen

SETTLE_S = 20.0
SEARCH_STEPS_MAX = 1_000_000


@dataclass(frozen=True)
class Finding:
    """`detail` is for people: counts when it holds, the evidence when it does not."""

    name: str
    holds: bool
    detail: str


@dataclass
class Evidence:
    """What is asked from the nodes once, after the heal, and used by several judgements."""

    committed: dict[str, dict[str, list[int]]] = field(default_factory=dict)  # space -> tx_id -> LVCs
    complete: dict[str, bool] = field(default_factory=dict)  # space -> whether the log of before-images reaches back


class Judge:
    """Asks the healed cluster and judges. `spaces` and `history` are the workload's."""

    def __init__(self, door: Door, history: History, spaces: Iterable[SpaceSeen]) -> None:
        self._door = door
        self._history = history
        self._spaces = list(spaces)
        self._nodes = list(door.urls)

    async def findings(self) -> list[Finding]:
        """All judgements, in an order in which the first that fails says the most."""
        evidence = await self._gather()
        return [
            self._linearizable(evidence),
            self._acknowledged(evidence),
            self._exactly_once(evidence),
            await self._equal_nodes(),
            await self._unchanged_snapshots(),
        ]

    # ------------------------------------------------------------------ histories

    async def _gather(self) -> Evidence:
        evidence = Evidence()
        for space in self._spaces:
            rows, complete = await self._log_of(space)
            by_tx: dict[str, list[int]] = defaultdict(list)
            for row in rows:
                if row.get("tx_id") and row["lvc"] not in by_tx[row["tx_id"]]:
                    by_tx[row["tx_id"]].append(row["lvc"])
            evidence.committed[space.name] = dict(by_tx)
            evidence.complete[space.name] = complete
        return evidence

    async def _log_of(self, space: SpaceSeen) -> tuple[list[dict[str, Any]], bool]:
        """Every record of before-images that is kept, oldest first, and whether none has been dropped."""
        rows: list[dict[str, Any]] = []
        start = 0
        while True:
            params = {"from_seq": str(start), "limit": "1000"}
            reply = await self._ask(f"/v1/spaces/{space.name}/wal", params)
            if reply.outcome != "ok" or not isinstance(reply.body, list):
                return rows, False
            if not reply.body:
                return rows, not rows or rows[0]["log_seq"] == 1
            rows += reply.body
            start = rows[-1]["log_seq"] + 1

    def _linearizable(self, evidence: Evidence) -> Finding:
        steps = 0
        for space in self._spaces:
            hint = {tx_id: lvcs[0] for tx_id, lvcs in evidence.committed[space.name].items()}
            found = check_space(
                self._history.of(space.name),
                values=space.start_values,
                lvc=space.start_lvc,
                epoch=space.start_epoch,
                committed=hint if evidence.complete[space.name] else None,
                steps_max=SEARCH_STEPS_MAX,
            )
            steps += found.steps
            if not found.ok:
                text = "; ".join(_tell(op) for op in found.stuck[:3]) or "no operation stands out"
                before = "; ".join(_tell(op) for op in found.order[-3:])
                return Finding("linearizable", False, f"{found.verdict} in {space.name}: {text} (after {before})")
        ops = len(self._history.ops)
        return Finding("linearizable", True, f"{ops} operations on {len(self._spaces)} spaces, {steps} steps")

    def _acknowledged(self, evidence: Evidence) -> Finding:
        """Every acknowledged write is in the log of before-images at the LVC that its client was told."""
        count = 0
        for op in self._writes("ok"):
            lvcs = evidence.committed[op.space].get(op.args["tx_id"])
            if lvcs is None and not evidence.complete[op.space]:
                continue
            count += 1
            if lvcs is None or op.result["lvc"] not in lvcs:
                return Finding("acknowledged writes are there", False, f"{_tell(op)} is in the log at {lvcs}")
        return Finding("acknowledged writes are there", True, f"{count} of {count}")

    def _exactly_once(self, evidence: Evidence) -> Finding:
        """No transaction is in the log twice, none that was refused is in it at all."""
        refused = {op.args["tx_id"]: op for op in self._writes("fail")}
        for space in self._spaces:
            for tx_id, lvcs in evidence.committed[space.name].items():
                if len(lvcs) > 1:
                    return Finding("exactly once", False, f"{tx_id} in {space.name} was applied at {lvcs}")
                if tx_id in refused:
                    return Finding("exactly once", False, f"{_tell(refused[tx_id])}, but it was applied at {lvcs}")
        retried = sum(1 for op in self._history.ops if op.attempts > 1 and op.outcome != "info")
        return Finding("exactly once", True, f"{retried} settled after more than one attempt")

    def _writes(self, outcome: str) -> list[Op]:
        return [op for op in self._history.ops if op.kind == "write" and op.outcome == outcome]

    # ------------------------------------------------------------------ nodes

    async def _equal_nodes(self) -> Finding:
        """A fresh snapshot of each space has one root on every node, and so do the bytes, live and of the snapshot."""
        name = "nodes are equal"
        total = 0
        for space in self._spaces:
            base = f"/v1/spaces/{space.name}"
            made = await self._ask_post(f"{base}/snapshots", {"kind": "full"})
            if made.outcome != "ok":
                return Finding(name, False, f"no snapshot of {space.name}: {made.status} {made.code}")
            number = made.body["id"]
            seen: dict[tuple[str, str, str], list[str]] = defaultdict(list)
            paths = (f"{base}/snapshots/{number}", f"{base}/snapshots/{number}/data", f"{base}/data")
            # A node that knows the snapshot has applied all that came before it; one that installs may be far behind.
            await asyncio.gather(*(self._on(node, paths[0]) for node in self._nodes))
            replies = await asyncio.gather(*(self._on(node, path) for node in self._nodes for path in paths))
            for node, position in zip(self._nodes, range(0, len(replies), len(paths)), strict=True):
                shown, frozen, live = replies[position : position + len(paths)]
                failed = next((reply for reply in (shown, frozen, live) if reply.outcome != "ok"), None)
                if failed is not None:
                    return Finding(name, False, f"{node} answered {failed.status} {failed.code} about {space.name}")
                total += len(live.raw)
                seen[(str(shown.body["root"]), _digest(frozen.raw), _digest(live.raw))].append(node)
            if len(seen) > 1:
                return Finding(name, False, f"{space.name}: root, snapshot, live differ: {dict(seen)}")
            (root, frozen_digest, live_digest) = next(iter(seen))
            if frozen_digest != live_digest or not root or root == "None":
                return Finding(name, False, f"{space.name}: its newest snapshot (root {root}) is not its live state")
        return Finding(name, True, f"{len(self._spaces)} roots on {len(self._nodes)} nodes, {total:,} bytes compared")

    async def _unchanged_snapshots(self) -> Finding:
        """Snapshots that still live show on every node what the model says they hold, under the root given then."""
        name = "snapshots are unchanged"
        count = 0
        for space in self._spaces:
            first: dict[int, tuple[int, ...]] = {}
            for op in self._history.of(space.name):
                if op.kind == "snapshot" and op.outcome == "ok":
                    looks = await asyncio.gather(*(self._look(node, space, op) for node in self._nodes))
                    for node, (problem, values) in zip(self._nodes, looks, strict=True):
                        if problem:
                            return Finding(name, False, problem)
                        if values is None:
                            continue
                        count += 1
                        number = op.result["id"]
                        if first.setdefault(number, values) != values:
                            return Finding(
                                name, False, f"{space.name}@{number} on {node}: {values}, not {first[number]}"
                            )
            for op in self._history.of(space.name):
                if op.kind == "snapread" and first.get(op.args["id"], op.result["values"]) != op.result["values"]:
                    return Finding(name, False, f"{_tell(op)} then, {first[op.args['id']]} now")
        return Finding(name, True, f"{count} looked at again")

    async def _look(self, node: str, space: SpaceSeen, op: Op) -> tuple[str, tuple[int, ...] | None]:
        """(what is wrong or "", the values or None when the snapshot has ended its life)."""
        number = op.result["id"]
        path = f"/v1/spaces/{space.name}/snapshots/{number}"
        shown = await self._on(node, path)
        if shown.status == 404:
            return (f"{space.name}@{number} was pinned and is gone on {node}" if op.args.get("pin") else ""), None
        frozen = await self._on(node, f"{path}/data", {"offset": "0", "length": str(length_of(space.registers))})
        if shown.outcome != "ok" or frozen.outcome != "ok":
            bad = shown if shown.outcome != "ok" else frozen
            return f"{space.name}@{number} on {node}: {bad.status} {bad.code}", None
        if shown.body["root"] != op.result["root"] or shown.body["lvc"] != op.result["lvc"]:
            return f"{space.name}@{number} on {node}: root {shown.body['root']}, was {op.result['root']}", None
        return "", decode(frozen.raw, space.registers)

    # ------------------------------------------------------------------ asking

    async def _on(self, node: str, path: str, params: Mapping[str, str] | None = None) -> Reply:
        """A stale read from exactly this node, tried again while the node catches its breath after the faults."""
        params = {**(params or {}), "consistency": "stale"}
        return await self._patiently(lambda: self._door.get(node, path, params=params, timeout_s=5))

    async def _ask(self, path: str, params: Mapping[str, str]) -> Reply:
        return await self._patiently(lambda: self._door.get(self._nodes[0], path, params=params, timeout_s=5))

    async def _ask_post(self, path: str, body: Any) -> Reply:
        return await self._patiently(lambda: self._door.post(self._nodes[0], path, body, timeout_s=5))

    @staticmethod
    async def _patiently(attempt: Any) -> Reply:
        started = time.monotonic()
        while True:
            reply: Reply = await attempt()
            if reply.outcome == "ok" or not reply.retryable or time.monotonic() - started > SETTLE_S:
                return reply
            await asyncio.sleep(0.1)


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()[:16]


def _tell(op: Op) -> str:
    span = f"{op.called:.3f}-{op.returned:.3f}" if op.returned is not None else f"{op.called:.3f}-?"
    return f"{op.kind} {op.args} by {op.process} at {op.node} in {span}: {op.outcome} {op.result}"
