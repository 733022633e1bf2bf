"""Plain HTTP for what does not fit the stream: transactions over its message limit, and long reads."""

from __future__ import annotations

import asyncio
import io
import random
from collections.abc import Mapping
from typing import Final, NamedTuple

import aiohttp
import msgspec

from lastgood.endpoints import Endpoints
from lastgood.errors import LastgoodError, Unavailable, UnknownOutcome, from_problem
from lastgood.stream import Timing

_RETRIED: Final = frozenset({429, 500, 503, 504})
_DECIDED: Final = frozenset({404, 409, 410, 412, 416})
_ATTEMPTS_500_MAX: Final = 3


class Reply(NamedTuple):
    """A successful answer: `headers` as they came (case-insensitive)."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Door:
    """Requests with failover over the endpoints. A change must carry an `Idempotency-Key`, so that a retry is safe."""

    def __init__(
        self, endpoints: Endpoints, http: aiohttp.ClientSession, *, timing: Timing, chance: random.Random
    ) -> None:
        self._endpoints = endpoints
        self._http = http
        self._timing = timing
        self._chance = chance

    async def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        changing: bool = False,
        timeout_s: float | None = None,
    ) -> Reply:
        """One request, retried until its deadline while nobody decides. Raises LastgoodError."""
        loop = asyncio.get_running_loop()
        started = loop.time()
        deadline = started + (self._timing.timeout_s if timeout_s is None else timeout_s)
        maybe, answered, attempts = False, False, 0
        last: LastgoodError = Unavailable("no endpoint was tried")
        while True:
            url = self._endpoints.current
            try:
                async with asyncio.timeout_at(deadline):
                    reply = await self._once(method, url + path, params, headers, body)
                if reply.status < 400:
                    return reply
                answered = True
                last = _error_of(reply, changing)
                maybe = maybe or isinstance(last, UnknownOutcome)
                spent = reply.status == 500 and attempts + 1 >= _ATTEMPTS_500_MAX
                if reply.status not in _RETRIED or spent:
                    raise _final(last, maybe and reply.status not in _DECIDED)
            except aiohttp.ClientConnectorError as error:
                last = Unavailable(f"{url}: {error}")
            except (aiohttp.ClientError, OSError, TimeoutError) as error:
                maybe = maybe or changing
                last = Unavailable(f"{url}: {error or type(error).__name__}")
            self._endpoints.advance(url)
            attempts += 1
            now = loop.time()
            delay = min(0.5, 0.03 * 2 ** min(attempts, 5)) * (0.5 + self._chance.random() / 2)
            unreachable = not answered and not maybe and now - started >= self._timing.unreachable_s
            if unreachable or now + delay >= deadline:
                raise _final(last, maybe)
            await asyncio.sleep(delay)

    async def _once(
        self,
        method: str,
        url: str,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str] | None,
        body: bytes | None,
    ) -> Reply:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=self._timing.connect_s, sock_read=15)
        payload = None if body is None else io.BytesIO(body)  # sent in pieces; closed by the request, so made anew
        async with self._http.request(
            method, url, params=params, headers=headers, data=payload, timeout=limits, allow_redirects=False
        ) as response:
            return Reply(response.status, response.headers, await response.read())


def _error_of(reply: Reply, changing: bool) -> LastgoodError:
    try:
        problem = msgspec.json.decode(reply.body)
    except msgspec.MsgspecError:
        problem = None
    return from_problem(reply.status, problem, changing=changing)


def _final(last: LastgoodError, maybe: bool) -> LastgoodError:
    if maybe and not isinstance(last, UnknownOutcome):
        return UnknownOutcome(f"the request was sent and not answered; then: {last}", code=getattr(last, "code", None))
    return last
