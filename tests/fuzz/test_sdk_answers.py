"""No bytes that a node may send can crash the client: every call ends with a value or a LastgoodError."""

from __future__ import annotations

import asyncio
import random

import lastgood
import msgspec
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from lastgood.answers import SessionOpened, SpaceInfo, Written
from lastgood.calls import Call, Calls, Limits
from lastgood.events import SseParser
from lastgood.requests import GetData

scalars = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
keys = st.sampled_from(["code", "detail", "status", "lvc", "epoch", "session", "name"]) | st.text() | st.integers(0, 9)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(keys, inner), max_leaves=8)
bodies = st.binary(max_size=64) | values.map(msgspec.msgpack.encode)
decoders = [msgspec.msgpack.Decoder(kind).decode for kind in (Written, SpaceInfo, SessionOpened, list[SpaceInfo])]


class Slot:
    outcome: object = None

    def done(self) -> bool:
        return self.outcome is not None

    def set_result(self, result: object) -> None:
        self.outcome = (result,)

    def set_exception(self, exception: BaseException) -> None:
        self.outcome = exception


@settings(max_examples=200, deadline=None)
@given(st.integers(-1, 700), bodies, st.sampled_from(decoders), st.booleans())
def test_any_answer_ends_the_call(status: int, body: bytes, decode: object, changing: bool) -> None:
    calls, slot = Calls(limits=Limits(), chance=random.Random(1)), Slot()
    calls.submit(Call("op", GetData(space="a", offset=0, length=1), decode, slot, 100, 5.0, changing))  # type: ignore[arg-type]
    ((number, _, _),) = calls.take(1, 0.0)
    calls.answered(number, status, body, 0.0)
    calls.tick(10.0)
    assert not calls.busy
    assert isinstance(slot.outcome, lastgood.LastgoodError | tuple)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text()))
def test_any_lines_of_events(lines: list[str]) -> None:
    parser = SseParser()
    for line in lines:
        got = parser.feed(line)
        assert got is None or isinstance(got[1], str)


@pytest.mark.parametrize(
    "frame", [b"", b"\xc1", b"\x93\x01\x02", b"\x91\x93\x01\xa1\xff\xc0", b"\x91" * 2000, b"\xff" * 9]
)
async def test_a_frame_that_is_no_answer_costs_the_connection_only(frame: bytes) -> None:
    broken = 3

    async def node(request: web.Request) -> web.WebSocketResponse:
        nonlocal broken
        ws = web.WebSocketResponse()
        await ws.prepare(request)
        async for message in ws:
            if broken:
                broken -= 1
                await ws.send_bytes(frame)
                continue
            asked = msgspec.msgpack.decode(message.data)
            body = {"cluster_id": "c", "leader": None, "term": 1, "commit_index": 1, "applied_index": 1, "nodes": []}
            await ws.send_bytes(msgspec.msgpack.encode([(number, 200, body) for number, _, _ in asked]))
        return ws

    app = web.Application()
    app.router.add_get("/v1/stream", node)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with lastgood.connect(url, timing=lastgood.Timing(heartbeat_s=0.2)) as store, asyncio.timeout(10):
            assert (await store.cluster()).term == 1
    finally:
        await runner.cleanup()
