"""Clients that write unique values, write under conditions, read, snapshot and roll back, and write down what they saw.

Each client has a home node and tries others only when it gets no answer, so that a node that is cut off, paused or
deposed keeps being asked: that is where stale reads show. Half of the changes are repeated under one Idempotency-Key
until somebody knows the outcome.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from chaos.door import Door, Reply
from chaos.history import History, Op
from chaos.model import PAGE, decode, encode, length_of, offset_of

MIX = (("write", 46), ("read", 34), ("snapshot", 6), ("snapread", 8), ("rollback", 6))
ATTEMPTS_MAX = 8


@dataclass(slots=True)
class SpaceSeen:
    """What the clients know of one space; a guess that others outdate."""

    name: str
    registers: int
    start_values: tuple[int, ...] = ()
    start_lvc: int = 0
    start_epoch: int = 0
    lvc: int = 0
    epoch: int = 0
    snapshots: deque[int] = field(default_factory=lambda: deque(maxlen=8))
    pinned: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Shape:
    """How much is done. Times in seconds."""

    clients: int = 20
    readers: int = 1  # clients a node that only read, from that node and no other
    spaces: int = 10
    registers: int = 4
    think_s: float = 0.03
    op_deadline_s: float = 4.0
    hot: float = 0.5  # share of operations that go to the first two spaces
    keyed: float = 0.5  # share of changes that are repeated under one Idempotency-Key until their outcome is known
    pad_bytes: int = 0  # more bytes a write, so that logs grow
    big_bytes: int = 0  # the same for one write in a hundred, so large that it travels in parts


class Workload:
    """`prepare`, then `run` until told to stop; `history` and `spaces` are for the judges."""

    def __init__(
        self,
        door: Door,
        *,
        seed: int,
        shape: Shape | None = None,
        prefix: str = "chaos",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.history = History()
        self.shape = shape or Shape()
        self.spaces = [SpaceSeen(f"{prefix}-{n}", self.shape.registers) for n in range(self.shape.spaces)]
        self._door = door
        self._seed = seed
        self._clock = clock
        self._nodes = list(door.urls)
        self._processes = 0
        self._values = 0
        self._keys = 0
        self._stopping = False
        self.acknowledged_at = clock()  # of the newest acknowledged write

    async def prepare(self) -> None:
        """Makes the spaces and reads what they start from. Raises RuntimeError when a healthy cluster refuses that."""
        for space in self.spaces:
            await self._must(lambda node, name=space.name: self._door.put(node, f"/v1/spaces/{name}", {}))
            seen = await self._must(lambda node, space=space: self._read_bytes(node, space))
            space.start_values = decode(seen.raw, space.registers)
            space.start_lvc = space.lvc = seen.header_int("X-Lastgood-LVC")
            space.start_epoch = space.epoch = seen.header_int("X-Lastgood-Epoch")

    async def run(self) -> None:
        """All clients until `stop`, each finishing the operation that it is in."""
        self._stopping = False
        readers = [self._reader(node, n) for node in self._nodes for n in range(self.shape.readers)]
        await asyncio.gather(*(self._client(n) for n in range(self.shape.clients)), *readers)

    def stop(self) -> None:
        self._stopping = True

    async def read_everywhere(self, *, within_s: float) -> list[str]:
        """One linearizable read of every space through every node, as part of the history; patient with nodes that
        still install. Returns the ids of nodes that did not answer all of them in time."""
        deadline = self._clock() + within_s
        silent = []
        for node in self._nodes:
            for space in self.spaces:
                while (seen := await self._read(self._process(), node, space)) is None and self._clock() < deadline:
                    await asyncio.sleep(0.05)
                if seen is None:
                    silent.append(node)
                    break
        return silent

    # ------------------------------------------------------------------ clients

    async def _client(self, number: int) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        process, home = self._process(), self._nodes[number % len(self._nodes)]
        kinds, weights = zip(*MIX, strict=True)
        while not self._stopping:
            await asyncio.sleep(rng.random() * 2 * self.shape.think_s)
            space = rng.choice(self.spaces[:2] if rng.random() < self.shape.hot else self.spaces)
            kind = rng.choices(kinds, weights)[0]
            if kind == "read":
                op = await self._read(process, home, space)
            elif kind == "snapread":
                op = await self._snapread(process, rng.choice(self._nodes), space, rng)
            else:
                op = await self._change(process, home, space, kind, rng)
            if op is not None and op.outcome == "info":
                process = self._process()

    async def _reader(self, node: str, number: int) -> None:
        """Reads from one node all the time. Clients that write are soon stuck at a leader that is cut off; these are
        not, and they are who sees it serve reads that it may no longer serve."""
        rng = random.Random(f"{self._seed}/reader/{node}/{number}")
        process = self._process()
        while not self._stopping:
            await asyncio.sleep(rng.random() * self.shape.think_s)
            await self._read(process, node, rng.choice(self.spaces[:2]), timeout_s=0.25)

    async def _read(self, process: int, node: str, space: SpaceSeen, timeout_s: float | None = None) -> Op | None:
        called = self._clock()
        reply = await self._read_bytes(node, space, timeout_s)
        if reply.outcome != "ok":
            return None
        lvc, epoch = reply.header_int("X-Lastgood-LVC"), reply.header_int("X-Lastgood-Epoch")
        space.lvc, space.epoch = lvc, epoch
        result = {"values": decode(reply.raw, space.registers), "lvc": lvc, "epoch": epoch}
        return self.history.add(Op(process, "read", space.name, {}, called, self._clock(), "ok", result, node))

    async def _snapread(self, process: int, node: str, space: SpaceSeen, rng: random.Random) -> Op | None:
        if not space.snapshots:
            return None
        number, called = rng.choice(space.snapshots), self._clock()
        reply = await self._door.get(
            node,
            f"/v1/spaces/{space.name}/snapshots/{number}/data",
            params={"offset": "0", "length": str(length_of(space.registers)), "consistency": "stale"},
        )
        if reply.outcome != "ok":
            return None
        result = {"values": decode(reply.raw, space.registers)}
        op = Op(process, "snapread", space.name, {"id": number}, called, self._clock(), "ok", result, node)
        return self.history.add(op)

    async def _change(self, process: int, home: str, space: SpaceSeen, kind: str, rng: random.Random) -> Op | None:
        args, path, body = getattr(self, f"_{kind}_request")(space, rng)
        if not path:
            return None
        self._keys += 1
        key = f"{self._seed}-{self._keys}" if rng.random() < self.shape.keyed else None
        op = self.history.add(Op(process, kind, space.name, args, self._clock(), node=home))
        reply = await self._until_known(op, home, f"/v1/spaces/{space.name}/{path}", body, key, rng)
        if reply.outcome == "unknown":
            op.result = {"why": reply.code}
            return op
        op.returned = self._clock()
        if reply.outcome == "refused":
            op.outcome, op.result = "fail", {"code": reply.code}
            return op
        op.outcome = "ok"
        self._note(op, space, reply)
        return op

    async def _until_known(
        self, op: Op, home: str, path: str, body: dict[str, Any], key: str | None, rng: random.Random
    ) -> Reply:
        """Attempts until the outcome is known or the time is over. Without a key, the first unknown one is the last."""
        node, deadline, doubt = home, op.called + self.shape.op_deadline_s, None
        for attempt in range(1, ATTEMPTS_MAX + 1):
            op.attempts = attempt
            reply = await self._door.post(node, path, body, key=key)
            if reply.outcome == "unknown":
                doubt = reply
            # A key makes the log's first decision come back; an answer that the log did not decide leaves the doubt.
            if reply.outcome == "ok" or not reply.retryable:
                return reply
            if self._clock() > deadline or self._stopping or (doubt is not None and key is None):
                break
            await asyncio.sleep(rng.random() * 0.1)
            node = rng.choice(self._nodes)
        return doubt or reply

    # ------------------------------------------------------------------ requests

    def _write_request(self, space: SpaceSeen, rng: random.Random) -> tuple[dict[str, Any], str, dict[str, Any]]:
        values = {}
        for register in rng.sample(range(space.registers), 2 if rng.random() < 0.25 else 1):
            self._values += 1
            values[register] = self._values
        tx_id = f"c{self._seed}-{self._values}"
        args: dict[str, Any] = {"values": values, "tx_id": tx_id}
        rows = [(offset_of(register), encode(value)) for register, value in values.items()]
        big = self.shape.big_bytes if rng.random() < 0.01 else 0
        if big or self.shape.pad_bytes:
            rows.append((PAGE * 64, rng.randbytes(big or self.shape.pad_bytes)))
        writes = [{"offset": offset, "data": raw} for offset, raw in rows]
        body: dict[str, Any] = {"writes": writes, "tx_id": tx_id}
        condition = {}
        if rng.random() < 0.3:
            args["if_lvc"] = condition["lvc"] = space.lvc
        if rng.random() < 0.3:
            args["epoch"] = condition["epoch"] = space.epoch
        if condition:
            body["if"] = condition
        return args, "tx", body

    def _snapshot_request(self, space: SpaceSeen, rng: random.Random) -> tuple[dict[str, Any], str, dict[str, Any]]:
        pin = len(space.pinned) < 3
        kind = rng.choice(("auto", "incremental", "full"))
        return {"pin": pin}, "snapshots", {"kind": kind, "pin": pin, "label": f"chaos-{self._seed}"}

    def _rollback_request(self, space: SpaceSeen, rng: random.Random) -> tuple[dict[str, Any], str, dict[str, Any]]:
        args: dict[str, Any]
        if space.snapshots and rng.random() < 0.6:
            args = {"to": rng.choice(space.snapshots)}
        elif space.lvc > space.start_lvc:
            args = {"lvc": rng.randint(max(space.start_lvc, space.lvc - 10), space.lvc)}
        else:
            return {}, "", {}
        body: dict[str, Any] = dict(args)
        if rng.random() < 0.3:
            args["epoch"] = space.epoch
            body["if"] = {"epoch": space.epoch}
        return args, "rollback", body

    # ------------------------------------------------------------------ small things

    def _note(self, op: Op, space: SpaceSeen, reply: Reply) -> None:
        names = {
            "write": ("lvc", "epoch"),
            "snapshot": ("id", "lvc", "epoch", "root"),
            "rollback": ("lvc", "epoch", "from_lvc", "to_lvc"),
        }[op.kind]
        op.result = {name: reply.body[name] for name in names}
        space.lvc, space.epoch = op.result["lvc"], op.result["epoch"]
        if op.kind == "snapshot":
            space.snapshots.append(op.result["id"])
            if op.args["pin"]:
                space.pinned.append(op.result["id"])
        elif op.kind == "write" and op.returned is not None:
            self.acknowledged_at = op.returned

    def _process(self) -> int:
        self._processes += 1
        return self._processes

    async def _read_bytes(self, node: str, space: SpaceSeen, timeout_s: float | None = None) -> Reply:
        params = {"offset": "0", "length": str(length_of(space.registers))}
        return await self._door.get(node, f"/v1/spaces/{space.name}/data", params=params, timeout_s=timeout_s)

    async def _must(self, attempt: Callable[[str], Any]) -> Reply:
        reply = Reply("unknown")
        for number in range(50):
            reply = await attempt(self._nodes[number % len(self._nodes)])
            if reply.outcome == "ok":
                return reply
            if not reply.retryable:
                break
            await asyncio.sleep(0.1)
        raise RuntimeError(f"a healthy cluster answered {reply.status} {reply.code} {reply.body}")
