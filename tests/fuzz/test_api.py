"""No bytes from outside crash the API or get past its types: HTTP heads, queries, bodies, stream messages."""

import asyncio
import json

import aiohttp
import msgspec
import pytest
from aiohttp import WSMsgType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from lastgood.codes import CODES

from cluster.api.args import Args
from cluster.api.checks import CHECKS
from cluster.api.operations import OPERATIONS
from cluster.api.problem import ProblemError
from cluster.api.requests import BINDERS
from cluster.api.router import Router
from cluster.api.stream import DOORS
from tests.contract.api.scripted import running

QUICK = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
ROUTER = Router(OPERATIONS)

words = st.sampled_from(
    [
        "space",
        "offset",
        "data",
        "limit",
        "if",
        "from",
        "epoch",
        "lvc",
        "writes",
        "a",
        "1",
        "-1",
        "@x",
        "bytes=0-",
        '"1-1-1"',
    ]
)
leaf = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | words
tree = st.recursive(
    leaf, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words, inner, max_size=4), max_leaves=12
)
queries = st.lists(st.tuples(words | st.text(max_size=4), words | st.text(max_size=6)), max_size=4)


def run(story, *given_values):
    """One event loop an example: hypothesis does not know coroutines."""
    asyncio.run(story(*given_values))


@QUICK
@given(path=st.lists(words | st.text(max_size=5), max_size=7), query=st.text(max_size=40), body=st.binary(max_size=60))
def test_binding_refuses_or_makes_arguments(path, query, body):
    for row in OPERATIONS:
        names = [piece[1:-1] for piece in row.path.split("/") if piece.startswith("{")]
        path_args = dict(zip(names, [*path, *(["a"] * 9)], strict=False))
        also = {"data": body} if row.body == "raw" else {}
        try:
            asked = BINDERS[row.id].bind(path_args, query, [], body, msgpack=row.body == "tx", **also)
        except ProblemError as error:
            assert error.answer.status == 400
        else:
            assert isinstance(asked, Args)
            msgspec.convert(msgspec.to_builtins(asked, builtin_types=(bytes,)), row.args)  # the types really hold


@QUICK
@given(body=tree)
def test_json_bodies_are_refused_or_well_typed(body):
    for row in OPERATIONS:
        if row.body not in ("json", "tx"):
            continue
        path_args = {piece[1:-1]: "1" for piece in row.path.split("/") if piece.startswith("{")}
        try:
            asked = BINDERS[row.id].bind(path_args, "", [], json.dumps(body).encode())
        except ProblemError as error:
            assert error.answer.status == 400
        else:
            check = CHECKS.get(row.id)
            refusal = check(asked) if check else None
            assert refusal is None or refusal.status in (400, 413)


@QUICK
@given(st.text(max_size=60) | st.lists(words, max_size=7).map("/".join))
def test_routing_finds_or_refuses(path):
    try:
        ROUTER.route("GET", "/" + path)
    except ProblemError as error:
        assert error.answer.status in (400, 404, 405)


@QUICK
@given(args=tree)
def test_stream_arguments_are_refused_or_well_typed(args):
    raw = msgspec.msgpack.encode(msgspec.to_builtins(args)) if _encodable(args) else b"\xc0"
    for door in DOORS.values():
        try:
            asked = door.decode(raw)
        except (msgspec.MsgspecError, UnicodeDecodeError):
            continue
        if door.check is not None:
            door.check(asked)


def _encodable(value):
    try:
        msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError):
        return False
    return True


def test_heads_of_any_bytes_get_a_problem_or_nothing():
    lines = st.lists(st.binary(max_size=30) | st.sampled_from([b"Host: localhost", b"GET / HTTP/1.1"]), max_size=5)

    @QUICK
    @given(lines)
    def example(parts):
        run(story, b"\r\n".join(parts) + b"\r\n\r\n")

    async def story(sent):
        async with running() as door:
            reader, writer = await asyncio.open_connection(door.runner.host, door.runner.port)
            writer.write(sent)
            writer.write_eof()
            async with asyncio.timeout(5):
                answer = await reader.read()
            writer.close()
            if answer:
                head, _, body = answer.partition(b"\r\n\r\n")
                status = int(head.split(b" ")[1])
                assert status >= 400 or not body
                if status >= 400:
                    assert b"application/problem+json" in head
                    first = json.JSONDecoder().raw_decode(body.decode("utf-8", "replace"))[0]
                    assert first["code"] in CODES
            assert (await door.ask("GET", "/v1/spaces/a"))[0] == 200

    example()


def test_queries_of_any_text_get_an_answer():
    @QUICK
    @given(st.sampled_from(OPERATIONS), queries)
    def example(row, query):
        run(story, row, query)

    async def story(row, query):
        async with running() as door:
            async with door.http.request(
                row.method, door.url(row.path.replace("{", "").replace("}", "")), params=query
            ) as response:
                body = await response.read()
            assert response.status < 500, body
            if response.status >= 400:
                assert response.headers["Content-Type"] == "application/problem+json"

    example()


def test_the_fuzz_finds_a_planted_crash():
    """A canary: a decoder that fails on one sort of argument must not survive the examples of this file."""

    def planted(raw):
        decoded = msgspec.msgpack.decode(raw)
        if isinstance(decoded, dict) and "offset" in decoded:
            raise KeyError("planted")

    @QUICK
    @given(args=tree)
    def example(args):
        if _encodable(args):
            planted(msgspec.msgpack.encode(args))

    with pytest.raises(KeyError, match="planted"):
        example()


def test_messages_of_any_bytes_close_the_stream_or_are_answered():
    requests = st.lists(
        st.tuples(st.integers(-(2**40), 2**40), st.sampled_from(sorted(DOORS)) | st.text(max_size=5), tree), max_size=5
    )

    @QUICK
    @given(st.binary(max_size=50) | requests)
    def example(message):
        run(story, message)

    async def story(message):
        sent = message if isinstance(message, bytes) else b""
        if not isinstance(message, bytes):
            if not _encodable(message):
                return
            sent = msgspec.msgpack.encode(message)
        async with running() as door, door.http.ws_connect(door.url("/v1/stream")) as socket:
            await socket.send_bytes(sent)
            await socket.send_bytes(msgspec.msgpack.encode([(2**50, "getCluster", {})]))
            answered = set()
            while 2**50 not in answered:
                answer = await socket.receive(timeout=5)
                if answer.type is not WSMsgType.BINARY:
                    assert (answer.type, answer.data) == (WSMsgType.CLOSE, aiohttp.WSCloseCode.INVALID_TEXT)
                    return
                for number, status, body in msgspec.msgpack.decode(answer.data):
                    assert status < 500, body
                    answered.add(number)
            if not isinstance(message, bytes):
                assert answered >= {number for number, _, _ in message}

    example()
