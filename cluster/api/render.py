"""From an Answer to an HTTP response."""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import parse_qsl, urlencode

import msgspec
from aiohttp import web

from cluster.api.answer import About, Answer, DataBody, DataStream
from cluster.api.problem import MEDIA_TYPE, RETRY_AFTER_S, is_problem
from cluster.log import get_log

JSON_TYPE: Final = "application/json"
BYTES_TYPE: Final = "application/octet-stream"
SERVER: Final = "lastgood"

_log = get_log("cluster.api.http")
_encode: Final = msgspec.json.Encoder().encode


def base_headers(answer: Answer) -> dict[str, str]:
    """Headers that the answer brings along, and those that its status asks for."""
    headers: dict[str, str] = {}
    if answer.headers:
        headers.update(answer.headers)
    if answer.about is not None:
        _tell_about(headers, answer.about)
    if answer.replayed:
        headers["Idempotency-Replayed"] = "true"
    if answer.status in (429, 503):
        headers.setdefault("Retry-After", str(RETRY_AFTER_S))
    return headers


def _tell_about(headers: dict[str, str], about: About) -> None:
    headers["X-Lastgood-LVC"] = str(about.lvc)
    headers["X-Lastgood-Epoch"] = str(about.epoch)
    headers["X-Lastgood-Index"] = str(about.index)


def respond(answer: Answer, path: str = "", raw_query: str = "") -> web.Response:
    """The response of any answer but a DataStream. `path` and `raw_query` are those of the request, for `Link`."""
    headers = {"Server": SERVER, **base_headers(answer)}
    body = answer.body
    if isinstance(body, DataBody):
        _tell_about(headers, About(body.lvc, body.epoch, body.index))
        _tell_bytes(headers, answer.status, body.etag, body.offset, len(body.data), body.size)
        return web.Response(status=answer.status, body=_as_bytes(body.data), headers=headers, content_type=BYTES_TYPE)
    if body is None:
        return web.Response(status=answer.status, headers=headers)
    if answer.next is not None:
        headers["Link"] = next_link(path, raw_query, answer.next)
    if isinstance(body, bytes):
        return web.Response(status=answer.status, body=body, headers=headers)
    headers["Content-Type"] = MEDIA_TYPE if answer.status >= 400 and is_problem(body) else JSON_TYPE
    return web.Response(status=answer.status, body=_encode(body), headers=headers)


def _as_bytes(held: bytes | memoryview) -> bytes:
    return held if isinstance(held, bytes) else bytes(held)


def _tell_bytes(headers: dict[str, str], status: int, etag: str, offset: int, length: int, size: int) -> None:
    headers["ETag"] = etag
    headers["Accept-Ranges"] = "bytes"
    headers["X-Content-Type-Options"] = "nosniff"
    if status == 206:
        headers["Content-Range"] = f"bytes {offset}-{offset + length - 1}/{size}"


def next_link(path: str, raw_query: str, following: str) -> str:
    """`<path?query>; rel="next"` with the members of `following` in place of the request's own."""
    query = dict(parse_qsl(raw_query, keep_blank_values=True))
    query.update(parse_qsl(following, keep_blank_values=True))
    return f'<{path}?{urlencode(query)}>; rel="next"'


async def send_stream(request: web.BaseRequest, answer: Answer, body: DataStream) -> web.StreamResponse:
    """Sends the chunks under a Content-Length. Breaks the connection when they end early, lest it pass for whole."""
    headers = {"Server": SERVER, **base_headers(answer)}
    _tell_about(headers, body.about)
    _tell_bytes(headers, answer.status, body.etag, body.offset, body.length, body.size)
    response = web.StreamResponse(status=answer.status, headers=headers)
    response.content_type = BYTES_TYPE
    response.content_length = body.length
    sent = 0
    try:
        await response.prepare(request)
        if request.method != "HEAD":
            async for chunk in body.chunks:
                sent += len(chunk)
                await response.write(_as_bytes(chunk))
            if sent != body.length:
                raise RuntimeError(f"{sent} of {body.length} bytes came")
    except ConnectionError:
        raise
    except Exception as error:
        _log.error("http.body_broken", sent_bytes=sent, length=body.length, error=error)
        abort(request)
        raise ConnectionResetError("the body broke off") from error
    finally:
        await body.aclose()
    return response


def abort(request: web.BaseRequest) -> None:
    """Breaks the connection at once, what is buffered included."""
    transport: Any = request.transport
    if transport is not None:
        transport.abort()
