"""The listener: aiohttp's HTTP protocol with our errors, and `serve`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from cluster.api.hosts import HostRule
from cluster.api.http import Api, ApiOptions
from cluster.api.operations import HEADER_BYTES_MAX
from cluster.api.problem import problem
from cluster.api.render import respond
from cluster.api.service import Service
from cluster.log import get_log
from cluster.metrics import Metrics

_log = get_log("cluster.api.server")


class _Protocol(RequestHandler):
    """One connection. What the HTTP parser refuses is answered as a problem too; aiohttp would write text or HTML."""

    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answers and closes. Raises ConnectionError when a part of another answer is out already."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way, there is no place for an error")
        if isinstance(exc, LineTooLong):
            answer = problem("too_large", f"a line of the head is too long, at most {HEADER_BYTES_MAX} bytes")
        elif status < 500:
            answer = problem("bad_request", f"this is no HTTP request: {(message or str(exc)).splitlines()[0][:200]}")
        else:
            _log.error("http.protocol_failed", error=exc)
            answer = problem("internal", "the request failed inside the node; see its log")
        response = respond(answer)
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> RequestHandler:
        return _Protocol(self, loop=self._loop, **self._kwargs)


class ApiRunner:
    """A running listener. `host` and `port` are those really bound."""

    def __init__(self, api: Api, server: _Server, listener: asyncio.Server, options: ApiOptions) -> None:
        self._api = api
        self._server = server
        self._listener = listener
        self._options = options
        name: tuple[Any, ...] = listener.sockets[0].getsockname()
        self.host: str = name[0]
        self.port: int = name[1]

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    async def stop(self) -> None:
        """Takes no more connections, ends streams, gives open requests `stop_s` to finish. Safe to call twice."""
        self._listener.close()
        await self._api.stop()
        self._server.pre_shutdown()
        await self._server.shutdown(self._options.stop_s)


async def serve(
    service: Service,
    *,
    listen: tuple[str, int],
    metrics: Metrics,
    allowed_hosts: Iterable[str] = (),
    options: ApiOptions | None = None,
) -> ApiRunner:
    """Binds `listen` (port 0: any free one) and answers from then on. Raises OSError when it can't bind.

    `allowed_hosts`: further names of this node for the Host check (its advertised address, what the operator allows).
    Raises ValueError for an entry that is no host.
    """
    options = options or ApiOptions()
    host, port = listen
    wildcard = host in ("", "0.0.0.0", "::")
    hosts = HostRule([*allowed_hosts, *([] if wildcard else [f"[{host}]" if ":" in host else host])])
    api = Api(service, metrics, hosts, options)
    server = _Server(
        api.handle,
        access_log=None,
        auto_decompress=False,
        keepalive_timeout=options.keepalive_s,
        lingering_time=options.lingering_s,
        max_line_size=HEADER_BYTES_MAX,
        max_field_size=HEADER_BYTES_MAX,
    )
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(server, host or None, port, backlog=1024, reuse_address=True)
    return ApiRunner(api, server, listener, options)
