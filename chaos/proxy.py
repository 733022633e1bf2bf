"""The proxy process: TCP links between nodes that can be cut, slowed and reset. Run by `chaos.fabric.Fabric`.

    python -m chaos.proxy        one JSON object a line on stdin, one answer a line on stdout; ends with stdin

A *link* is a listening port that stands for one listener (raft, bulk or http) of one node as one other node dials it.
A *flow* is the bytes from one node to another for one listener, whichever of them dialled; rules belong to flows.
A cut flow is silent: bytes and ends of connections are held and arrive after the heal, as TCP would deliver them after
retransmission. While either direction is cut, new connections are refused, because no handshake gets through.
What a proxy can't show: packet loss, reordering and the back-off of retransmission timers.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import sys
from collections import deque
from typing import Any

HELD_BYTES_MAX = 1 << 20  # more is left in the sender's socket, which then feels the cut
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close with RST
HOST = "127.0.0.1"


class Flow:
    """Bytes from `src` to `dst` for one listener, its rules and its count."""

    def __init__(self, src: str, dst: str, listener: str) -> None:
        self.src, self.dst, self.listener = src, dst, listener
        self.cut = False
        self.delay_s = 0.0
        self.rate = 0  # bytes/s, 0 = as fast as it goes
        self.cut_after: int | None = None  # bytes until this flow and its opposite cut themselves
        self.trips = 0
        self.count = 0
        self.pipes: set[Pipe] = set()
        self._tokens = 0.0
        self._filled_at = 0.0

    def plain(self) -> bool:
        """True when bytes may pass as they come."""
        return not (self.cut or self.delay_s or self.rate or self.cut_after is not None)

    def allowance(self, now: float) -> int:
        """Bytes that the rate lets through now; the bucket holds 50 ms."""
        burst = max(4096.0, self.rate * 0.05)
        self._tokens = min(burst, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        return int(self._tokens)

    def spend(self, count: int) -> None:
        self.count += count
        self._tokens -= count

    def kick(self) -> None:
        for pipe in tuple(self.pipes):
            pipe.kick()


class Pipe:
    """One direction of one connection: what came in and may not go out yet."""

    def __init__(self, net: Net, flow: Flow, source: Side, sink: Side) -> None:
        self._net, self._flow, self._source, self._sink = net, flow, source, sink
        self._queue: deque[tuple[float, bytes]] = deque()
        self._queued = 0
        self._ended: str | None = None  # "eof" or "lost": what follows after the queue
        self._timer: asyncio.TimerHandle | None = None
        flow.pipes.add(self)

    def feed(self, chunk: bytes) -> None:
        if not self._queue and self._flow.plain():
            self._flow.count += len(chunk)
            self._sink.send(chunk)
            return
        self._queue.append((self._net.loop.time() + self._flow.delay_s, chunk))
        self._queued += len(chunk)
        if self._queued > HELD_BYTES_MAX:
            self._source.hold("queue", True)
        self.kick()

    def end(self, how: str) -> None:
        """The source has no more bytes (`eof`) or is gone (`lost`); passed on once the queue is empty and uncut."""
        self._ended = "lost" if "lost" in (how, self._ended) else how
        self.kick()

    def kick(self) -> None:
        """Sends what may go, and sets a timer for the rest."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        flow, now = self._flow, self._net.loop.time()
        while self._queue and not flow.cut:
            due, chunk = self._queue[0]
            if due > now:
                self._timer = self._net.loop.call_at(due, self.kick)
                return
            count = len(chunk)
            if flow.rate:
                count = min(count, flow.allowance(now))
                if count < min(len(chunk), 1024):
                    self._timer = self._net.loop.call_later(1024 / flow.rate, self.kick)
                    return
            if flow.cut_after is not None:
                count = min(count, flow.cut_after)
            self._pass(due, chunk, count)
        if self._queued <= HELD_BYTES_MAX // 2:
            self._source.hold("queue", False)
        if not self._queue and self._ended and not flow.cut:
            flow.pipes.discard(self)
            self._sink.finish(self._ended)

    def _pass(self, due: float, chunk: bytes, count: int) -> None:
        flow = self._flow
        self._queue.popleft()
        if count < len(chunk):
            self._queue.appendleft((due, chunk[count:]))
        self._queued -= count
        flow.spend(count)
        if count:
            self._sink.send(chunk[:count])
        if flow.cut_after is not None:
            flow.cut_after -= count
            if flow.cut_after <= 0:
                self._net.trip(flow)


class Side(asyncio.Protocol):
    """One of the two connections of a proxied connection."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self.transport: asyncio.Transport | None = None
        self.out: Pipe | None = None  # what this side receives goes here
        self.other: Side | None = None
        self._early: list[bytes] = []
        self._holds: set[str] = set()
        self._ended: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._link.sides.add(self)

    def join(self, other: Side, out: Pipe) -> None:
        """From here on, bytes go to `out`."""
        self.other, self.out = other, out
        for chunk in self._early:
            out.feed(chunk)
        self._early.clear()
        if self._ended:
            out.end(self._ended)

    def data_received(self, data: bytes) -> None:
        if self.out is not None:
            self.out.feed(data)
        else:
            self._early.append(data)

    def eof_received(self) -> bool:
        self._ended = self._ended or "eof"
        if self.out is not None:
            self.out.end("eof")
        return True  # keep the other direction

    def connection_lost(self, error: Exception | None) -> None:
        self._ended = "lost"
        self._link.sides.discard(self)
        if self.out is not None:
            self.out.end("lost")
        if self.other is not None:
            self.other.hold("sink", False)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.hold("sink", True)

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.hold("sink", False)

    def hold(self, why: str, on: bool) -> None:
        """Stops reading from this side while there is any reason to."""
        before = bool(self._holds)
        (self._holds.add if on else self._holds.discard)(why)
        if self.transport is None or self.transport.is_closing() or bool(self._holds) == before:
            return
        if self._holds:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def send(self, chunk: bytes) -> None:
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(chunk)

    def finish(self, how: str) -> None:
        """Passes on what the source's end was."""
        if self.transport is None or self.transport.is_closing():
            return
        if how == "eof":
            if self.transport.can_write_eof():
                self.transport.write_eof()
        else:
            self.transport.close()

    def reset(self) -> None:
        if self.transport is not None:
            sock = self.transport.get_extra_info("socket")
            if sock is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            self.transport.abort()


class Link:
    """A port that stands for `listener` of node `target` as node `dialer` dials it."""

    def __init__(self, net: Net, dialer: str, target: str, listener: str, fd: int, address: tuple[str, int]) -> None:
        self._net, self.dialer, self.target, self.listener = net, dialer, target, listener
        self._address = address
        self._reserved = socket.socket(fileno=fd)  # bound; it keeps the port while it does not listen
        self._reserved.setblocking(False)
        self._up = net.flow(dialer, target, listener)
        self._down = net.flow(target, dialer, listener)
        self.sides: set[Side] = set()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Listens if neither direction is cut, else stops to."""
        wanted = not (self._up.cut or self._down.cut)
        if wanted and self._server is None:
            # Accepted connections inherit it, and so are no obstacle when this listens again.
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self._server = await self._net.loop.create_server(self._accept, sock=self._reserved.dup())
        elif not wanted and self._server is not None:
            server, self._server = self._server, None
            server.close()
            # Linux: it listens no more, connects are refused, and the port stays ours.
            self._reserved.shutdown(socket.SHUT_RDWR)
            self._reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)

    def _accept(self) -> Side:
        near = Side(self)
        task = self._net.loop.create_task(self._connect(near))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return near

    async def _connect(self, near: Side) -> None:
        try:
            _, far = await self._net.loop.create_connection(lambda: Side(self), *self._address)
        except OSError:
            near.reset()
            return
        up = Pipe(self._net, self._up, near, far)
        down = Pipe(self._net, self._down, far, near)
        near.join(far, up)
        far.join(near, down)

    def reset(self) -> None:
        for side in tuple(self.sides):
            side.reset()


class Net:
    """All links of one cluster."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._flows: dict[tuple[str, str, str], Flow] = {}
        self._links: list[Link] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def flow(self, src: str, dst: str, listener: str) -> Flow:
        key = (src, dst, listener)
        if key not in self._flows:
            self._flows[key] = Flow(*key)
        return self._flows[key]

    async def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """One request of the control pipe."""
        for row in request.get("links", ()):
            link = Link(self, row["dialer"], row["target"], row["listener"], row["fd"], tuple(row["address"]))
            self._links.append(link)
            await link.listen()
        for row in request.get("rules", ()):
            self._set(self.flow(row.pop("src"), row.pop("dst"), row.pop("listener")), row)
        if "rules" in request:
            await self._relisten()
        for dialer, target, listener in request.get("reset", ()):
            for link in self._links:
                if (link.dialer, link.target, link.listener) == (dialer, target, listener):
                    link.reset()
        flows = [[*key, flow.count, flow.trips, flow.cut] for key, flow in self._flows.items()]
        return {"flows": flows} if request.get("flows") else {}

    def trip(self, flow: Flow) -> None:
        """The promised number of bytes has gone: both directions fall silent at exactly this byte."""
        flow.cut_after = None
        flow.trips += 1
        opposite = self.flow(flow.dst, flow.src, flow.listener)
        flow.cut = opposite.cut = True
        task = self.loop.create_task(self._relisten())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _set(self, flow: Flow, rule: dict[str, Any]) -> None:
        flow.cut = bool(rule.get("cut", flow.cut))
        flow.delay_s = float(rule.get("delay_ms", flow.delay_s * 1000)) / 1000
        flow.rate = int(rule.get("rate", flow.rate))
        flow.cut_after = rule.get("cut_after", flow.cut_after)
        flow.kick()

    async def _relisten(self) -> None:
        for link in self._links:
            await link.listen()


async def serve() -> None:
    """Until stdin ends, so that no proxy outlives the one who made it."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=1 << 22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    net = Net(loop)
    while line := await reader.readline():
        try:
            answer = await net.handle(json.loads(line))
        except Exception as error:
            # The parent raises it; a proxy that dies would look like a fault of the network.
            answer = {"error": f"{type(error).__name__}: {error}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    import uvloop

    uvloop.run(serve())
