"""The unmodified library with a hand-driven clock: what the findings are shown against."""

from __future__ import annotations

import itertools
from typing import Any

import pysyncobj.journal
import pysyncobj.pickle
from pysyncobj.config import SyncObjConf
from pysyncobj.node import Node
from pysyncobj.transport import Transport

from cluster.consensus import guard

B, C = Node("b"), Node("c")
NO_OP = b"\x01"


class Clock:
    """Each look at it costs half a millisecond, as work would."""

    def __init__(self) -> None:
        self.now = 10.0

    def __call__(self) -> float:
        self.now += 0.0005
        return self.now


class Outbox(Transport):
    def __init__(self) -> None:
        super().__init__(None, None, None)
        self.sent: list[tuple[str, dict[str, Any]]] = []

    def send(self, node: Node, message: dict[str, Any]) -> bool:
        self.sent.append((node.id, message))
        return True

    def take(self, kind: str, to: str | None = None) -> list[dict[str, Any]]:
        """Messages of this type since the last time."""
        sent, self.sent = self.sent, []
        return [message for node, message in sent if message["type"] == kind and to in (None, node)]


class Bare:
    """One SyncObj named `me`; its state is a list, its commands are `put(x)` and `boom(x)`, which raises."""

    def __init__(self, me: str = "a", others: tuple[str, ...] = ("b", "c"), **conf: Any) -> None:
        self.clock = Clock()
        module = guard.load_engine(now=self.clock, random=itertools.cycle([0.1, 0.7]).__next__, journal=None)
        module.pickle, module.createJournal = pysyncobj.pickle, pysyncobj.journal.createJournal
        self.box = Outbox()
        conf = {"appendEntriesUseBatch": False, "commandsWaitLeader": False, "dynamicMembershipChange": False} | conf
        nodes = [Node(other) for other in others]
        made = _make_class(module)
        self.so = made(Node(me), nodes, transport=self.box, conf=SyncObjConf(autoTick=False, useFork=False, **conf))
        for node in nodes:
            self.box._onNodeConnected(node)
        self.tick()

    def tick(self, after: float = 0.0) -> None:
        self.clock.now += after
        self.so.doTick(0)

    def lead(self, *voters: Node) -> None:
        """Win an election with the votes of `voters`."""
        self.tick(after=5)
        for node in voters:
            self.box._onMessageReceived(node, {"type": "response_vote", "term": self.so.raftCurrentTerm})
        self.tick()

    def receive(self, node: Node, **message: Any) -> None:
        self.box._onMessageReceived(node, message)

    def append(self, node: Node, term: int, prev: tuple[int, int], entries: list[Any], commit: int) -> None:
        index, prev_term = prev
        self.receive(
            node,
            type="append_entries",
            term=term,
            prevLogIdx=index,
            prevLogTerm=prev_term,
            entries=entries,
            commit_index=commit,
        )

    def command(self, name: str, *arguments: Any) -> bytes:
        return b"\0" + pysyncobj.pickle.dumps((self.so._methodToID[f"{name}_v0"], arguments))

    def puts(self, start: int, stop: int, term: int = 1) -> list[tuple[bytes, int, int]]:
        return [(self.command("put", f"v{index}"), index, term) for index in range(start, stop)]

    @property
    def state(self) -> list[Any]:
        return self.so.state

    @property
    def log(self) -> list[tuple[int, int]]:
        return [(index, term) for _, index, term in self.so._SyncObj__raftLog[:]]


def _make_class(module: Any) -> Any:
    class Listing(module.SyncObj):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.state: list[Any] = []

        @module.replicated
        def put(self, value: Any) -> None:
            self.state.append(value)

        @module.replicated
        def boom(self, value: Any) -> None:
            self.state.append(value)
            raise ValueError("poison")

    return Listing
