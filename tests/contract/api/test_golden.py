"""Bytes of stream messages, of events and of problems are those of docs/format.md. Files: tests/golden/api."""

from pathlib import Path

import msgspec
import pytest
from aiohttp import WSMsgType
from lastgood.codes import CODES

from cluster.api.answer import About, Answer, DataBody
from cluster.api.problem import problem
from cluster.api.sse import format_event

GOLDEN = Path(__file__).parents[2] / "golden" / "api"
EVENTS = [
    {"seq": 1, "index": 7, "type": "snapshot.created", "space": "room-1", "at": "2026-01-01T00:00:00.000Z", "id": 1},
    {
        "index": 9,
        "type": "leader.changed",
        "space": None,
        "at": "2026-01-01T00:00:00.007Z",
        "node": "n1",
        "leader": "n2",
    },
]
REQUESTS = [
    [
        1,
        "putData",
        {"space": "room-1", "offset": 4096, "data": b"\x00\xff", "epoch": 7, "session": 3, "seq": 2, "ack": 1},
    ],
    [2, "getData", {"space": "room-1", "offset": 0, "length": 4}],
    [3, "postRollback", {"space": "room-1", "to": "@v1", "if": {"lvc": 9}, "idempotency_key": "k"}],
]


def golden(name, found):
    assert (GOLDEN / name).read_bytes() == found, f"{name} is written differently now: that breaks clients"


def answer(op, args):
    """What the story's service says."""
    if op == "putData":
        return Answer(200, {"lvc": 12, "epoch": 7, "log_seq": 31, "tx_id": "99-0"}, about=About(12, 7, 99))
    if op == "getData":
        return Answer(200, DataBody(b"abcd", 0, 4098, 12, 7, 99, 7, '"7-7-12"'))
    return problem("conflict", "if.lvc is 9, the space stands at 12")


async def told(door, **headers):
    """The frame that answers the golden request."""
    door.service.script = answer
    async with door.http.ws_connect(door.url("/v1/stream"), headers=headers) as socket:
        await socket.send_bytes((GOLDEN / "stream-request.bin").read_bytes())
        message = await socket.receive(timeout=5)
    assert message.type is WSMsgType.BINARY
    return message.data


def test_a_request_message():
    golden("stream-request.bin", msgspec.msgpack.encode(REQUESTS))


async def test_an_answer_message(door):
    golden("stream-answer.bin", await told(door))
    assert [args.space for _, args in door.service.asked] == ["room-1"] * 3


async def test_an_answer_message_to_another_node(door):
    golden("stream-answer-forwarded.bin", await told(door, **{"X-Lastgood-Forwarded": "n2"}))


def test_events():
    golden("events.sse", b"".join(format_event(event) for event in EVENTS))


@pytest.mark.parametrize("code", CODES)
async def test_problems(door, code):
    door.service.script = lambda op, args: problem(code, "lvc is 3, the limit is 2")
    async with door.http.get(door.url("/v1/spaces/a")) as response:
        found = await response.read()
    lines = (GOLDEN / "problems.jsonl").read_bytes().splitlines()
    assert lines[list(CODES).index(code)] == found
