"""`GET /v1/stream`: pipelined operations over one WebSocket, many a message and one frame of answers a wake-up.

A message is a msgpack array of `[id, op, args]`, an answer message one of `[id, status, body]`, in any order.
Bounds: STREAM_OPEN_MAX open requests (more are refused as `rate_limited`), STREAM_MESSAGE_BYTES_MAX a message either
way (from another node a transaction more), READ_BYTES_OPEN_MAX of bytes that open reads may answer. A client that
reads no answers is not read either. Another node that passes requests on gets the headers as a fourth member.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

import msgspec
from aiohttp import WSCloseCode, WSMsgType, web

from cluster.api.answer import Answer, DataBody, DataStream
from cluster.api.checks import CHECKS, Check, check_events_on_stream
from cluster.api.operations import OPERATIONS, STREAM_MESSAGE_BYTES_MAX, STREAM_OPEN_MAX, Operation
from cluster.api.problem import problem
from cluster.api.render import base_headers
from cluster.api.service import Service
from cluster.log import get_log
from cluster.metrics import Metrics

READ_BYTES_OPEN_MAX: Final = 64 * 1024 * 1024
UNSENT_BYTES_MAX: Final = 8 * 1024 * 1024
FRAME_BYTES_TARGET: Final = 1024 * 1024
ANSWER_BYTES_GUESS: Final = 512  # of an answer without bytes; checked after encoding
REQUESTS_A_MESSAGE_MAX: Final = 4 * STREAM_OPEN_MAX  # refusals cost memory too
SEND_S: Final = 30.0  # a client that takes nothing for so long is cut off
HEARTBEAT_S: Final = 20.0

_log = get_log("cluster.api.stream")
_decode_message: Final = msgspec.msgpack.Decoder(list[tuple[int, str, msgspec.Raw]]).decode
_encode: Final = msgspec.msgpack.Encoder().encode

Unsent = tuple[int, Answer]


class Door(NamedTuple):
    """How one operation is let in: typed decoder, check, and the bytes that its answer may take (reads only)."""

    decode: Callable[[Any], Any]
    check: Check | None
    charge: Callable[[Any], int] | None


def _charge_read(asked: Any) -> int:
    length: int | None = asked.length
    return STREAM_MESSAGE_BYTES_MAX if length is None else min(length, STREAM_MESSAGE_BYTES_MAX)


def _charge_list(asked: Any) -> int:
    return STREAM_MESSAGE_BYTES_MAX


def _door(row: Operation) -> Door:
    charge = {"getData": _charge_read, "getSnapshotData": _charge_read, "getWal": _charge_list}.get(row.id)
    check = check_events_on_stream if row.id == "getEvents" else CHECKS.get(row.id)
    return Door(msgspec.msgpack.Decoder(row.args).decode, check, charge)


DOORS: Final[dict[str, Door]] = {row.id: _door(row) for row in OPERATIONS if row.stream}


class StreamSession:
    """One WebSocket. `run` returns when it is over; answers of requests still open then go nowhere."""

    def __init__(
        self,
        service: Service,
        metrics: Metrics,
        socket: web.WebSocketResponse,
        *,
        forwarded: bool,
        transport: asyncio.Transport | None,
    ) -> None:
        self._service = service
        self._metrics = metrics
        self._count = metrics.count_request
        self._socket = socket
        self._forwarded = forwarded
        self._transport = transport
        self._loop = asyncio.get_running_loop()
        self._open = 0
        self._read_bytes_open = 0
        self._unsent: list[Unsent] = []
        self._unsent_bytes = 0
        self._wake: asyncio.Future[None] | None = None
        self._drained: asyncio.Future[None] | None = None
        self._over = False
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Reads until the client or the server closes. One task more writes."""
        writer = self._loop.create_task(self._write_all())
        try:
            await self._read_all()
        finally:
            self._over = True
            self._wake_all()
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)

    async def _read_all(self) -> None:
        receive = self._socket.receive
        while not self._over:
            message = await receive()
            if message.type is WSMsgType.BINARY:
                if not self._take_message(message.data):
                    await self._socket.close(
                        code=WSCloseCode.INVALID_TEXT, message=b"expected an array of [id, op, args]"
                    )
                    return
                if self._unsent_bytes > UNSENT_BYTES_MAX:
                    await self._wait_until_drained()
            elif message.type is WSMsgType.TEXT:
                await self._socket.close(code=WSCloseCode.UNSUPPORTED_DATA, message=b"binary messages only")
                return
            else:
                return

    def _take_message(self, message: bytes) -> bool:
        """Dispatches every request of the message. False for bytes that are no message."""
        try:
            requests = _decode_message(message)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            return False
        if len(requests) > REQUESTS_A_MESSAGE_MAX:
            return False
        dispatch = self._service.dispatch
        forwarded = self._forwarded
        for request, op, raw in requests:
            door = DOORS.get(op)
            if door is None:
                self._refuse(request, "unknown", problem("not_found", f"there is no stream operation {op[:80]!r}"))
                continue
            if self._open >= STREAM_OPEN_MAX:
                detail = f"{self._open} requests are open on this stream, at most {STREAM_OPEN_MAX}"
                self._refuse(request, op, problem("rate_limited", detail))
                continue
            try:
                asked = door.decode(raw)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                self._refuse(request, op, problem("bad_request", f"arguments of {op}: {error}"))
                continue
            if door.check is not None and (refusal := door.check(asked)) is not None:
                self._refuse(request, op, refusal)
                continue
            charge = 0
            if door.charge is not None:
                charge = door.charge(asked)
                if self._read_bytes_open + charge > READ_BYTES_OPEN_MAX:
                    self._refuse(request, op, self._too_many_bytes())
                    continue
                self._read_bytes_open += charge
            self._open += 1
            try:
                dispatch(op, asked, partial(self._reply, request, op, charge), forwarded=forwarded)
            except Exception as error:
                # The seam forbids it; if it happens, the client must still not wait for ever.
                _log.error("stream.dispatch_failed", op=op, error=error)
                self._reply(request, op, charge, problem("internal", "the request failed inside the node; see its log"))
        return True

    def _refuse(self, request: int, op: str, refusal: Answer) -> None:
        self._open += 1
        self._reply(request, op, 0, refusal)

    def _reply(self, request: int, op: str, charge: int, answer: Answer) -> None:
        self._open -= 1
        self._count(op, answer.status)
        if answer.replayed:
            self._metrics.add("replays")
        body = answer.body
        size = ANSWER_BYTES_GUESS
        if charge:
            self._read_bytes_open -= charge
        if isinstance(body, DataBody):
            size += len(body.data)
        elif isinstance(body, DataStream):
            self._keep(self._loop.create_task(self._collect(request, answer.status, body)))
            return
        if not self._over:
            self._put(request, answer, size)

    def _put(self, request: int, answer: Answer, size: int) -> None:
        """Hands an answer of about `size` bytes to the writer."""
        self._unsent.append((request, answer))
        self._unsent_bytes += size
        wake = self._wake
        if wake is not None and not wake.done():
            wake.set_result(None)

    def _keep(self, task: asyncio.Task[None]) -> None:
        """The loop holds tasks weakly; this holds it until it is done."""
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _collect(self, request: int, status: int, body: DataStream) -> None:
        """A read that the service would send in chunks goes out whole, when it fits into one message."""
        answer = self._too_large(body.length)
        self._open += 1
        try:
            if body.length + ANSWER_BYTES_GUESS <= STREAM_MESSAGE_BYTES_MAX:
                whole = b"".join([bytes(chunk) async for chunk in body.chunks])
                about = body.about
                answer = Answer(
                    status,
                    DataBody(whole, body.offset, body.size, about.lvc, about.epoch, about.index, body.uid, body.etag),
                )
        except Exception as error:
            _log.error("stream.read_broken", error=error)
            answer = problem("internal", "the read failed inside the node; see its log")
        finally:
            self._open -= 1
            await body.aclose()
        if not self._over:
            self._put(request, answer, ANSWER_BYTES_GUESS + body.length)

    def _too_many_bytes(self) -> Answer:
        held = self._read_bytes_open
        return problem(
            "rate_limited", f"open reads of this stream may answer {held} bytes, at most {READ_BYTES_OPEN_MAX}"
        )

    def _too_large(self, size: int) -> Answer:
        limit = STREAM_MESSAGE_BYTES_MAX
        return problem(
            "too_large", f"the answer has {size} bytes, at most {limit} on the stream: ask for less, or by HTTP"
        )

    def _wake_all(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    async def _wait_until_drained(self) -> None:
        self._drained = self._loop.create_future()
        try:
            await self._drained
        finally:
            self._drained = None

    async def _write_all(self) -> None:
        """Sends what was answered since the last wake-up, as one frame unless it is too large for one."""
        try:
            while not self._over:
                if not self._unsent:
                    self._wake = self._loop.create_future()
                    await self._wake
                    self._wake = None
                    continue
                unsent, self._unsent = self._unsent, []
                held, self._unsent_bytes = self._unsent_bytes, 0
                async with asyncio.timeout(SEND_S):
                    for frame in self._frames(unsent, held):
                        await self._socket.send_bytes(frame)
                if self._drained is not None and not self._drained.done() and self._unsent_bytes <= UNSENT_BYTES_MAX:
                    self._drained.set_result(None)
        except (ConnectionError, TimeoutError):
            self._end()  # the client has gone, or takes nothing
        except Exception as error:
            _log.error("stream.write_failed", error=error)
            self._end()

    def _end(self) -> None:
        self._over = True
        self._wake_all()
        if self._transport is not None:
            self._transport.abort()  # the reader sees it

    def _frames(self, unsent: list[Unsent], guess: int) -> list[bytes]:
        if self._forwarded:
            # The other node answers by HTTP, so it needs the headers: a fourth member.
            return pack_frames([_encode((number, one.status, one.body, base_headers(one))) for number, one in unsent])
        if guess <= FRAME_BYTES_TARGET:
            frame = _encode([(request, answer.status, answer.body) for request, answer in unsent])
            if len(frame) <= STREAM_MESSAGE_BYTES_MAX:
                return [frame]
        return pack_frames([self._one(request, answer) for request, answer in unsent])

    def _one(self, request: int, answer: Answer) -> bytes:
        encoded = _encode((request, answer.status, answer.body))
        if len(encoded) + 5 > STREAM_MESSAGE_BYTES_MAX:
            refusal = self._too_large(len(encoded))
            encoded = _encode((request, refusal.status, refusal.body))
        return encoded


def pack_frames(encoded: list[bytes]) -> list[bytes]:
    """Arrays of at most about FRAME_BYTES_TARGET bytes (one larger element alone), in order."""
    frames: list[bytes] = []
    held: list[bytes] = []
    size = 0
    for one in encoded:
        if held and size + len(one) > FRAME_BYTES_TARGET:
            frames.append(_array(held))
            held, size = [], 0
        held.append(one)
        size += len(one)
    if held:
        frames.append(_array(held))
    return frames


def _array(elements: list[bytes]) -> bytes:
    """The msgpack array of elements that are encoded already."""
    return b"\xdd" + len(elements).to_bytes(4, "big") + b"".join(elements)
