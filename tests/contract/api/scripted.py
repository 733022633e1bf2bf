"""A service that answers what the test says, on a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import msgspec

from cluster.api.answer import About, Answer, DataBody, DataStream
from cluster.api.args import Args, GetEvents
from cluster.api.http import ApiOptions
from cluster.api.problem import problem
from cluster.api.reading import plan_read
from cluster.api.server import ApiRunner, serve
from cluster.api.service import Event, Reply
from cluster.metrics import Metrics

Script = Callable[[str, Any], Answer]


class ScriptedService:
    """Remembers what it was asked, answers by `script`: at once, or when `release` is called while `held`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, Args]] = []
        self.forwarded: list[bool] = []
        self.script: Script = lambda op, args: Answer(200, {"op": op})
        self.events: list[Event] = []
        self.refuse_events: Answer | None = None
        self.feed_open = 0
        self.held = False
        self._waiting: list[tuple[Reply, Answer]] = []

    @property
    def last(self) -> Any:
        """The arguments of the newest request."""
        return self.asked[-1][1]

    def dispatch(self, op: str, args: Args, reply: Reply, *, forwarded: bool = False) -> None:
        self.asked.append((op, args))
        self.forwarded.append(forwarded)
        answer = self.script(op, args)
        if self.held:
            self._waiting.append((reply, answer))
        else:
            reply(answer)

    def release(self) -> None:
        """Answers all that waits, newest first, to show that order does not matter."""
        waiting, self._waiting = self._waiting, []
        for reply, answer in reversed(waiting):
            reply(answer)

    async def subscribe_events(self, args: GetEvents) -> AsyncIterator[Event] | Answer:
        self.asked.append(("getEvents", args))
        return self.refuse_events if self.refuse_events is not None else self._feed()

    async def _feed(self) -> AsyncIterator[Event]:
        self.feed_open += 1
        try:
            for event in self.events:
                yield event
            await asyncio.Event().wait()
        finally:
            self.feed_open -= 1


class Bytes:
    """A script of reads over `held`, as a real service plans them."""

    def __init__(self, held: bytes, *, etag: str = '"7-7-12"', streamed: bool = False) -> None:
        self.held = held
        self.etag = etag
        self.streamed = streamed
        self.break_after: int | None = None
        self.closed = 0

    def __call__(self, op: str, args: Any) -> Answer:
        about = About(12, 7, 99)
        span = plan_read(args, size=len(self.held), etag=self.etag, about=about)
        if isinstance(span, Answer):
            return span
        part = self.held[span.start : span.stop]
        if self.streamed:
            return Answer(
                span.status,
                DataStream(
                    chunks=self._chunks(part),
                    length=len(part),
                    offset=span.start,
                    size=len(self.held),
                    uid=7,
                    etag=self.etag,
                    about=about,
                ),
            )
        return Answer(span.status, DataBody(part, span.start, len(self.held), 12, 7, 99, 7, self.etag))

    async def _chunks(self, part: bytes) -> AsyncIterator[bytes]:
        try:
            for start in range(0, len(part), 1000):
                if self.break_after is not None and start >= self.break_after:
                    raise OSError("the disk went away")
                yield part[start : start + 1000]
        finally:
            self.closed += 1


class Door:
    """A running API with its service and a client session."""

    def __init__(
        self, service: ScriptedService, runner: ApiRunner, metrics: Metrics, http: aiohttp.ClientSession
    ) -> None:
        self.service = service
        self.runner = runner
        self.metrics = metrics
        self.http = http

    def url(self, path: str) -> str:
        return self.runner.url + path

    async def ask(self, method: str, path: str, **rest: Any) -> tuple[int, Any, Any]:
        """Status, headers, body: parsed when JSON, else bytes."""
        from yarl import URL

        async with self.http.request(method, URL(self.url(path), encoded=True), **rest) as response:
            body: Any = await response.read()
            if body and response.content_type in ("application/json", "application/problem+json"):
                body = msgspec.json.decode(body)
            return response.status, response.headers, body

    async def raw(self, head: str, body: bytes = b"") -> tuple[int, dict[str, str], bytes]:
        """Bytes to the socket as they are, and the answer until the server closes or the body is there."""
        reader, writer = await asyncio.open_connection(self.runner.host, self.runner.port)
        try:
            writer.write(head.replace("\n", "\r\n").encode("latin-1") + b"\r\n\r\n" + body)
            status_line = (await reader.readline()).decode()
            headers: dict[str, str] = {}
            while (line := (await reader.readline()).decode("latin-1").strip()) != "":
                name, _, value = line.partition(":")
                headers[name.lower()] = value.strip()
            content = await reader.readexactly(int(headers.get("content-length", "0")))
            return int(status_line.split()[1]), headers, content
        finally:
            writer.close()


@asynccontextmanager
async def running(options: ApiOptions | None = None, **rest: Any) -> AsyncIterator[Door]:
    service, metrics = ScriptedService(), Metrics(env="test", cluster="c1")
    options = replace(options or ApiOptions(), lingering_s=0.05)  # nobody here sends the rest of a refused body
    runner = await serve(service, listen=("127.0.0.1", 0), metrics=metrics, options=options, **rest)
    async with aiohttp.ClientSession(auto_decompress=False) as http:
        try:
            yield Door(service, runner, metrics, http)
        finally:
            await runner.stop()


__all__ = ["Bytes", "Door", "ScriptedService", "problem", "running"]
