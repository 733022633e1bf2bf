"""`GET /v1/events` as server-sent events."""

import asyncio

import msgspec
import pytest

from cluster.api.http import ApiOptions
from cluster.api.problem import problem
from tests.contract.api.scripted import running

SSE = {"Accept": "text/event-stream"}
EVENTS = [
    {"seq": 4, "index": 90, "type": "snapshot.created", "space": "a", "at": "2026-01-01T00:00:00.000Z", "id": 1},
    {"index": 91, "type": "leader.changed", "space": None, "at": "2026-01-01T00:00:00.000Z", "node": "n1"},
]


async def read_blocks(response, count):
    """`count` blocks of the stream, each a list of lines."""
    blocks, held = [], []
    while len(blocks) < count:
        line = (await asyncio.wait_for(response.content.readline(), 5)).decode().rstrip("\n")
        if line:
            held.append(line)
        else:
            blocks.append(held)
            held = []
    return blocks


async def test_events_are_one_json_line_with_the_seq_as_id(door):
    door.service.events = EVENTS
    async with door.http.get(door.url("/v1/events?types=snapshot.created&space=a"), headers=SSE) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert response.headers["Cache-Control"] == "no-cache"
        comment, first, second = await read_blocks(response, 3)
    assert comment[0].startswith(":")
    assert first[0] == "id: 4"
    assert msgspec.json.decode(first[1].removeprefix("data: ")) == EVENTS[0]
    assert len(first) == 2
    assert msgspec.json.decode(second[0].removeprefix("data: ")) == EVENTS[1]
    asked = door.service.last
    assert (asked.sse, asked.types, asked.space) == (True, "snapshot.created", "a")


async def test_a_reader_resumes_by_the_last_id(door):
    async with door.http.get(door.url("/v1/events?index=2"), headers={**SSE, "Last-Event-ID": "17"}) as response:
        await read_blocks(response, 1)
    assert (door.service.last.last_event_id, door.service.last.index) == ("17", 2)


async def test_comments_while_nothing_happens():
    async with running(ApiOptions(sse_comment_s=0.01)) as door:
        response = await door.http.get(door.url("/v1/events"), headers=SSE)
        blocks = await read_blocks(response, 4)
        response.close()
        assert all(block == [": still here"] for block in blocks)


async def test_a_resume_point_that_is_gone_is_a_problem(door):
    door.service.refuse_events = problem("gone", "seq 3 is no longer kept, the oldest is 9", oldest_seq=9)
    status, headers, body = await door.ask("GET", "/v1/events", headers=SSE)
    assert (status, headers["Content-Type"], body["oldest_seq"]) == (410, "application/problem+json", 9)


async def test_a_reader_that_leaves_releases_its_feed():
    async with running(ApiOptions(sse_comment_s=0.01)) as door:
        async with door.http.get(door.url("/v1/events"), headers=SSE) as response:
            await read_blocks(response, 1)
            while not door.service.feed_open:
                await asyncio.sleep(0)
            response.close()
        async with asyncio.timeout(5):
            while door.service.feed_open:
                await asyncio.sleep(0.001)


async def test_stopping_ends_the_stream(door):
    async with door.http.get(door.url("/v1/events"), headers=SSE) as response:
        await read_blocks(response, 1)
        await door.runner.stop()
        assert await asyncio.wait_for(response.content.read(), 5) == b""
    assert door.service.feed_open == 0


async def test_event_streams_are_bounded():
    async with running(ApiOptions(event_streams_max=1)) as door:
        response = await door.http.get(door.url("/v1/events"), headers=SSE)
        await read_blocks(response, 1)
        status, _, body = await door.ask("GET", "/v1/events", headers=SSE)
        assert (status, body["code"]) == (429, "rate_limited")
        response.close()


@pytest.mark.parametrize("accept", ["application/json", "*/*", "text/plain, application/json;q=0.5"])
async def test_without_the_media_type_it_is_a_long_poll(door, accept):
    status, headers, _ = await door.ask("GET", "/v1/events", headers={"Accept": accept})
    assert (status, headers["Content-Type"]) == (200, "application/json")
    assert door.service.last.sse is False
