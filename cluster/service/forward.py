"""Passing a request on to the leader: once, over one pipelined stream, with the three outcomes kept apart.

A request that never left this node is `no_leader` (nothing happened). One whose way broke after it was sent is
`unknown_outcome`, never `no_leader`. Requests travel as stream operations; the stream is opened with a header that
makes the leader's end refuse to pass on again and answer with headers as a fourth member.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

import aiohttp
import msgspec

from cluster.api.answer import Answer
from cluster.api.problem import problem

FORWARDED: Final = "X-Lastgood-Forwarded"
OPEN_MAX: Final = 1024
MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
CONNECT_TIMEOUT_S: Final = 1.0
SILENCE_S: Final = 2.0
LARGE_SILENCE_S: Final = 60.0
"""Twice how long a ping may stay unanswered behind a large request, which travels as one message of up to 64 MiB."""

Reply = Callable[[Answer], None]
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[tuple[int, int, Any, dict[str, str] | None]]).decode


class Forwarder:
    """Streams to the present leader: one for small requests, one for large. Loop thread only; `close` at the end."""

    def __init__(self, *, node_id: str, url_of: Callable[[str], str | None], timeout_s: float) -> None:
        self._node_id = node_id
        self._url_of = url_of
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None
        self._links: dict[float, _Link] = {}  # by the silence that they bear
        self._next_id = 0

    def call(self, leader: str, op: str, args: Any, reply: Reply) -> None:
        """Sends `op` to `leader`; `reply` is called exactly once."""
        self._next_id += 1
        item = _encode((self._next_id, op, args))
        silence_s = SILENCE_S if len(item) <= MESSAGE_BYTES_MAX else LARGE_SILENCE_S
        link = self._links.get(silence_s)
        if link is None or link.leader != leader or link.closed:
            url = self._url_of(leader)
            if url is None:
                reply(problem("no_leader", f"the address of leader {leader} is not known"))
                return
            if self._session is None:
                self._session = aiohttp.ClientSession()
            for other in self._links.values():
                if other.leader != leader:
                    other.abandon("leadership moved")
            link = _Link(self._session, leader, url, self._node_id, self._timeout_s, silence_s)
            self._links[silence_s] = link
        link.send(self._next_id, item, reply)

    async def close(self) -> None:
        for link in self._links.values():
            link.abandon("this node is stopping")
        if self._session is not None:
            await self._session.close()


class _Link:
    """A connection to one leader with what waits for it. Dies once and for all; the forwarder makes another."""

    def __init__(
        self, session: aiohttp.ClientSession, leader: str, url: str, node_id: str, timeout_s: float, silence_s: float
    ) -> None:
        self.leader = leader
        self._silence_s = silence_s
        self.closed = False
        self._timeout_s = timeout_s
        self._unsent: list[tuple[int, bytes]] = []
        self._waiting: dict[int, tuple[Reply, asyncio.TimerHandle]] = {}
        self._sent: set[int] = set()
        self._wake = asyncio.Event()
        self._task = asyncio.get_running_loop().create_task(self._run(session, url, node_id))

    def send(self, number: int, item: bytes, reply: Reply) -> None:
        if len(self._waiting) >= OPEN_MAX:
            reply(problem("rate_limited", f"{OPEN_MAX} requests are on their way to the leader, that is the limit"))
            return
        timer = asyncio.get_running_loop().call_later(self._timeout_s, self._expire, number)
        self._waiting[number] = (reply, timer)
        self._unsent.append((number, item))
        self._wake.set()

    def abandon(self, why: str) -> None:
        """Answers everything that waits and ends the connection."""
        if not self.closed:
            self.closed = True
            self._task.cancel()
            for number in list(self._waiting):
                self._fail(number, why)

    def _expire(self, number: int) -> None:
        self._fail(number, f"no answer within {self._timeout_s:g} s")

    def _fail(self, number: int, why: str) -> None:
        reply, timer = self._waiting.pop(number)
        timer.cancel()
        if number in self._sent:
            self._sent.discard(number)
            reply(problem("unknown_outcome", f"passed on to leader {self.leader}: {why}"))
        else:
            reply(problem("no_leader", f"leader {self.leader} could not be reached: {why}; nothing was sent"))

    async def _run(self, session: aiohttp.ClientSession, url: str, node_id: str) -> None:
        why = "the connection closed"
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                socket = await session.ws_connect(
                    f"{url}/v1/stream",
                    headers={FORWARDED: node_id},
                    max_msg_size=0,
                    autoping=True,
                    heartbeat=self._silence_s,
                )
            async with socket:
                writer = asyncio.get_running_loop().create_task(self._write(socket))
                try:
                    async for message in socket:
                        if message.type is not aiohttp.WSMsgType.BINARY:
                            raise message.data if isinstance(message.data, Exception) else ValueError("no answer")
                        self._answers(message.data)
                finally:
                    writer.cancel()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            why = f"{type(error).__name__}: {error}"
        self.abandon(why)

    async def _write(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._unsent:
                # What was answered as "never sent" meanwhile must not be sent now.
                self._unsent = [item for item in self._unsent if item[0] in self._waiting]
                taken = _take(self._unsent, MESSAGE_BYTES_MAX)
                self._sent.update(number for number, _ in taken)
                if taken:
                    await socket.send_bytes(_array([item for _, item in taken]))

    def _answers(self, raw: bytes) -> None:
        for number, status, body, headers in _decode(raw):
            waiting = self._waiting.pop(number, None)
            if waiting is None:
                continue  # its time was over: it was answered as unknown
            self._sent.discard(number)
            reply, timer = waiting
            timer.cancel()
            reply(Answer(status, body, headers))


def _take(unsent: list[tuple[int, bytes]], bytes_max: int) -> list[tuple[int, bytes]]:
    """Removes and returns the first requests that fit into one message, at least one if there is one."""
    total = count = 0
    for _, item in unsent:
        if count and total + len(item) > bytes_max - 16:
            break
        total += len(item)
        count += 1
    taken = unsent[:count]
    del unsent[:count]
    return taken


def _array(items: list[bytes]) -> bytes:
    """A msgpack array of items that are msgpack already."""
    count = len(items)
    if count < 16:
        head = bytes([0x90 | count])
    else:
        head = b"\xdc" + count.to_bytes(2, "big")
    return head + b"".join(items)
