"""Taking an HTTP request in: headers within bounds, media types, and bodies counted before they are held."""

from __future__ import annotations

import asyncio
from typing import Final

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError

from cluster.api.hosts import HostRule
from cluster.api.operations import HEADER_BYTES_MAX, JSON_BYTES_MAX, TX_BYTES_MAX, TX_ENVELOPE_BYTES, Operation
from cluster.api.problem import ProblemError

JSON: Final = "application/json"
MSGPACK: Final = "application/msgpack"


class BodyBudget:
    """Bytes of request bodies held by all requests together, and the bound on them."""

    def __init__(self, bytes_max: int) -> None:
        self.bytes_max = bytes_max
        self.held = 0

    def take(self, count: int) -> None:
        """Raises ProblemError rate_limited past the bound."""
        if self.held + count > self.bytes_max:
            detail = f"request bodies under way hold {self.held} bytes, at most {self.bytes_max} together"
            raise ProblemError("rate_limited", detail)
        self.held += count

    def give_back(self, count: int) -> None:
        self.held -= count


def check_headers(request: web.BaseRequest, hosts: HostRule, reached: str | None) -> None:
    """Size of all headers, one Host that is ours, no foreign Origin. Raises ProblemError."""
    size = 0
    host_values: list[str] = []
    origins: list[str] = []
    for name, value in request.raw_headers:
        size += len(name) + len(value) + 4
        if len(name) in (4, 6):
            lowered = name.lower()
            if lowered == b"host":
                host_values.append(value.decode("latin-1"))
            elif lowered == b"origin":
                origins.append(value.decode("latin-1"))
    if size > HEADER_BYTES_MAX:
        raise ProblemError("too_large", f"the headers have {size} bytes, at most {HEADER_BYTES_MAX}")
    if not host_values and request.version < HttpVersion11:
        return  # a plain health check; browsers, against which the rule stands, always name the host
    if len(host_values) != 1:
        raise ProblemError("bad_request", f"{len(host_values)} Host headers, expected one")
    if not hosts.allows_host(host_values[0], reached):
        raise ProblemError("forbidden", f"Host {host_values[0][:200]!r} is not one of this node's, see allowed_hosts")
    for origin in origins:
        if not hosts.allows_origin(origin, reached):
            raise ProblemError("forbidden", f"Origin {origin[:200]!r} is foreign, see allowed_hosts")


def media_type(request: web.BaseRequest) -> str:
    """The media type of the body in lower case; empty when none is named. Raises ProblemError for a foreign charset."""
    values = request.headers.getall("Content-Type", [])
    if len(values) > 1:
        raise ProblemError("bad_request", "header Content-Type is given twice")
    if not values:
        return ""
    kind, *parameters = values[0].split(";")
    for parameter in parameters:
        name, _, value = parameter.strip().partition("=")
        if name.lower() == "charset" and value.strip('"').lower() not in ("utf-8", "utf8"):
            raise ProblemError("unsupported_media_type", f"charset is {value[:40]!r}, expected utf-8")
    return kind.strip().lower()


def is_msgpack_body(operation: Operation, request: web.BaseRequest) -> bool:
    """Checks the media type of a body that is there: JSON, or msgpack for a transaction. Raises ProblemError 415."""
    encoding = request.headers.get("Content-Encoding", "identity")
    if encoding.lower() != "identity":
        raise ProblemError("unsupported_media_type", f"Content-Encoding is {encoding[:40]!r}, bodies come as they are")
    if operation.body == "raw":
        return False
    kind = media_type(request)
    if kind == JSON:
        return False
    if kind == MSGPACK and operation.body == "tx":
        return True
    known = f"{JSON} or {MSGPACK}" if operation.body == "tx" else JSON
    raise ProblemError("unsupported_media_type", f"Content-Type is {kind[:80]!r}, expected {known}")


def body_limit(operation: Operation, *, msgpack: bool) -> int:
    """Most bytes of a body of this operation, in this media type."""
    if operation.body == "tx":
        return TX_BYTES_MAX + TX_ENVELOPE_BYTES if msgpack else JSON_BYTES_MAX
    return operation.body_bytes_max


async def read_body(request: web.BaseRequest, limit: int, budget: BodyBudget, idle_s: float) -> bytes:
    """The whole body. What is over `limit` is refused before it is read: by its Content-Length, else while counting.

    The caller gives the length of the body back to `budget`. Raises ProblemError; ConnectionError when the client goes.
    """
    declared = request.content_length
    if declared is not None and declared > limit:
        raise ProblemError("too_large", f"the body has {declared} bytes, at most {limit}")
    await _answer_expect(request)
    content = request.content
    if content.is_eof() and content.exception() is None and content.total_bytes == declared:
        # A small body came along with its head: no timer and no wake-up for it.
        budget.take(declared)
        try:
            return content.read_nowait()
        except BaseException:
            budget.give_back(declared)
            raise
    chunks: list[bytes] = []
    total = 0
    try:
        while True:
            async with asyncio.timeout(idle_s):
                chunk = await request.content.readany()
            if not chunk:
                break
            if total + len(chunk) > limit:
                raise ProblemError("too_large", f"the body has more than {limit} bytes")
            budget.take(len(chunk))
            total += len(chunk)
            chunks.append(chunk)
            if total == declared:
                break
        if declared is not None and total != declared:
            raise ProblemError("bad_request", f"the body has {total} bytes, Content-Length says {declared}")
    except TimeoutError:
        budget.give_back(total)
        raise ProblemError("bad_request", f"the body stopped after {total} bytes for {idle_s:g} s") from None
    except (web.RequestPayloadError, HttpProcessingError) as error:
        budget.give_back(total)
        raise ProblemError("bad_request", f"the body can't be read: {error}") from error
    except BaseException:
        budget.give_back(total)
        raise
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def _answer_expect(request: web.BaseRequest) -> None:
    expect = request.headers.get("Expect")
    if expect is None:
        return
    if expect.lower() != "100-continue":
        raise ProblemError("bad_request", f"Expect is {expect[:80]!r}, known is 100-continue")
    # Clients that ask wait for this before they send; the refusals above were made without it.
    transport = request.transport
    if transport is not None:
        transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
