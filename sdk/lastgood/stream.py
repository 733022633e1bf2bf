"""The stream: one WebSocket to one node at a time, many calls a message, a message a wake-up.

`Stream` drives a `Calls`: it connects, sends what is queued, hands answers over, and goes to the next endpoint when a
link breaks, stalls, or its node keeps turning calls away. A link that was left goes on until its calls are answered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Final

import aiohttp
import msgspec

from lastgood.answers import ClusterStatus
from lastgood.calls import UNREADABLE, Call, Calls, Decode, Frame, Limits
from lastgood.endpoints import Endpoints
from lastgood.errors import BadRequest, TooLarge, Unavailable, from_problem
from lastgood.requests import Nothing, Request

_MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024  # the server keeps to 4 MiB; only a bound on what we would buffer
_encode: Final = msgspec.msgpack.Encoder().encode
_UNSENDABLE: Final = (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)
"""What encoding arguments of foreign types and sizes may raise."""
_decode: Final = msgspec.msgpack.Decoder(list[tuple[int, int, msgspec.Raw]]).decode
_decode_cluster: Final[Decode] = msgspec.msgpack.Decoder(ClusterStatus).decode


@dataclass(frozen=True)
class Timing:
    """Seconds. `timeout_s`: a call's deadline. `unreachable_s`: after so long without any node, unsent calls fail."""

    timeout_s: float = 30.0
    unreachable_s: float = 10.0
    connect_s: float = 1.5
    heartbeat_s: float = 1.0
    stall_s: float = 5.0
    tick_s: float = 0.025
    leader_check_s: float = 1.0
    reconnect_min_s: float = 0.02
    reconnect_max_s: float = 0.5


class Link:
    """One WebSocket. `heard` is when the last message came."""

    __slots__ = ("closed", "heard", "number", "opened", "reader", "url", "ws")

    def __init__(self, number: int, url: str, ws: aiohttp.ClientWebSocketResponse[Any], now: float) -> None:
        self.number = number
        self.url = url
        self.ws = ws
        self.opened = self.heard = now
        self.closed = False
        self.reader: asyncio.Task[None] | None = None


class Stream:
    """Calls of one client over WebSockets. Lives on the loop that it is made on. `close()` ends it."""

    def __init__(
        self,
        endpoints: Endpoints,
        http: aiohttp.ClientSession,
        *,
        timing: Timing,
        limits: Limits,
        chance: random.Random,
    ) -> None:
        self._endpoints = endpoints
        self._http = http
        self._timing = timing
        self._loop = asyncio.get_running_loop()
        self._now = self._loop.time
        self._calls = Calls(limits=limits, chance=chance)
        self._chance = chance
        self._link: Link | None = None
        self._links: dict[int, Link] = {}
        self._link_number = 0
        self._waker: asyncio.Future[None] | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._closed = False
        self._tasks: set[asyncio.Task[Any]] = set()
        self._closing: set[asyncio.Task[Any]] = set()
        self._last_failure = ""
        self._down_since: float | None = None
        self._prefer_after = 0.0
        self._asking_leader = False
        self._used = False  # something was sent since the last tick
        self._sender = self._loop.create_task(self._send_all(), name="lastgood-stream")

    # ------------------------------------------------------------ calls

    def call(
        self,
        op: str,
        args: Request,
        decode: Decode,
        *,
        size: int = 1024,
        changing: bool,
        timeout_s: float | None = None,
    ) -> asyncio.Future[Any]:
        """Starts a call; the future gets the decoded answer or a LastgoodError. RateLimited when too many wait."""
        if self._closed:
            raise RuntimeError("this client is closed")
        future: asyncio.Future[Any] = self._loop.create_future()
        timeout = self._timing.timeout_s if timeout_s is None else timeout_s
        self._calls.submit(Call(op, args, decode, future, size, self._now() + timeout, changing))
        if self._waker is not None:
            self._wake()
        return future

    async def close(self) -> None:
        """Ends all calls and connections. Calls that were sent end as unknown."""
        if self._closed:
            return
        self._closed = True
        if self._ticker is not None:
            self._ticker.cancel()
        links = list(self._links.values())
        tasks = [self._sender, *self._tasks, *(link.reader for link in links if link.reader is not None)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._calls.close("the client was closed")
        await asyncio.gather(*self._closing, *(link.ws.close() for link in links), return_exceptions=True)

    # ------------------------------------------------------------ sending

    def _wake(self) -> None:
        waker = self._waker
        if waker is not None:
            self._waker = None
            if not waker.done():
                waker.set_result(None)

    async def _send_all(self) -> None:
        calls = self._calls
        while True:
            link = self._link
            if calls.queue:
                self._used = True
                if self._ticker is None:
                    self._ticker = self._loop.call_later(self._timing.tick_s, self._tick)
                if link is None or calls.rotate:
                    await self._change_link()
                    continue
                now = self._now()
                if calls.open_on(link.number) == 0:
                    link.heard = now  # nothing was owed until now
                frame = calls.take(link.number, now)
                if frame:
                    for message in self._messages(frame):
                        await self._send(link, message)
                    continue
            self._waker = self._loop.create_future()
            await self._waker

    def _messages(self, frame: Frame) -> list[bytes]:
        """One message with the whole frame. Calls that can't travel end here, and the others go one by one.

        They would stop the sender, or be cut off by every node in turn: tests/unit/sdk/test_store.py::test_unsendable
        """
        try:
            message = _encode(frame)
            if len(message) <= self._calls.limits.message_bytes_max:
                return [message]
        except _UNSENDABLE:
            pass
        messages = []
        for row in frame:
            number, op, _ = row
            try:
                message = _encode([row])
            except _UNSENDABLE as error:
                self._calls.turn_down(number, BadRequest(f"arguments of {op}: {error}"))
                continue
            limit = self._calls.limits.message_bytes_max
            if len(message) > limit:
                self._calls.turn_down(number, TooLarge(f"{op} has {len(message)} bytes, at most {limit} in a message"))
                continue
            messages.append(message)
        return messages

    async def _send(self, link: Link, message: bytes) -> None:
        try:
            await link.ws.send_bytes(message)
        except (aiohttp.ClientError, OSError):
            self._lost(link)

    async def _change_link(self) -> None:
        """Connects to the endpoint whose turn it is, or to a later one; waits a moment when none answers."""
        left = self._link
        if left is not None and self._calls.rotate:
            self._endpoints.advance(left.url)
            self._prefer_after = self._now() + self._timing.leader_check_s
        self._calls.rotate = False
        delay = self._timing.reconnect_min_s
        if left is not None and len(self._endpoints) == 1:
            return  # there is nowhere else to go
        turned_away: list[aiohttp.WSServerHandshakeError] = []
        for _ in range(len(self._endpoints)):
            failure = await self._connect(self._endpoints.current)
            if failure is None:
                self._down_since = None
                return
            if isinstance(failure, aiohttp.WSServerHandshakeError) and failure.status in (401, 403):
                turned_away.append(failure)
            self._endpoints.advance()
        if len(turned_away) == len(self._endpoints):  # waiting would not help
            code = "unauthorized" if turned_away[-1].status == 401 else "forbidden"
            problem = {"code": code, "detail": f"the nodes turn this client away: {self._last_failure}"}
            self._calls.fail_unsent(from_problem(turned_away[-1].status, problem, changing=False))
            return
        now = self._now()
        if self._down_since is None:
            self._down_since = now
        down_s = now - self._down_since
        if down_s >= self._timing.unreachable_s:
            tried = ", ".join(self._endpoints.urls)
            reason = f"no node answered for {down_s:.1f} s, tried {tried} (last: {self._last_failure})"
            self._calls.fail_unsent(Unavailable(reason))
        delay = min(self._timing.reconnect_max_s, delay + down_s / 4)
        await asyncio.sleep(delay * (0.5 + self._chance.random() / 2))

    async def _connect(self, url: str) -> Exception | None:
        """Opens a link to `url` and makes it the current one; what failed if that does not work within `connect_s`."""
        try:
            async with asyncio.timeout(self._timing.connect_s):
                ws = await self._http.ws_connect(
                    f"{url}/v1/stream",
                    heartbeat=self._timing.heartbeat_s,
                    timeout=aiohttp.ClientWSTimeout(ws_close=self._timing.connect_s),
                    max_msg_size=_MESSAGE_BYTES_MAX,
                    compress=0,
                )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            self._last_failure = f"{url}: {error or type(error).__name__}"
            return error
        self._link_number += 1
        link = Link(self._link_number, url, ws, self._now())
        left, self._link = self._link, link
        self._links[link.number] = link
        link.reader = self._loop.create_task(self._read(link), name="lastgood-reader")
        if left is not None:
            self._close_if_left(left)
        self._ask_leader()
        return None

    # ------------------------------------------------------------ answers

    async def _read(self, link: Link) -> None:
        receive, answered, now = link.ws.receive, self._calls.answered, self._now
        binary = aiohttp.WSMsgType.BINARY
        try:
            while True:
                message = await receive()
                if message.type is not binary:
                    return
                link.heard = at = now()
                for number, status, body in _decode(message.data):
                    answered(number, status, body, at)
                if self._calls.queue:
                    self._wake()
                if link is not self._link:
                    self._close_if_left(link)
        except (aiohttp.ClientError, OSError, *UNREADABLE):
            return
        finally:
            self._lost(link)

    def _lost(self, link: Link) -> None:
        """The link is of no use any more; its calls go to the next one. At most once a link."""
        if link.closed:
            return
        link.closed = True
        self._links.pop(link.number, None)
        if self._link is link:
            self._link = None
            self._endpoints.advance(link.url)
            self._prefer_after = self._now() + self._timing.leader_check_s
        self._calls.lost(link.number)
        if not self._closed:
            self._start(link.ws.close(), self._closing)
            self._wake()

    def _start(self, work: Coroutine[Any, Any, Any], kept: set[asyncio.Task[Any]]) -> None:
        task = self._loop.create_task(work)
        kept.add(task)
        task.add_done_callback(kept.discard)

    def _close_if_left(self, link: Link) -> None:
        if self._calls.open_on(link.number) == 0:
            self._lost(link)

    # ------------------------------------------------------------ time

    def _tick(self) -> None:
        self._ticker = None
        now = self._now()
        self._calls.tick(now)
        for link in list(self._links.values()):
            # Pings keep a living node's link; a link without any answer for so long is left all the same.
            if now - link.heard > self._timing.stall_s and self._calls.open_on(link.number):
                self._lost(link)
        if self._link is not None and self._used:
            self._ask_leader()
        self._used = False
        if self._calls.queue:
            self._wake()
        if self._calls.busy:
            self._ticker = self._loop.call_later(self._timing.tick_s, self._tick)

    # ------------------------------------------------------------ the leader is nearer

    def _ask_leader(self) -> None:
        """Asks who leads, to talk to that node if it is a listed endpoint: it saves a hop and a wait."""
        now = self._now()
        if len(self._endpoints) == 1 or self._asking_leader or now < self._prefer_after:
            return
        self._asking_leader = True
        self._prefer_after = now + self._timing.leader_check_s
        answer = self.call("getCluster", Nothing(), _decode_cluster, changing=False, timeout_s=2.0)
        answer.add_done_callback(self._leader_known)

    def _leader_known(self, answer: asyncio.Future[ClusterStatus]) -> None:
        self._asking_leader = False
        if answer.cancelled() or answer.exception() is not None or self._closed or self._link is None:
            return
        cluster = answer.result()
        leader = next((node.http for node in cluster.nodes if node.id == cluster.leader), None)
        url = self._endpoints.find(leader) if leader else None
        if url is not None and url != self._link.url:
            self._start(self._go_to(url), self._tasks)

    async def _go_to(self, url: str) -> None:
        if await self._connect(url) is None:
            self._endpoints.prefer(url)
            self._wake()
