"""Reads of bytes: ranges, entity tags, streamed bodies, and what a broken one looks like to the client."""

import asyncio

import aiohttp
import pytest

from tests.contract.api.scripted import Bytes

HELD = bytes(range(200)) * 5
DATA = "/v1/spaces/a/data"


@pytest.fixture(params=["whole", "streamed"])
def held(door, request):
    door.service.script = Bytes(HELD, streamed=request.param == "streamed")
    return door.service.script


@pytest.mark.parametrize(
    ("header", "start", "stop"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=5-9", 5, 10),
        ("bytes=990-", 990, 1000),
        ("bytes=990-5000", 990, 1000),
        ("bytes=-3", 997, 1000),
        ("bytes=-5000", 0, 1000),
        ("BYTES=1-2", 1, 3),
    ],
)
async def test_a_range(door, held, header, start, stop):
    status, headers, body = await door.ask("GET", DATA, headers={"Range": header})
    assert (status, body) == (206, HELD[start:stop])
    assert headers["Content-Range"] == f"bytes {start}-{stop - 1}/1000"
    assert int(headers["Content-Length"]) == stop - start


@pytest.mark.parametrize("header", ["bytes=1000-", "bytes=1000-1001", "bytes=-0"])
async def test_a_range_beyond_the_bytes(door, held, header):
    status, headers, body = await door.ask("GET", DATA, headers={"Range": header})
    assert (status, body["code"]) == (416, "range_not_satisfiable")
    assert headers["Content-Range"] == "bytes */1000"


async def test_a_foreign_unit_is_ignored(door, held):
    status, _, body = await door.ask("GET", DATA, headers={"Range": "rows=1-2"})
    assert (status, body) == (200, HELD)


@pytest.mark.parametrize(
    ("query", "part"),
    [
        ("", HELD),
        ("?offset=990", HELD[990:]),
        ("?length=3", HELD[:3]),
        ("?offset=990&length=50", HELD[990:]),
        ("?offset=5&length=0", b""),
        ("?offset=1000", b""),
    ],
)
async def test_offset_and_length_are_cut_at_the_size(door, held, query, part):
    status, headers, body = await door.ask("GET", DATA + query)
    assert (status, body) == (200, part)
    assert "Content-Range" not in headers
    assert int(headers["Content-Length"]) == len(part)


async def test_an_offset_beyond_the_size(door, held):
    status, headers, _ = await door.ask("GET", f"{DATA}?offset=1001&length=1")
    assert (status, headers["Content-Range"]) == (416, "bytes */1000")


@pytest.mark.parametrize("headers", [{}, {"Range": "bytes=0-"}, {"Range": "bytes=-5"}])
async def test_an_empty_space_is_200_without_bytes(door, headers):
    door.service.script = Bytes(b"")
    status, answered, body = await door.ask("GET", DATA, headers=headers)
    assert (status, body, answered["Content-Length"]) == (200, b"", "0")


async def test_head_tells_the_length_and_sends_nothing(door, held):
    status, headers, body = await door.ask("HEAD", DATA, headers={"Range": "bytes=0-99"})
    assert (status, body) == (206, b"")
    assert headers["Content-Length"] == "100"
    if held.streamed:
        assert held.closed <= 1


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"If-None-Match": '"7-7-12"'}, 304),
        ({"If-None-Match": 'W/"7-7-12"'}, 304),
        ({"If-None-Match": '"a", "7-7-12"'}, 304),
        ({"If-None-Match": "*"}, 304),
        ({"If-None-Match": '"7-7-11"'}, 200),
        ({"If-Match": '"7-7-12"'}, 200),
        ({"If-Match": "*"}, 200),
        ({"If-Match": '"7-7-11"'}, 412),
        ({"If-Match": 'W/"7-7-12"'}, 412),
        ({"If-Match": '"7-7-11"', "If-None-Match": '"7-7-12"'}, 412),
    ],
)
async def test_conditions(door, held, headers, status):
    got, answered, body = await door.ask("GET", DATA, headers=headers)
    assert got == status
    if status == 304:
        assert body == b""
        assert answered["ETag"] == '"7-7-12"'
        assert "Content-Type" not in answered


@pytest.mark.parametrize(
    ("if_range", "header", "status"),
    [
        ('"7-7-12"', "bytes=1-2", 206),
        ('"7-7-11"', "bytes=1-2", 200),
        ('W/"7-7-12"', "bytes=1-2", 200),
        ("Sun, 22 Nov 2026 18:30:02 GMT", "bytes=1-2", 200),
        ('"7-7-11"', "bytes=5000-", 200),
    ],
)
async def test_if_range(door, held, if_range, header, status):
    got, _, body = await door.ask("GET", DATA, headers={"Range": header, "If-Range": if_range})
    assert got == status
    assert body == (HELD[1:3] if status == 206 else HELD)


async def test_a_body_that_breaks_off_is_no_whole_answer(door):
    door.service.script = Bytes(bytes(5000), streamed=True)
    door.service.script.break_after = 3000
    with pytest.raises((aiohttp.ClientPayloadError, aiohttp.ServerDisconnectedError)):
        await door.ask("GET", DATA)
    assert door.service.script.closed == 1


async def test_what_a_streamed_read_holds_is_released_when_the_client_leaves(door):
    door.service.script = Bytes(bytes(64_000_000), streamed=True)
    async with door.http.get(door.url(DATA)) as response:
        await response.content.readexactly(10)
        response.close()
    async with asyncio.timeout(5):
        while not door.service.script.closed:
            await asyncio.sleep(0.001)
    assert (await door.ask("HEAD", DATA))[0] == 200  # the server goes on


async def test_a_large_answer_in_one_piece(door):
    door.service.script = Bytes(bytes(range(256)) * 16384)
    status, _, body = await door.ask("GET", DATA)
    assert status == 200
    assert body == door.service.script.held
