"""Server-sent events of `GET /v1/events`: one JSON object a `data:` line, a comment while nothing happens."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec
from aiohttp import web

from cluster.api.render import SERVER
from cluster.api.service import Event

MEDIA_TYPE: Final = "text/event-stream"
COMMENT: Final = b": still here\n\n"

_encode: Final = msgspec.json.Encoder().encode


def wants_events(request: web.BaseRequest) -> bool:
    """True when `Accept` names text/event-stream."""
    return any(
        part.split(";")[0].strip().lower() == MEDIA_TYPE
        for value in request.headers.getall("Accept", [])
        for part in value.split(",")
    )


def format_event(event: Event) -> bytes:
    """One event as it goes over the wire. A node's own events have no `seq`, so no `id:` either."""
    line = b"data: " + _encode(event) + b"\n\n"
    seq = event.get("seq")
    return line if seq is None else b"id: %d\n" % seq + line


async def _next(feed: AsyncIterator[Event]) -> Event:
    return await anext(feed)


async def send_events(
    request: web.BaseRequest, feed: AsyncIterator[Event], *, comment_s: float, stopping: asyncio.Future[None]
) -> web.StreamResponse:
    """Writes events until the feed ends, the client goes (ConnectionError) or `stopping` is done. Closes the feed."""
    response = web.StreamResponse(
        headers={
            "Server": SERVER,
            "Content-Type": f"{MEDIA_TYPE}; charset=utf-8",
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
        }
    )
    following: asyncio.Task[Event] | None = None
    try:
        await response.prepare(request)
        await response.write(COMMENT)
        while True:
            if following is None:
                following = asyncio.create_task(_next(feed))
            waited: set[asyncio.Future[Any]] = {following, stopping}
            await asyncio.wait(waited, timeout=comment_s, return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                try:
                    event = following.result()
                except StopAsyncIteration:
                    break
                following = None
                await response.write(format_event(event))
            elif stopping.done():
                break
            else:
                await response.write(COMMENT)
    finally:
        if following is not None and not following.done():
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        close = getattr(feed, "aclose", None)
        if close is not None:
            await close()
    return response
