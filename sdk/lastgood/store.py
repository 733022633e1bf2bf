"""The client of a cluster: `connect(...)` gives a `Store`, which gives `Space` handles."""

from __future__ import annotations

import asyncio
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Generator, Iterable, Sequence
from types import TracebackType
from typing import Any, Final

import aiohttp
import msgspec

from lastgood import requests
from lastgood.answers import ClusterStatus, Cut, Event, Snapshot, SpaceInfo, Transfer
from lastgood.calls import Decode, Limits
from lastgood.door import Door
from lastgood.endpoints import Endpoints, parse_endpoints
from lastgood.events import follow
from lastgood.space import Space
from lastgood.stream import Stream, Timing

_PAGE: Final = 1000


def _decoder(kind: Any) -> Decode:
    return msgspec.msgpack.Decoder(kind).decode


_SPACE: Final = _decoder(SpaceInfo)
_SPACES: Final = _decoder(list[SpaceInfo])
_CUT: Final = _decoder(Cut)
_CLUSTER: Final = _decoder(ClusterStatus)
_TRANSFERS: Final = _decoder(list[Transfer])


def connect(
    endpoints: str | Iterable[str],
    *,
    timeout_s: float = 30.0,
    unreachable_s: float = 10.0,
    token: str | None = None,
    cacert: str | None = None,
    timing: Timing | None = None,
    limits: Limits | None = None,
    chance: random.Random | None = None,
) -> Store:
    """A client of the cluster at `endpoints` (URLs or `host:port`, several or comma-separated; any node will do).

    `timeout_s`: a call ends after so long, as unknown if it is a change that was sent. `unreachable_s`: calls never
    sent fail with Unavailable when no node could be reached for so long. Nothing is dialled before the first call.
    Raises ValueError for an endpoint that is none. Use as `async with connect(...) as store` or `await connect(...)`.
    """
    timing = timing or Timing(timeout_s=timeout_s, unreachable_s=unreachable_s)
    return Store(
        Endpoints(parse_endpoints(endpoints)),
        timing=timing,
        limits=limits or Limits(),
        chance=chance or random.SystemRandom(),
        token=token,
        cacert=cacert,
    )


class Store:
    """A cluster, from outside. Safe for any number of tasks of one event loop; `lastgood.sync` serves threads."""

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        timing: Timing,
        limits: Limits,
        chance: random.Random,
        token: str | None = None,
        cacert: str | None = None,
    ) -> None:
        self.endpoints = endpoints
        self.timing = timing
        self._limits = limits
        self._chance = chance
        self._token = token
        self._cacert = cacert
        self._http: aiohttp.ClientSession | None = None
        self._stream: Stream | None = None
        self._door: Door | None = None

    # ------------------------------------------------------------ life

    async def open(self) -> Store:
        """Binds the client to the running loop. Does not dial."""
        if self._http is None:
            headers = {"Authorization": f"Bearer {self._token}"} if self._token else None
            secure: ssl.SSLContext | bool = ssl.create_default_context(cafile=self._cacert) if self._cacert else True
            self._http = aiohttp.ClientSession(
                headers=headers,
                connector=aiohttp.TCPConnector(limit=64, ssl=secure),
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self.timing.connect_s),
                trust_env=False,
            )
            self._stream = Stream(
                self.endpoints, self._http, timing=self.timing, limits=self._limits, chance=self._chance
            )
            self._door = Door(Endpoints(self.endpoints.urls), self._http, timing=self.timing, chance=self._chance)
        return self

    async def close(self) -> None:
        """Ends all connections; calls that are open end as unknown."""
        if self._stream is not None:
            await self._stream.close()
        if self._http is not None and not self._http.closed:
            await self._http.close()
            await asyncio.sleep(0)

    def __await__(self) -> Generator[Any, None, Store]:
        return self.open().__await__()

    async def __aenter__(self) -> Store:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def stream(self) -> Stream:
        """The pipelined door. RuntimeError before `open()`."""
        if self._stream is None:
            raise RuntimeError("open the client first: `async with lastgood.connect(...) as store`")
        return self._stream

    @property
    def door(self) -> Door:
        """The plain HTTP door. RuntimeError before `open()`."""
        if self._door is None:
            raise RuntimeError("open the client first: `async with lastgood.connect(...) as store`")
        return self._door

    def idempotency_key(self) -> str:
        """A new key for a change that goes by HTTP."""
        return f"{self._chance.getrandbits(128):032x}"

    # ------------------------------------------------------------ spaces

    async def space(
        self,
        name: str,
        *,
        create: bool = False,
        page_size: int | None = None,
        max_pages: int | None = None,
        policy: requests.Policy | None = None,
        fork: Snapshot | tuple[str, str] | None = None,
    ) -> Space:
        """A handle on a space, bound to the epoch of this moment.

        `create`: make it if it is not there; Conflict if it is there with other settings than those given. `fork`:
        start it as a snapshot, given as such or as (space, id or "@label"). Raises NotFound.
        """
        if not create:
            if page_size is not None or max_pages is not None or policy is not None or fork is not None:
                raise ValueError("settings of a space need create=True")
            return Space(self, await self.space_info(name))
        if isinstance(fork, Snapshot):
            fork = (fork.space, str(fork.id))
        args = requests.PutSpace(
            space=name,
            page_size=page_size,
            max_pages=max_pages,
            policy=policy,
            from_=requests.Fork(space=fork[0], snapshot=fork[1]) if fork else None,
        )
        return Space(self, await self.stream.call("putSpace", args, _SPACE, changing=True))

    async def space_info(self, name: str, *, stale: bool = False) -> SpaceInfo:
        """What is known about a space now. Raises NotFound."""
        args = requests.GetSpace(space=name, consistency="stale" if stale else None)
        found: SpaceInfo = await self.stream.call("getSpace", args, _SPACE, changing=False)
        return found

    async def spaces(self, prefix: str | None = None) -> AsyncIterator[SpaceInfo]:
        """All spaces in order of name, fetched page by page."""
        after: str | None = None
        while True:
            args = requests.ListSpaces(limit=_PAGE, after=after, prefix=prefix)
            page: list[SpaceInfo] = await self.stream.call("listSpaces", args, _SPACES, changing=False)
            for found in page:
                yield found
            if len(page) < _PAGE:
                return
            after = page[-1].name

    def snapshot_many(
        self,
        spaces: Sequence[str] | None = None,
        *,
        prefix: str | None = None,
        label: str | None = None,
        ttl_s: float | None = None,
        pin: bool = False,
    ) -> Awaitable[Cut]:
        """Snapshots of the named spaces, or of all whose name starts with `prefix`, at one moment: all or none."""
        if (spaces is None) == (prefix is None):
            raise ValueError("name either spaces or a prefix")
        names = None if spaces is None else list(spaces)
        args = requests.CreateSnapshots(spaces=names, prefix=prefix, label=label, ttl_s=ttl_s, pin=pin)
        size = 1024 + sum(len(name) + 3 for name in names or ())
        return self.stream.call("createSnapshots", args, _CUT, size=size, changing=True)

    # ------------------------------------------------------------ cluster

    def cluster(self) -> Awaitable[ClusterStatus]:
        """The cluster as the leader, or else the asked node, sees it."""
        return self.stream.call("getCluster", requests.Nothing(), _CLUSTER, changing=False)

    def transfers(self) -> Awaitable[list[Transfer]]:
        """Transfers of the node that this client talks to, newest first."""
        return self.stream.call("listTransfers", requests.Nothing(), _TRANSFERS, changing=False)

    def events(
        self, *, space: str | None = None, types: Sequence[str] | None = None, after: int | None = None
    ) -> AsyncIterator[Event]:
        """Events as they come, without end, resumed on another node when one is lost.

        From now on, or after `after` (a `seq`; 0 = from the oldest kept); without it, a break before the first
        event can lose some. Raises Gone when some of the asked types after that point are no longer kept, Unavailable
        when no node can be reached for `unreachable_s`.
        """
        if self._http is None:
            raise RuntimeError("open the client first: `async with lastgood.connect(...) as store`")
        endpoints = Endpoints(self.endpoints.urls)
        return follow(self._http, endpoints, self.timing, space=space, types=types, after=after)
