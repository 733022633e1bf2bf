"""Every error code of the contract, on both doors, and everything that a client can do wrong."""

import asyncio
import io
import json

import msgspec
import pytest
from aiohttp import WSMsgType
from lastgood.codes import CODES

from cluster.api.http import ApiOptions
from cluster.api.operations import DATA_BYTES_MAX, JSON_BYTES_MAX
from cluster.api.problem import problem
from tests.contract.api.scripted import running

MEMBERS = {"type", "title", "status", "detail", "code", "retryable"}
DATA = "/v1/spaces/a/data"


def check_problem(code, status, headers, body):
    """The form that every status from 400 on has."""
    row = CODES[code]
    assert headers["Content-Type"] == "application/problem+json"
    assert set(body) >= MEMBERS
    assert (body["code"], status, body["status"], body["retryable"]) == (code, row.status, row.status, row.retryable)
    assert body["type"] == f"urn:lastgood:{code}"
    assert body["title"] == row.title
    assert body["detail"]
    assert ("Retry-After" in headers) == (status in (429, 503))


def test_the_table_of_codes_is_the_contracts():
    by_status = {}
    for row in CODES.values():
        by_status.setdefault(row.status, set()).add(row.code)
    assert by_status == {
        400: {"bad_request"},
        401: {"unauthorized"},
        403: {"forbidden"},
        404: {"not_found"},
        405: {"method_not_allowed"},
        409: {"conflict", "stale_epoch", "update_in_progress", "idempotency_conflict", "pinned"},
        410: {"gone", "outside_window"},
        412: {"precondition_failed"},
        413: {"too_large"},
        415: {"unsupported_media_type"},
        416: {"range_not_satisfiable"},
        429: {"rate_limited"},
        500: {"internal"},
        503: {"no_leader", "installing"},
        504: {"unknown_outcome"},
        507: {"storage_full"},
    }


@pytest.mark.parametrize("code", CODES)
async def test_code_of_the_service_on_http(door, code):
    door.service.script = lambda op, args: problem(code, "lvc is 3, the limit is 2", oldest_lvc=2)
    status, headers, body = await door.ask("POST", "/v1/spaces/a/rollback", json={"lvc": 1})
    check_problem(code, status, headers, body)
    assert body["oldest_lvc"] == 2


@pytest.mark.parametrize("code", CODES)
async def test_code_of_the_service_on_the_stream(door, code):
    door.service.script = lambda op, args: problem(code, "lvc is 3, the limit is 2", oldest_lvc=2)
    async with door.http.ws_connect(door.url("/v1/stream")) as socket:
        await socket.send_bytes(msgspec.msgpack.encode([(7, "postRollback", {"space": "a", "lvc": 1})]))
        message = await socket.receive(timeout=5)
    assert message.type is WSMsgType.BINARY
    ((number, status, body),) = msgspec.msgpack.decode(message.data)
    assert (number, status) == (7, CODES[code].status)
    check_problem(code, status, {"Content-Type": "application/problem+json", **_retry(status)}, body)


def _retry(status):
    return {"Retry-After": "1"} if status in (429, 503) else {}


# what is wrong, method, target, rest, code
BAD = [
    ("no such path", "GET", "/v1/nothing", {}, "not_found"),
    ("root", "GET", "/", {}, "not_found"),
    ("trailing slash", "GET", "/v1/spaces/", {}, "not_found"),
    ("empty segment", "GET", "/v1/spaces//data", {}, "not_found"),
    ("not built yet", "GET", "/v1/kv/a", {}, "not_found"),
    ("console not built yet", "GET", "/ui/", {}, "not_found"),
    ("updates not built yet", "POST", "/v1/spaces/a/updates", {"json": {}}, "not_found"),
    ("method", "POST", "/v1/spaces", {"json": {}}, "method_not_allowed"),
    ("method of options", "OPTIONS", "/v1/spaces/a/data", {}, "method_not_allowed"),
    ("head without get", "HEAD", "/v1/sessions", {}, "method_not_allowed"),
    ("space name", "GET", "/v1/spaces/-a", {}, "bad_request"),
    ("space name too long", "GET", f"/v1/spaces/{'a' * 129}", {}, "bad_request"),
    ("space name with a slash", "GET", "/v1/spaces/a%2Fb", {}, "bad_request"),
    ("space name with a newline", "GET", "/v1/spaces/a%0A", {}, "bad_request"),
    ("space name with braces", "GET", "/v1/spaces/a%7B", {}, "bad_request"),
    ("path not UTF-8", "GET", "/v1/spaces/%ff", {}, "bad_request"),
    ("query not UTF-8", "GET", "/v1/spaces?prefix=%ff", {}, "bad_request"),
    ("query unknown", "GET", "/v1/spaces?size=1", {}, "bad_request"),
    ("query twice", "GET", "/v1/spaces?limit=1&limit=1", {}, "bad_request"),
    ("query without a name", "GET", "/v1/spaces?=1", {}, "bad_request"),
    ("query empty piece", "GET", "/v1/spaces?limit=1&", {}, "bad_request"),
    ("query of a body member", "PUT", "/v1/spaces/a?page_size=4096", {}, "bad_request"),
    ("session is not for HTTP", "PUT", f"{DATA}?offset=0&session=1&seq=1&ack=1", {"data": b"x"}, "bad_request"),
    *[
        (f"integer {text}", "PUT", f"{DATA}?offset={text}", {"data": b"x"}, "bad_request")
        for text in
        ("%2B1", "+1", "1_0", "%201", "1%20", "1.0", "1e3", "0x1", "-1", "", "01", "%D9%A1", "null", "9" * 30)
    ],
    ("offset missing", "PUT", DATA, {"data": b"x"}, "bad_request"),
    ("limit 0", "GET", "/v1/spaces?limit=0", {}, "bad_request"),
    ("limit 1001", "GET", "/v1/spaces?limit=1001", {}, "bad_request"),
    ("consistency", "GET", "/v1/spaces/a?consistency=eventual", {}, "bad_request"),
    ("empty data", "PUT", f"{DATA}?offset=0", {}, "bad_request"),
    ("body where none is taken", "GET", "/v1/spaces/a", {"json": {}}, "bad_request"),
    ("body on delete", "DELETE", "/v1/spaces/a", {"json": {}}, "bad_request"),
    ("no JSON", "PUT", "/v1/spaces/a", {"data": b"{", "headers": {"Content-Type": "application/json"}}, "bad_request"),
    ("JSON array", "PUT", "/v1/spaces/a", {"json": []}, "bad_request"),
    ("JSON twice", "PUT", "/v1/spaces/a",
     {"data": b"{}{}", "headers": {"Content-Type": "application/json"}}, "bad_request"),
    ("JSON not UTF-8", "POST", "/v1/spaces/a/snapshots",
     {"data": b'{"label":"\xff"}', "headers": {"Content-Type": "application/json"}}, "bad_request"),
    ("JSON nested deep", "PUT", "/v1/spaces/a",
     {"data": b'{"policy":' + b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, "bad_request"),
    ("JSON member unknown", "PUT", "/v1/spaces/a", {"json": {"pagesize": 4096}}, "bad_request"),
    ("JSON inner member unknown", "PUT", "/v1/spaces/a", {"json": {"policy": {"rings": 1}}}, "bad_request"),
    ("JSON fraction", "PUT", "/v1/spaces/a", {"json": {"max_pages": 1.0}}, "bad_request"),
    ("JSON text for a number", "PUT", "/v1/spaces/a", {"json": {"max_pages": "1"}}, "bad_request"),
    ("JSON bool for a number", "PUT", "/v1/spaces/a", {"json": {"max_pages": True}}, "bad_request"),
    ("JSON number for a bool", "POST", "/v1/spaces/a/snapshots", {"json": {"pin": 1}}, "bad_request"),
    ("max_pages 0", "PUT", "/v1/spaces/a", {"json": {"max_pages": 0}}, "bad_request"),
    ("page_size no power of two", "PUT", "/v1/spaces/a", {"json": {"page_size": 5000}}, "bad_request"),
    ("page_size too large", "PUT", "/v1/spaces/a", {"json": {"page_size": 131072}}, "bad_request"),
    ("dirty_ratio 0", "PUT", "/v1/spaces/a", {"json": {"policy": {"dirty_ratio": 0}}}, "bad_request"),
    ("dirty_ratio over 1", "PUT", "/v1/spaces/a", {"json": {"policy": {"dirty_ratio": 1.01}}}, "bad_request"),
    ("ring 0", "PUT", "/v1/spaces/a", {"json": {"policy": {"ring": 0}}}, "bad_request"),
    ("ring too large", "PUT", "/v1/spaces/a", {"json": {"policy": {"ring": 65537}}}, "bad_request"),
    ("fork without a snapshot", "PUT", "/v1/spaces/a", {"json": {"from": {"space": "b"}}}, "bad_request"),
    ("tx without anything", "POST", "/v1/spaces/a/tx", {"json": {}}, "bad_request"),
    ("tx without a body", "POST", "/v1/spaces/a/tx", {}, "bad_request"),
    ("tx with no base64", "POST", "/v1/spaces/a/tx", {"json": {"writes": [{"offset": 0, "data": "?"}]}}, "bad_request"),
    ("tx with empty data", "POST", "/v1/spaces/a/tx", {"json": {"writes": [{"offset": 0, "data": ""}]}}, "bad_request"),
    ("tx page name", "POST", "/v1/spaces/a/tx", {"json": {"size": 1, "if": {"pages": {"+1": 0}}}}, "bad_request"),
    ("tx two epochs", "POST", "/v1/spaces/a/tx?epoch=1", {"json": {"size": 1, "if": {"epoch": 2}}}, "bad_request"),
    ("tx no msgpack", "POST", "/v1/spaces/a/tx",
     {"data": b"\xc1", "headers": {"Content-Type": "application/msgpack"}}, "bad_request"),
    ("tx ranges", "POST", "/v1/spaces/a/tx", {"json": {"writes": [{"offset": 0, "data": "YQ=="}] * 1025}}, "too_large"),
    ("snapshot kind", "POST", "/v1/spaces/a/snapshots", {"json": {"kind": "hybrid"}}, "bad_request"),
    ("snapshot ttl", "POST", "/v1/spaces/a/snapshots", {"json": {"ttl_s": 0.5}}, "bad_request"),
    ("label with @", "POST", "/v1/spaces/a/snapshots", {"json": {"label": "@a"}}, "bad_request"),
    ("label all digits", "POST", "/v1/spaces/a/snapshots", {"json": {"label": "12"}}, "bad_request"),
    ("label empty", "POST", "/v1/spaces/a/snapshots", {"json": {"label": ""}}, "bad_request"),
    ("label too long", "POST", "/v1/spaces/a/snapshots", {"json": {"label": "a" * 129}}, "bad_request"),
    ("label not printable", "POST", "/v1/spaces/a/snapshots", {"json": {"label": "a\n"}}, "bad_request"),
    ("snapshot id 0", "GET", "/v1/spaces/a/snapshots/0", {}, "bad_request"),
    ("snapshot neither id nor label", "GET", "/v1/spaces/a/snapshots/v1", {}, "bad_request"),
    ("snapshot empty label", "GET", "/v1/spaces/a/snapshots/@", {}, "bad_request"),
    ("diff from live", "GET", "/v1/spaces/a/snapshots/live/diff/1", {}, "bad_request"),
    ("holder", "POST", "/v1/spaces/a/snapshots/1/pin", {"json": {"holder": "a b"}}, "bad_request"),
    ("cut of nothing", "POST", "/v1/snapshots", {"json": {}}, "bad_request"),
    ("cut of no spaces", "POST", "/v1/snapshots", {"json": {"spaces": []}}, "bad_request"),
    ("cut by both", "POST", "/v1/snapshots", {"json": {"spaces": ["a"], "prefix": "a"}}, "bad_request"),
    ("cut of one space twice", "POST", "/v1/snapshots", {"json": {"spaces": ["a", "a"]}}, "bad_request"),
    ("cut label", "POST", "/v1/snapshots", {"json": {"spaces": ["a"], "label": "1"}}, "bad_request"),
    ("rollback to nothing", "POST", "/v1/spaces/a/rollback", {"json": {}}, "bad_request"),
    ("rollback to both", "POST", "/v1/spaces/a/rollback", {"json": {"to": 1, "lvc": 1}}, "bad_request"),
    ("rollback to a name", "POST", "/v1/spaces/a/rollback", {"json": {"to": "v1"}}, "bad_request"),
    ("rollback two epochs", "POST", "/v1/spaces/a/rollback?epoch=1",
     {"json": {"to": 1, "if": {"epoch": 2}}}, "bad_request"),
    ("wait without a unit", "GET", "/v1/events?wait=1", {}, "bad_request"),
    ("wait too long", "GET", "/v1/events?wait=11m", {}, "bad_request"),
    ("event type", "GET", "/v1/events?types=snapshot.created,snapshot.lost", {}, "bad_request"),
    ("Last-Event-ID", "GET", "/v1/events", {"headers": {"Last-Event-ID": "x"}}, "bad_request"),
    ("sse is no parameter", "GET", "/v1/events?sse=true", {}, "bad_request"),
    ("stream without upgrade", "GET", "/v1/stream", {}, "bad_request"),
    ("Range several", "GET", DATA, {"headers": {"Range": "bytes=0-1,3-4"}}, "bad_request"),
    ("Range no form", "GET", DATA, {"headers": {"Range": "bytes=a-b"}}, "bad_request"),
    ("Range backwards", "GET", DATA, {"headers": {"Range": "bytes=4-3"}}, "bad_request"),
    ("Range and offset", "GET", f"{DATA}?offset=1", {"headers": {"Range": "bytes=0-1"}}, "bad_request"),
    ("If-Match no tag", "PUT", f"{DATA}?offset=0", {"data": b"x", "headers": {"If-Match": "1-2-3"}}, "bad_request"),
    ("If-Match two tags on a write", "PUT", f"{DATA}?offset=0",
     {"data": b"x", "headers": {"If-Match": '"1-2-3", "1-2-4"'}}, "bad_request"),
    ("If-None-Match no tag", "GET", DATA, {"headers": {"If-None-Match": "x"}}, "bad_request"),
    ("key with a space", "POST", "/v1/sessions", {"headers": {"Idempotency-Key": "a b"}}, "bad_request"),
    ("key empty", "POST", "/v1/sessions", {"headers": {"Idempotency-Key": ""}}, "bad_request"),
    ("key too long", "POST", "/v1/sessions", {"headers": {"Idempotency-Key": "k" * 129}}, "bad_request"),
    ("key not ASCII", "POST", "/v1/sessions", {"headers": {"Idempotency-Key": "ké"}}, "bad_request"),
    ("key twice", "POST", "/v1/sessions",
     {"headers": [("Idempotency-Key", "a"), ("Idempotency-Key", "a")]}, "bad_request"),
    ("expect", "PUT", f"{DATA}?offset=0", {"data": b"x", "headers": {"Expect": "more"}}, "bad_request"),
    ("no media type", "PUT", "/v1/spaces/a",
     {"data": b"{}", "headers": {"Content-Type": ""}}, "unsupported_media_type"),
    ("text", "PUT", "/v1/spaces/a",
     {"data": b"{}", "headers": {"Content-Type": "text/plain"}}, "unsupported_media_type"),
    ("form", "POST", "/v1/spaces/a/tx", {"data": {"a": "b"}}, "unsupported_media_type"),
    ("charset", "PUT", "/v1/spaces/a",
     {"data": b"{}", "headers": {"Content-Type": "application/json; charset=latin-1"}}, "unsupported_media_type"),
    ("msgpack for other than tx", "PUT", "/v1/spaces/a",
     {"data": b"\x80", "headers": {"Content-Type": "application/msgpack"}}, "unsupported_media_type"),
    ("compressed", "PUT", f"{DATA}?offset=0",
     {"data": b"x", "headers": {"Content-Encoding": "gzip"}}, "unsupported_media_type"),
    ("data over the limit", "PUT", f"{DATA}?offset=0", {"data": io.BytesIO(bytes(DATA_BYTES_MAX + 1))}, "too_large"),
    ("JSON over the limit", "POST", "/v1/snapshots",
     {"data": io.BytesIO(b" " * (JSON_BYTES_MAX + 1)), "headers": {"Content-Type": "application/json"}}, "too_large"),
    ("head over the limit", "GET", "/v1/spaces", {"headers": {f"X-{n}": "y" * 1000 for n in range(9)}}, "too_large"),
    ("one header over the limit", "GET", "/v1/spaces", {"headers": {"X-Long": "y" * 9000}}, "too_large"),
    ("foreign host", "GET", "/v1/spaces", {"headers": {"Host": "evil.example"}}, "forbidden"),
    ("foreign origin", "GET", "/v1/spaces", {"headers": {"Origin": "http://evil.example"}}, "forbidden"),
    ("origin of a file", "GET", "/v1/spaces", {"headers": {"Origin": "null"}}, "forbidden"),
    ("host as a part", "GET", "/livez", {"headers": {"Host": "127.0.0.1.evil.example"}}, "forbidden"),
]  # fmt: skip


@pytest.mark.parametrize("case", BAD, ids=[case[0] for case in BAD])
async def test_what_is_wrong_is_refused_before_the_service_sees_it(door, case):
    _, method, target, rest, code = case
    status, headers, body = await door.ask(method, target, **rest)
    if method == "HEAD":
        assert (status, body) == (CODES[code].status, b"")
    else:
        check_problem(code, status, headers, body)
    assert door.service.asked == []
    if code == "method_not_allowed":
        assert headers["Allow"]


async def test_allow_names_what_is_there(door):
    _, headers, _ = await door.ask("POST", DATA, data=b"x")
    assert headers["Allow"] == "GET, HEAD, PUT"


@pytest.mark.parametrize(
    ("head", "code"),
    [
        ("NO HTTP AT ALL", "bad_request"),
        ("GET /v1/spaces HTTP/9.9\nHost: localhost", "bad_request"),
        ("GET /v1/spaces HTTP/1.1", "bad_request"),
        ("GET /v1/spaces HTTP/1.1\nHost: localhost\nHost: localhost", "bad_request"),
        ("GET /v1/spaces HTTP/1.1\nHost: localhost\nBad Header: x", "bad_request"),
        (f"GET /{'a' * 9000} HTTP/1.1\nHost: localhost", "too_large"),
        ("PUT /v1/spaces/a HTTP/1.1\nHost: localhost\nContent-Length: x", "bad_request"),
        ("PUT /v1/spaces/a HTTP/1.1\nHost: localhost\nContent-Length: -1", "bad_request"),
    ],
    ids=["no HTTP", "version", "no host", "two hosts", "header name", "long line", "length", "negative length"],
)
async def test_what_the_parser_refuses_is_a_problem_too(door, head, code):
    status, headers, body = await door.raw(head)
    headers = {"Content-Type": headers["content-type"], **_retry(status)}
    check_problem(code, status, headers, json.loads(body))
    assert door.service.asked == []


@pytest.mark.parametrize(
    ("target", "kind", "length"),
    [
        (f"{DATA}?offset=0", "application/octet-stream", DATA_BYTES_MAX + 1),
        ("/v1/spaces/a/tx", "application/json", JSON_BYTES_MAX + 1),
        ("/v1/spaces/a/tx", "application/msgpack", 65 * 1024 * 1024),
    ],
)
async def test_a_declared_length_over_the_limit_is_refused_before_any_of_it_is_there(door, target, kind, length):
    method = "PUT" if "offset" in target else "POST"
    head = f"{method} {target} HTTP/1.1\nHost: localhost\nContent-Type: {kind}\nContent-Length: {length}"
    async with asyncio.timeout(1):  # the body never comes
        status, headers, body = await door.raw(head)
    check_problem("too_large", status, {"Content-Type": headers["content-type"]}, json.loads(body))


async def test_a_chunked_body_is_refused_as_soon_as_it_is_over_the_limit(door):
    head = f"PUT {DATA}?offset=0 HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
    chunk = b"10000\r\n" + bytes(0x10000) + b"\r\n"
    async with asyncio.timeout(5):  # its end never comes
        status, headers, body = await door.raw(head, chunk * 17)
    check_problem("too_large", status, {"Content-Type": headers["content-type"]}, json.loads(body))


async def test_a_chunked_body_within_the_limit_arrives_whole(door):
    head = f"PUT {DATA}?offset=0 HTTP/1.1\nHost: localhost\nTransfer-Encoding: chunked"
    status, _, _ = await door.raw(head, b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert status == 200
    assert door.service.last.data == b"abcde"


async def test_bodies_of_all_requests_together_are_bounded():
    async with running(ApiOptions(bodies_bytes_max=1000)) as door:
        status, headers, body = await door.ask("PUT", f"{DATA}?offset=0", data=bytes(1001))
        check_problem("rate_limited", status, headers, body)
        status, _, _ = await door.ask("PUT", f"{DATA}?offset=0", data=bytes(1000))  # given back
        assert status == 200
        door.service.held = True
        waiting = asyncio.ensure_future(door.ask("PUT", f"{DATA}?offset=0", data=bytes(600)))
        while len(door.service.asked) < 2:
            await asyncio.sleep(0)
        assert (await door.ask("PUT", f"{DATA}?offset=0", data=bytes(600)))[0] == 429  # the first still holds its bytes
        door.service.release()
        assert (await waiting)[0] == 200


async def test_a_body_that_stops_coming_is_given_up():
    async with running(ApiOptions(body_idle_s=0.05)) as door:
        head = f"PUT {DATA}?offset=0 HTTP/1.1\nHost: localhost\nContent-Length: 10"
        status, headers, body = await door.raw(head, b"abc")
        check_problem("bad_request", status, {"Content-Type": headers["content-type"]}, json.loads(body))


async def test_open_requests_are_bounded():
    async with running(ApiOptions(requests_open_max=1)) as door:
        door.service.held = True
        first = asyncio.ensure_future(door.ask("GET", "/v1/spaces/a"))
        while not door.service.asked:
            await asyncio.sleep(0)
        status, headers, body = await door.ask("GET", "/v1/spaces/a")
        check_problem("rate_limited", status, headers, body)
        door.service.release()
        assert (await first)[0] == 200


async def test_a_service_that_breaks_its_word_is_an_internal_error_not_a_page(door):
    def broken(op, args):
        raise RuntimeError("a secret detail")

    door.service.script = broken
    status, headers, body = await door.ask("GET", "/v1/spaces/a")
    check_problem("internal", status, headers, body)
    assert "secret" not in json.dumps(body)


async def test_a_health_check_of_http_1_0_needs_no_host(door):
    status, _, _ = await door.raw("GET /livez HTTP/1.0")
    assert status == 200
    status, _, _ = await door.raw("GET /livez HTTP/1.0\nHost: evil.example")
    assert status == 403


async def test_allowed_hosts_and_origins():
    async with running(allowed_hosts=["node-1.example:7801", "http://edge.example"]) as door:
        for host in ("node-1.example", "NODE-1.example:9", "edge.example.", "localhost:1", "[::1]:80", "127.0.0.1"):
            assert (await door.ask("GET", "/v1/spaces/a", headers={"Host": host}))[0] == 200, host
            origin = f"https://{host}"
            assert (await door.ask("GET", "/v1/spaces/a", headers={"Origin": origin}))[0] == 200, origin
