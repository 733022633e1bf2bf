"""Passing on: small and large requests apart, one answer each, and what is known when the way breaks."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest
from aiohttp import WSMsgType, web

from cluster.api.answer import Answer
from cluster.service.forward import LARGE_SILENCE_S, MESSAGE_BYTES_MAX, SILENCE_S, Forwarder


class Leader:
    """A stream that answers every request with its size, or breaks the connection when it is told to."""

    def __init__(self) -> None:
        self.sockets: list[web.WebSocketResponse] = []
        self.breaks = False

    async def stream(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(max_msg_size=0)
        await socket.prepare(request)
        self.sockets.append(socket)
        async for message in socket:
            if message.type is not WSMsgType.BINARY or self.breaks:
                break
            rows = msgspec.msgpack.decode(message.data)
            await socket.send_bytes(
                msgspec.msgpack.encode([(number, 200, {"bytes": len(args["data"])}, {}) for number, _, args in rows])
            )
        return socket


@pytest.fixture
async def leader() -> Any:
    found = Leader()
    app = web.Application()
    app.router.add_get("/v1/stream", found.stream)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    found.url = f"http://127.0.0.1:{runner.addresses[0][1]}"  # type: ignore[attr-defined]
    yield found
    await runner.cleanup()


async def ask(forwarder: Forwarder, size: int) -> Answer:
    answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
    forwarder.call("n2", "putData", {"data": bytes(size)}, answered.set_result)
    return await asyncio.wait_for(answered, 20)


async def test_a_large_request_goes_on_a_stream_of_its_own(leader: Any) -> None:
    # Behind a message of 64 MiB a ping waits: the small stream's silence would end it, and what else is on its way.
    forwarder = Forwarder(node_id="n1", url_of=lambda _: leader.url, timeout_s=20)
    sizes = [10, MESSAGE_BYTES_MAX + 1, 20, 2 * MESSAGE_BYTES_MAX]
    answers = await asyncio.gather(*(ask(forwarder, size) for size in sizes))
    assert [answer.body for answer in answers] == [{"bytes": size} for size in sizes]
    assert (len(leader.sockets), SILENCE_S < LARGE_SILENCE_S) == (2, True)
    await forwarder.close()


async def test_a_way_that_breaks_leaves_the_outcome_open(leader: Any) -> None:
    forwarder = Forwarder(node_id="n1", url_of=lambda _: leader.url, timeout_s=20)
    leader.breaks = True
    assert (await ask(forwarder, 10)).status == 504
    assert (await ask(forwarder, 10)).status == 504  # over another connection
    await forwarder.close()
    assert len(leader.sockets) == 2
