"""The network between simulated nodes: one FIFO connection per pair, as TCP gives it, and all that goes wrong with it.

Nothing is lost, reordered or doubled within a connection. What does happen: bytes that wait behind a cut and arrive
when it heals; a connection that one end has given up while the other still reads it; bytes of an old connection that
arrive after the new one is up (`old_data`); slow links; one-way cuts; ends that notice a death late.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from msgspec.msgpack import Decoder, Encoder

from chaos.sim.consensus.clock import Timeline

encode = Encoder().encode
decode = Decoder().decode

SILENCE_S = (1.5, 2.0)  # a node that hears nothing for so long gives the connection up
GIVEN_UP_S = (0.0, 0.3)  # the other end of a connection that was closed notices after
REDIAL_S = (0.02, 0.2)
FAST_S = (0.0005, 0.003)


class Endpoint(Protocol):
    """A node as the network sees it."""

    @property
    def up(self) -> bool: ...
    def connected(self, peer: str, connection: int) -> None: ...
    def disconnected(self, peer: str, connection: int) -> None: ...
    def receive(self, peer: str, connection: int, message: Any) -> None: ...


class Connection:
    """One connection: a queue each way, and the ends that no longer read it."""

    __slots__ = ("deaf", "ends", "number", "pumping", "queues")

    def __init__(self, number: int, a: str, b: str) -> None:
        self.number = number
        self.ends = (a, b)
        self.queues: dict[tuple[str, str], deque[tuple[float, bytes]]] = {(a, b): deque(), (b, a): deque()}
        self.pumping: set[tuple[str, str]] = set()
        self.deaf: set[str] = set()


class Network:
    """Connections between all pairs of `names`; the node with the greater name dials."""

    def __init__(self, timeline: Timeline, rng: random.Random, names: list[str], *, old_data: bool) -> None:
        self.timeline = timeline
        self.rng = rng
        self.names = names
        self.old_data = old_data
        self.endpoints: dict[str, Endpoint] = {}
        self.using: dict[tuple[str, str], Connection | None] = {}  # (end, peer) -> the connection that this end uses
        self.cuts: dict[tuple[str, str], int] = {}  # directed pair -> number of the cut
        self.delays: dict[tuple[str, str], tuple[float, float]] = {}
        self.watch: Callable[[str, str, dict[str, Any]], None] | None = None
        self._connections = 0
        self._cuts = 0
        self._dialling: set[tuple[str, str]] = set()

    # ---------------------------------------------------------------- messages
    def send(self, source: str, target: str, number: int, message: dict[str, Any]) -> None:
        """Puts a message on connection `number`, if that is the one that `source` uses: as bytes, as the wire does."""
        connection = self.using.get((source, target))
        if connection is None or connection.number != number:
            return
        if self.watch is not None:
            self.watch(source, target, message)
        low, high = self.delays.get((source, target), FAST_S)
        way = (source, target)
        arrives_s = self.timeline.now + low + (high - low) * self.rng.random()
        connection.queues[way].append((arrives_s, encode(message)))
        self._pump_later(connection, way)

    def _pump_later(self, connection: Connection, way: tuple[str, str]) -> None:
        queue = connection.queues[way]
        if queue and way not in connection.pumping and way not in self.cuts:
            connection.pumping.add(way)
            self.timeline.after(max(0.0, queue[0][0] - self.timeline.now), self._pump, connection, way)

    def _pump(self, connection: Connection, way: tuple[str, str]) -> None:
        connection.pumping.discard(way)
        queue = connection.queues[way]
        source, target = way
        while queue and way not in self.cuts and queue[0][0] <= self.timeline.now:
            _, message = queue.popleft()
            if target not in connection.deaf:
                self.endpoints[target].receive(source, connection.number, decode(message))
        self._pump_later(connection, way)

    # ---------------------------------------------------------------- connections
    def redial(self, name: str) -> None:
        """A node that starts dials, or is dialled by, everybody."""
        for other in self.names:
            if other != name:
                self._dial_later(max(name, other), min(name, other))

    def _dial_later(self, dialler: str, acceptor: str) -> None:
        if (dialler, acceptor) not in self._dialling:
            self._dialling.add((dialler, acceptor))
            self.timeline.after(self.rng.uniform(*REDIAL_S), self._dial, dialler, acceptor)

    def _dial(self, dialler: str, acceptor: str) -> None:
        self._dialling.discard((dialler, acceptor))
        if not self.endpoints[dialler].up or self.using.get((dialler, acceptor)) is not None:
            return
        if not self.endpoints[acceptor].up or (dialler, acceptor) in self.cuts or (acceptor, dialler) in self.cuts:
            self._dial_later(dialler, acceptor)
            return
        self._connections += 1
        fresh = Connection(self._connections, dialler, acceptor)
        old = self.using.get((acceptor, dialler))
        self.using[dialler, acceptor] = self.using[acceptor, dialler] = fresh
        if old is not None and not self.old_data:
            old.deaf.add(acceptor)
        self.endpoints[acceptor].connected(dialler, fresh.number)
        self.endpoints[dialler].connected(acceptor, fresh.number)

    def reset(self, a: str, b: str) -> None:
        """The connection between a and b dies; each end notices in its own time."""
        connection = self.using.get((a, b)) or self.using.get((b, a))
        if connection is None:
            return
        if self.old_data and self.rng.random() < 0.7:  # the dialler is back before the acceptor has read everything
            self._give_up(connection, max(a, b), (0.3, 0.5))
        else:
            self.timeline.after(self.rng.uniform(0.0, 0.2), self._give_up, connection, a)

    def drop(self, name: str, *, notice_s: float) -> None:
        """The process `name` is gone. Its peers notice within `notice_s`."""
        for other in self.names:
            if other == name:
                continue
            mine, theirs = self.using.get((name, other)), self.using.get((other, name))
            if mine is not None:
                mine.deaf.add(name)
                self.using[name, other] = None
            if theirs is not None:
                self.timeline.after(self.rng.uniform(0.0, notice_s), self._give_up, theirs, other)

    def _give_up(self, connection: Connection, end: str, notice_s: tuple[float, float] = GIVEN_UP_S) -> None:
        """`end` no longer uses or reads this connection. Its peer learns of it: by the close, else by the silence."""
        peer = connection.ends[0] if connection.ends[1] == end else connection.ends[1]
        if end not in connection.deaf:
            connection.deaf.add(end)
            if (end, peer) in self.cuts:
                notice_s = SILENCE_S
            self.timeline.after(self.rng.uniform(*notice_s), self._give_up, connection, peer)
        if self.using.get((end, peer)) is connection:
            self.using[end, peer] = None
            self.endpoints[end].disconnected(peer, connection.number)
        self._dial_later(max(end, peer), min(end, peer))

    # ---------------------------------------------------------------- faults
    def cut(self, source: str, target: str) -> None:
        """Nothing gets from source to target; what is under way waits."""
        if (source, target) in self.cuts:
            return
        self._cuts += 1
        self.cuts[source, target] = self._cuts
        self.timeline.after(self.rng.uniform(*SILENCE_S), self._silence, source, target, self._cuts)

    def _silence(self, source: str, target: str, cut: int) -> None:
        if self.cuts.get((source, target)) != cut:
            return
        connection = self.using.get((target, source))
        if connection is not None:
            self._give_up(connection, target)

    def mend(self, source: str, target: str) -> None:
        """Ends a cut: what waited arrives now."""
        if self.cuts.pop((source, target), None) is None:
            return
        for connection in {self.using.get((source, target)), self.using.get((target, source))} - {None}:
            self._pump_later(connection, (source, target))  # type: ignore[arg-type]

    def heal(self) -> None:
        """Ends all cuts and delays."""
        for source, target in list(self.cuts):
            self.mend(source, target)
        self.delays.clear()
