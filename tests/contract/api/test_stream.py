"""`/v1/stream`: pipelining, bounds, and every way to misuse it."""

import asyncio
from contextlib import asynccontextmanager

import aiohttp
import msgspec
import pytest
from aiohttp import WSMsgType

from cluster.api.answer import About, Answer, DataBody
from cluster.api.http import ApiOptions
from cluster.api.operations import OPERATIONS, STREAM_MESSAGE_BYTES_MAX, STREAM_OPEN_MAX
from cluster.api.stream import DOORS, READ_BYTES_OPEN_MAX, REQUESTS_A_MESSAGE_MAX, pack_frames
from tests.contract.api.scripted import Bytes, running

encode = msgspec.msgpack.encode
decode = msgspec.msgpack.decode


@asynccontextmanager
async def stream(door, **rest):
    async with door.http.ws_connect(door.url("/v1/stream"), max_msg_size=0, **rest) as socket:
        yield socket


async def receive(socket):
    message = await socket.receive(timeout=10)
    assert message.type is WSMsgType.BINARY, message
    return decode(message.data)


async def gather(socket, count):
    """`count` answers from as many messages as it takes, by id, and the sizes of the messages."""
    answers, sizes = {}, []
    while len(answers) < count:
        message = await socket.receive(timeout=10)
        assert message.type is WSMsgType.BINARY, message
        sizes.append(len(message.data))
        for number, status, body in decode(message.data):
            assert number not in answers
            answers[number] = (status, body)
    return answers, sizes


def put(number, **members):
    return (number, "putData", {"space": "a", "offset": number, "data": b"x", **members})


async def test_many_requests_a_message_and_one_message_of_answers(door):
    async with stream(door) as socket:
        await socket.send_bytes(encode([put(number) for number in range(64)]))
        answers = await receive(socket)
    assert answers == [[number, 200, {"op": "putData"}] for number in range(64)]
    assert door.metrics.requests[("putData", 200)] == 64


async def test_answers_come_in_any_order(door):
    door.service.held = True
    async with stream(door) as socket:
        await socket.send_bytes(encode([put(1), put(2)]))
        while len(door.service.asked) < 2:
            await asyncio.sleep(0)
        door.service.release()
        assert [answer[0] for answer in await receive(socket)] == [2, 1]


async def test_arguments_are_typed_and_binary(door):
    async with stream(door) as socket:
        seat = {"session": 9, "seq": 3, "ack": 2}
        tx = {"space": "a", "writes": [{"offset": 1, "data": b"\x00\xff"}], "if": {"lvc": 2}}
        await socket.send_bytes(
            encode([put(1, **seat), (2, "postTx", tx), (-3, "getPages", {"space": "a", "from": 4})])
        )
        await gather(socket, 3)
    written, tx, pages = (args for _, args in door.service.asked)
    assert (written.session, written.seq, written.ack, written.data) == (9, 3, 2, b"x")
    assert (tx.writes[0].data, tx.if_.lvc) == (b"\x00\xff", 2)
    assert pages.from_ == 4


async def test_reads_answer_data_and_where_it_is_from(door):
    door.service.script = Bytes(b"0123456789")
    async with stream(door) as socket:
        await socket.send_bytes(encode([(1, "getData", {"space": "a", "offset": 2, "length": 3})]))
        ((_, status, body),) = await receive(socket)
    assert status == 200
    assert body == {
        "data": b"234", "offset": 2, "size": 10, "lvc": 12, "epoch": 7, "index": 99, "uid": 7, "etag": '"7-7-12"',
    }  # fmt: skip


async def test_a_streamed_read_is_collected(door):
    door.service.script = Bytes(bytes(range(250)) * 20, streamed=True)
    async with stream(door) as socket:
        await socket.send_bytes(encode([(1, "getData", {"space": "a"})]))
        ((_, status, body),) = await receive(socket)
    assert (status, body["data"]) == (200, door.service.script.held)
    assert (body["uid"], door.service.script.closed) == (7, 1)


async def test_a_streamed_read_that_breaks(door):
    door.service.script = Bytes(bytes(5000), streamed=True)
    door.service.script.break_after = 2000
    async with stream(door) as socket:
        await socket.send_bytes(encode([(1, "getData", {"space": "a"})]))
        ((_, status, body),) = await receive(socket)
    assert (status, body["code"]) == (500, "internal")


@pytest.mark.parametrize("streamed", [False, True])
async def test_an_answer_over_the_limit_is_refused(door, streamed):
    door.service.script = Bytes(bytes(STREAM_MESSAGE_BYTES_MAX), streamed=streamed)
    async with stream(door) as socket:
        await socket.send_bytes(encode([(1, "getData", {"space": "a"})]))
        ((_, status, body),) = await receive(socket)
    assert (status, body["code"]) == (413, "too_large")


async def test_many_large_answers_take_several_messages(door):
    door.service.script = lambda op, args: Answer(200, [{"before": bytes(900_000)}])
    async with stream(door) as socket:
        await socket.send_bytes(encode([(number, "getWal", {"space": "a"}) for number in range(12)]))
        answers, sizes = await gather(socket, 12)
    assert len(answers) == 12
    assert max(sizes) <= STREAM_MESSAGE_BYTES_MAX


async def test_more_open_requests_than_allowed_are_refused_and_the_others_go_on(door):
    door.service.held = True
    async with stream(door) as socket:
        await socket.send_bytes(encode([put(number) for number in range(STREAM_OPEN_MAX + 3)]))
        answers, _ = await gather(socket, 3)
        assert {status for status, _ in answers.values()} == {429}
        assert sorted(answers) == [STREAM_OPEN_MAX, STREAM_OPEN_MAX + 1, STREAM_OPEN_MAX + 2]
        assert next(iter(answers.values()))[1]["code"] == "rate_limited"
        door.service.release()
        answers, _ = await gather(socket, STREAM_OPEN_MAX)
        assert {status for status, _ in answers.values()} == {200}
        door.service.held = False
        await socket.send_bytes(encode([put(1)]))
        assert (await receive(socket))[0][1] == 200


async def test_bytes_that_open_reads_may_answer_are_bounded(door):
    door.service.held = True
    length = 1024 * 1024
    count = READ_BYTES_OPEN_MAX // length
    async with stream(door) as socket:
        request = {"space": "a", "offset": 0, "length": length}
        await socket.send_bytes(encode([(number, "getData", request) for number in range(count + 1)]))
        ((number, status, _),) = await receive(socket)
        assert (number, status) == (count, 429)
        door.service.release()
        await gather(socket, count)
        door.service.held = False
        await socket.send_bytes(encode([(7, "getData", request)]))
        assert (await receive(socket))[0][1] == 200


@pytest.mark.parametrize(
    ("op", "args", "code"),
    [
        ("putDatum", {}, "not_found"),
        ("stream", {}, "not_found"),
        ("getMetrics", {}, "not_found"),
        ("putData", {}, "bad_request"),
        ("putData", [], "bad_request"),
        ("putData", {"space": "a", "offset": 0, "data": "text"}, "bad_request"),
        ("putData", {"space": "a", "offset": 0.0, "data": b"x"}, "bad_request"),
        ("putData", {"space": "a", "offset": -1, "data": b"x"}, "bad_request"),
        ("putData", {"space": "a", "offset": 0, "data": b""}, "bad_request"),
        ("putData", {"space": "a", "offset": 0, "data": b"x", "more": 1}, "bad_request"),
        ("putData", {"space": "a", "offset": 0, "data": b"x", "session": 1}, "bad_request"),
        ("putData", {"space": "a", "offset": 0, "data": b"x", "seq": 1}, "bad_request"),
        ("putData", {"space": "a", "offset": 0, "data": b"x", "session": 1, "seq": 1, "ack": 2}, "bad_request"),
        (
            "putData",
            {"space": "a", "offset": 0, "data": b"x", "session": 1, "seq": 1, "ack": 1, "idempotency_key": "k"},
            "bad_request",
        ),
        ("putData", {"space": "a", "offset": 0, "data": bytes(1024 * 1024 + 1)}, "too_large"),
        ("getData", {"space": "../etc", "offset": 0}, "bad_request"),
        ("getData", {"space": "a", "range": "bytes=x"}, "bad_request"),
        ("getEvents", {"sse": True}, "bad_request"),
        ("postRollback", {"space": "a"}, "bad_request"),
    ],
)
async def test_one_bad_request_harms_no_other(door, op, args, code):
    async with stream(door) as socket:
        await socket.send_bytes(encode([(1, op, args), put(2)]))
        answers, _ = await gather(socket, 2)
    status, body = answers[1]
    assert (body["code"], body["status"]) == (code, status)
    assert answers[2][0] == 200
    assert [asked[0] for asked in door.service.asked] == ["putData"]


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\xc1",
        encode({"id": 1}),
        encode([[1, "putData"]]),
        encode([["1", "putData", {}]]),
        encode([[1, 2, {}]]),
        encode([put(1)])[:-1],
        encode([]) + b"\x00",
        b"\x91\x93\x01\xa1a" + b"\x91" * 100_000,
        encode([(1, "x", {})] * (REQUESTS_A_MESSAGE_MAX + 1)),
    ],
    ids=["empty", "never", "map", "short", "id", "op", "cut", "rest", "deep", "too many"],
)
async def test_what_is_no_message_closes_the_stream(door, message):
    async with stream(door) as socket:
        await socket.send_bytes(message)
        closing = await socket.receive(timeout=5)
    assert closing.type is WSMsgType.CLOSE
    assert closing.data == 1007
    assert door.service.asked == []


async def test_text_closes_the_stream(door):
    async with stream(door) as socket:
        await socket.send_str("[]")
        closing = await socket.receive(timeout=5)
    assert (closing.type, closing.data) == (WSMsgType.CLOSE, 1003)


async def test_a_message_over_the_limit_closes_the_stream(door):
    async with stream(door) as socket:
        # Only the head of the frame: the declared length is refused before the bytes are there.
        transport = socket._writer.transport
        transport.write(b"\x82\xff" + (STREAM_MESSAGE_BYTES_MAX + 1).to_bytes(8, "big") + bytes(4))
        closing = await socket.receive(timeout=5)
    assert (closing.type, closing.data) == (WSMsgType.CLOSE, 1009)


async def test_a_message_up_to_the_limit_is_taken(door):
    writes = [{"offset": 0, "data": bytes(4_000_000)}]
    async with stream(door) as socket:
        await socket.send_bytes(encode([(1, "postTx", {"space": "a", "writes": writes})]))
        assert (await receive(socket))[0][1] == 200


async def test_a_client_that_does_not_read_is_not_read_either(door):
    door.service.script = lambda op, args: Answer(200, DataBody(bytes(1_000_000), 0, 9**9, 1, 1, 1, 1, '"1-1-1"'))
    request = encode([(number, "getData", {"space": "a", "length": 1_000_000}) for number in range(16)])
    async with stream(door) as socket:
        sender = asyncio.ensure_future(_send_all(socket, request, 40))
        seen = -1
        for _ in range(400):  # until nothing moves for a while, though 640 reads were sent
            await asyncio.sleep(0.01)
            if len(door.service.asked) == seen and not sender.done():
                break
            if len(door.service.asked) == 640:
                break
            seen = len(door.service.asked)
        assert len(door.service.asked) < 640
        count = 0
        while count < 640:
            count += len(await receive(socket))
        await sender


async def _send_all(socket, message, times):
    for _ in range(times):
        await socket.send_bytes(message)


async def test_a_client_that_leaves_takes_its_requests_with_it(door):
    door.service.held = True
    async with stream(door) as socket:
        await socket.send_bytes(encode([put(1)]))
        while not door.service.asked:
            await asyncio.sleep(0)
    door.service.held = False
    door.service.release()  # nobody listens, nothing breaks
    assert (await door.ask("GET", "/livez"))[0] == 200


async def test_another_node_gets_the_headers_too_and_may_pass_on_a_whole_transaction(door):
    door.service.script = lambda op, args: Answer(200, {}, about=About(12, 7, 99), replayed=True)
    writes = [{"offset": 0, "data": bytes(8_000_000)} for _ in range(8)]
    async with stream(door, headers={"X-Lastgood-Forwarded": "n2"}) as socket:
        await socket.send_bytes(encode([(1, "postTx", {"space": "a", "writes": writes})]))
        answers = await receive(socket)
    headers = {
        "X-Lastgood-LVC": "12",
        "X-Lastgood-Epoch": "7",
        "X-Lastgood-Index": "99",
        "Idempotency-Replayed": "true",
    }
    assert answers == [[1, 200, {}, headers]]
    assert door.service.forwarded == [True]


async def test_streams_are_bounded():
    async with running(ApiOptions(stream_connections_max=1)) as door, stream(door):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await door.http.ws_connect(door.url("/v1/stream"))
        assert refused.value.status == 429


async def test_a_foreign_page_gets_no_stream(door):
    with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
        await door.http.ws_connect(door.url("/v1/stream"), headers={"Origin": "https://evil.example"})
    assert refused.value.status == 403


async def test_stopping_says_so():
    async with running() as door:
        socket = await door.http.ws_connect(door.url("/v1/stream"))
        await socket.send_bytes(encode([put(1)]))
        await receive(socket)
        stopping = asyncio.ensure_future(door.runner.stop())
        closing = await socket.receive(timeout=5)
        assert (closing.type, closing.data) == (WSMsgType.CLOSE, 1001)
        await stopping


def test_operations_of_the_stream_are_those_of_the_table():
    assert set(DOORS) == {row.id for row in OPERATIONS if row.stream}
    assert {row.id for row in OPERATIONS} - set(DOORS) == {
        "getLivez",
        "getReadyz",
        "getMetrics",
        "getOpenapi",
        "stream",
    }


def test_frames_are_packed_in_order():
    encoded = [encode((number, 200, bytes(400_000))) for number in range(7)]
    frames = pack_frames(encoded)
    assert [answer[0] for frame in frames for answer in decode(frame)] == list(range(7))
    assert [len(decode(frame)) for frame in frames] == [2, 2, 2, 1]
    assert pack_frames([]) == []
