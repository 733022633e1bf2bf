"""Every HTTP request: check, route, bind, dispatch, answer. Errors are problems, whatever went wrong."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from aiohttp import WSCloseCode, web

from cluster.api.answer import Answer, DataBody, DataStream
from cluster.api.args import Args, GetEvents
from cluster.api.checks import CHECKS
from cluster.api.hosts import HostRule
from cluster.api.openapi import openapi_json
from cluster.api.operations import OPERATIONS, STREAM_MESSAGE_BYTES_MAX, TX_BYTES_MAX, TX_ENVELOPE_BYTES, Operation
from cluster.api.problem import ProblemError, problem
from cluster.api.receive import BodyBudget, body_limit, check_headers, is_msgpack_body, read_body
from cluster.api.render import BYTES_TYPE, JSON_TYPE, SERVER, respond, send_stream
from cluster.api.requests import BINDERS
from cluster.api.router import Route, Router
from cluster.api.service import Service
from cluster.api.sse import send_events, wants_events
from cluster.api.stream import HEARTBEAT_S, StreamSession
from cluster.log import get_log
from cluster.metrics import Metrics

FORWARDED_HEADER: Final = "X-Lastgood-Forwarded"  # set by a node that passes requests on
FORWARDED_MESSAGE_BYTES_MAX: Final = TX_BYTES_MAX + TX_ENVELOPE_BYTES + STREAM_MESSAGE_BYTES_MAX

_log = get_log("cluster.api.http")


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiOptions:
    """Bounds and times of the API. Sizes of single requests are the contract's, in `operations.py`."""

    requests_open_max: int = 10_000
    bodies_bytes_max: int = 256 * 1024 * 1024
    event_streams_max: int = 1_000
    stream_connections_max: int = 4_096
    forwarded_streams_max: int = 64
    body_idle_s: float = 30.0
    sse_comment_s: float = 15.0
    lingering_s: float = 2.0
    keepalive_s: float = 75.0
    stop_s: float = 2.0


class Api:
    """The handler of one listener. All its calls are made on the event loop."""

    def __init__(self, service: Service, metrics: Metrics, hosts: HostRule, options: ApiOptions) -> None:
        self._service = service
        self._metrics = metrics
        self._hosts = hosts
        self._options = options
        self._router = Router(OPERATIONS)
        self._budget = BodyBudget(options.bodies_bytes_max)
        self._open = 0
        self._event_streams = 0
        self._forwarded_streams = 0
        self._sockets: set[web.WebSocketResponse] = set()
        self._loop = asyncio.get_running_loop()
        self._stopping: asyncio.Future[None] = self._loop.create_future()
        metrics.sample_with(self._sample)

    def _sample(self, metrics: Metrics) -> None:
        metrics.set("http_requests_open", self._open)
        metrics.set("event_streams", self._event_streams)
        metrics.set("stream_connections", len(self._sockets))

    async def stop(self) -> None:
        """Ends event streams and WebSockets; what they have open is answered by nobody."""
        if not self._stopping.done():
            self._stopping.set_result(None)
        closing = [socket.close(code=WSCloseCode.GOING_AWAY, message=b"the node stops") for socket in self._sockets]
        await asyncio.gather(*closing, return_exceptions=True)

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answers one request. Never raises but for a client that has gone."""
        operation: Operation | None = None
        self._open += 1
        try:
            if self._open > self._options.requests_open_max:
                detail = f"{self._open - 1} requests are open on this node, at most {self._options.requests_open_max}"
                raise ProblemError("rate_limited", detail)
            check_headers(request, self._hosts, reached_address(request))
            path, raw_query = split_target(request)
            route = self._router.route(request.method, path)
            operation = route.operation
            response = await self._serve(request, route, path, raw_query)
        except ProblemError as error:
            response = respond(error.answer)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception as error:
            _log.error("http.handler_failed", op=operation.id if operation else None, error=error)
            response = respond(problem("internal", "the request failed inside the node; see its log"))
        finally:
            self._open -= 1
        self._metrics.count_request(operation.id if operation else "unknown", response.status)
        return response

    async def _serve(self, request: web.BaseRequest, route: Route, path: str, raw_query: str) -> web.StreamResponse:
        asked, held = await self._bind(request, route, raw_query)
        try:
            return await self._answer(request, route.operation, asked, path, raw_query)
        finally:
            self._budget.give_back(held)  # not before: the arguments hold the body until they are answered

    async def _answer(
        self, request: web.BaseRequest, operation: Operation, asked: Args, path: str, raw_query: str
    ) -> web.StreamResponse:
        if operation.id == "getMetrics":
            exposition, content_type = self._metrics.render(request.headers.get("Accept", ""))
            return web.Response(body=exposition, headers={"Content-Type": content_type, "Server": SERVER})
        if operation.id == "getOpenapi":
            return web.Response(body=openapi_json(), headers={"Content-Type": JSON_TYPE, "Server": SERVER})
        if operation.id == "stream":
            return await self._stream(request)
        if isinstance(asked, GetEvents) and asked.sse:
            return await self._events(request, asked)
        forwarded = FORWARDED_HEADER in request.headers
        answer = await self._ask(operation.id, asked, forwarded=forwarded)
        if answer.replayed:
            self._metrics.add("replays")
        if_range = request.headers.get("If-Range")
        if if_range is not None and getattr(asked, "range", None) is not None:
            answer = await self._apply_if_range(operation.id, asked, answer, if_range, forwarded=forwarded)
        if isinstance(answer.body, DataStream):
            return await send_stream(request, answer, answer.body)
        response = respond(answer, path, raw_query)
        if operation.content == "bytes" and answer.status in (200, 206) and answer.body is None:
            response.content_type = BYTES_TYPE
        return response

    async def _bind(self, request: web.BaseRequest, route: Route, raw_query: str) -> tuple[Args, int]:
        """The checked arguments of the request, and the bytes of budget that they hold. Raises ProblemError."""
        operation = route.operation
        binder = BINDERS[operation.id]
        also: dict[str, Any] = {}
        if operation.method != "GET":
            for name in ("If-Match", "If-None-Match"):
                # Who names a condition relies on it: it must not be passed over.
                if name in request.headers and name not in operation.headers.values():
                    raise ProblemError("bad_request", f"{operation.method} {operation.path} takes no {name}")
        body, msgpack = b"", False
        if request.body_exists and not (request.content_length == 0 and operation.body != "raw"):
            if operation.body == "none":
                raise ProblemError("bad_request", f"{operation.method} {operation.path} takes no body")
            msgpack = is_msgpack_body(operation, request)
            body = await read_body(
                request, body_limit(operation, msgpack=msgpack), self._budget, self._options.body_idle_s
            )
        try:
            if len(body) > STREAM_MESSAGE_BYTES_MAX:
                # Putting it together, and what follows here, take tens of ms each: heartbeats go in between.
                await asyncio.sleep(0)
            if operation.body == "raw":
                also["data"] = body
            if operation.content == "events" and request.method == "GET":
                also["sse"] = wants_events(request)
            asked = binder.bind(route.path_args, raw_query, request.raw_headers, body, msgpack=msgpack, **also)
            check = CHECKS.get(operation.id)
            if check is not None and (refusal := check(asked)) is not None:
                raise refused(refusal)
        except BaseException:
            self._budget.give_back(len(body))
            raise
        return asked, len(body)

    async def _ask(self, op: str, asked: Args, *, forwarded: bool) -> Answer:
        """The service's answer, whenever it comes."""
        answered: asyncio.Future[Answer] = self._loop.create_future()

        def reply(answer: Answer) -> None:
            if not answered.done():  # cancelled: the client has gone
                answered.set_result(answer)

        self._service.dispatch(op, asked, reply, forwarded=forwarded)
        return await answered

    async def _apply_if_range(self, op: str, asked: Args, answer: Answer, if_range: str, *, forwarded: bool) -> Answer:
        """RFC 9110 13.1.5: a Range counts only while `if_range` is the present tag; else the whole is sent."""
        body = answer.body
        if answer.status == 206 and isinstance(body, DataBody | DataStream) and body.etag == if_range.strip():
            return answer
        if answer.status not in (206, 416):
            return answer
        if isinstance(body, DataStream):
            await body.aclose()
        return await self._ask(op, msgspec.structs.replace(asked, range=None), forwarded=forwarded)

    async def _events(self, request: web.BaseRequest, asked: GetEvents) -> web.StreamResponse:
        if self._event_streams >= self._options.event_streams_max:
            raise ProblemError("rate_limited", f"{self._event_streams} event streams are open, the most of this node")
        self._event_streams += 1
        try:
            feed = await self._service.subscribe_events(asked)
            if isinstance(feed, Answer):
                return respond(feed)
            return await send_events(request, feed, comment_s=self._options.sse_comment_s, stopping=self._stopping)
        finally:
            self._event_streams -= 1

    async def _stream(self, request: web.BaseRequest) -> web.StreamResponse:
        forwarded = FORWARDED_HEADER in request.headers
        held, most = len(self._sockets), self._options.stream_connections_max
        if forwarded:
            held, most = self._forwarded_streams, self._options.forwarded_streams_max
        if held >= most:
            raise ProblemError("rate_limited", f"{held} streams are open, at most {most}")
        socket = web.WebSocketResponse(
            heartbeat=HEARTBEAT_S,
            compress=False,
            max_msg_size=FORWARDED_MESSAGE_BYTES_MAX if forwarded else STREAM_MESSAGE_BYTES_MAX,
            timeout=self._options.stop_s,
        )
        if request.method != "GET" or not socket.can_prepare(request):
            raise ProblemError("bad_request", "this is a WebSocket: expected Upgrade: websocket, version 13")
        await socket.prepare(request)
        self._sockets.add(socket)
        self._forwarded_streams += forwarded
        try:
            session = StreamSession(
                self._service, self._metrics, socket, forwarded=forwarded, transport=request.transport
            )
            await session.run()
        finally:
            self._forwarded_streams -= forwarded
            self._sockets.discard(socket)
        return socket


def refused(answer: Answer) -> ProblemError:
    """The error that carries an answer which is a problem already."""
    error = ProblemError("bad_request", "")
    error.answer = answer
    return error


def reached_address(request: web.BaseRequest) -> str | None:
    """The local address that the client connected to; None for other than IP."""
    transport = request.transport
    if transport is None:
        return None
    name = transport.get_extra_info("sockname")
    return str(name[0]).lower() if isinstance(name, tuple) else None


def split_target(request: web.BaseRequest) -> tuple[str, str]:
    """Raw path and raw query of the request target, of its absolute form too."""
    target = request.raw_path
    if not target.startswith("/"):
        target = str(request.rel_url.raw_path_qs)
    path, _, query = target.partition("?")
    return path, query.partition("#")[0]
