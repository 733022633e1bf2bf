"""Following the cluster's events: server-sent events, resumed where they broke off."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec

from lastgood.answers import Event, event_of
from lastgood.endpoints import Endpoints
from lastgood.errors import Unavailable, from_problem
from lastgood.stream import Timing

_SILENCE_S_MAX = 40.0  # the server comments every 15 s


class SseParser:
    """Lines of an event stream to (id, data) pairs. Comments and unknown fields are skipped."""

    def __init__(self) -> None:
        self._id: str | None = None
        self._data: list[str] = []

    def feed(self, line: str) -> tuple[str | None, str] | None:
        """Takes one line without its end; gives an event when the line ends one."""
        if line == "":
            if not self._data:
                return None
            event = (self._id, "\n".join(self._data))
            self._data = []
            return event
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "id":
            self._id = value
        return None


async def follow(
    http: aiohttp.ClientSession,
    endpoints: Endpoints,
    timing: Timing,
    *,
    space: str | None,
    types: Sequence[str] | None,
    after: int | None,
) -> AsyncIterator[Event]:
    """Yields events without end. See `Store.events`."""
    loop = asyncio.get_running_loop()
    heard = loop.time()
    failures = 0
    while True:
        url = endpoints.current
        try:
            async with http.get(
                f"{url}/v1/events",
                params=_params(space, types, after),
                headers={"Accept": "text/event-stream"},
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=timing.connect_s, sock_read=_SILENCE_S_MAX),
            ) as response:
                if response.status in (429, 500, 503, 504):
                    raise aiohttp.ClientError(f"status {response.status}")
                if response.status >= 400:
                    raise from_problem(response.status, _problem(await response.read()), changing=False)
                failures = 0
                parser = SseParser()
                async for line in response.content:
                    heard = loop.time()
                    got = parser.feed(line.decode().rstrip("\r\n"))
                    if got is None:
                        continue
                    event = event_of(msgspec.json.decode(got[1]))
                    if event.seq is not None:
                        after = event.seq
                    yield event
            reason = "the stream ended"
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
        endpoints.advance(url)
        failures += 1
        silent_s = loop.time() - heard
        if failures >= len(endpoints) and silent_s >= timing.unreachable_s:
            raise Unavailable(f"no node gave events for {silent_s:.1f} s, last {url}: {reason}")
        await asyncio.sleep(min(0.5, 0.05 * 2 ** min(failures, 4)))


def _params(space: str | None, types: Sequence[str] | None, after: int | None) -> dict[str, str]:
    params: dict[str, str] = {}
    if space is not None:
        params["space"] = space
    if types:
        params["types"] = ",".join(types)
    if after is not None:
        params["index"] = str(after)
    return params


def _problem(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.MsgspecError:
        return None
