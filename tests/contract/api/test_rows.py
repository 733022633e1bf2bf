"""Every row of the HTTP resources: the request reaches the service as its operation, the answer comes back."""

import base64

import msgspec
import pytest

from cluster.api.answer import About, Answer
from cluster.api.operations import OPERATIONS
from tests.contract.api.scripted import Bytes

TX = {"writes": [{"offset": 0, "data": base64.b64encode(b"ab").decode()}]}

# row of the contract, method, target, rest of the request, operation, arguments that must arrive, status of the answer
ROWS = [
    ("livez", "GET", "/livez", {}, "getLivez", {}, 200),
    ("readyz", "GET", "/readyz", {}, "getReadyz", {}, 200),
    ("cluster", "GET", "/v1/cluster", {}, "getCluster", {}, 200),
    ("create space", "PUT", "/v1/spaces/room-1", {}, "putSpace", {"space": "room-1", "page_size": None}, 201),
    (
        "create space with settings",
        "PUT",
        "/v1/spaces/a.B_c-9",
        {"json": {"page_size": 8192, "max_pages": 9, "policy": {"ring": 3, "ttl_s": None}, "from": None}},
        "putSpace",
        {"space": "a.B_c-9", "page_size": 8192, "max_pages": 9, "from_": None},
        200,
    ),
    ("list spaces", "GET", "/v1/spaces", {}, "listSpaces", {"limit": 100, "after": None}, 200),
    (
        "list spaces, paged",
        "GET",
        "/v1/spaces?limit=7&after=b&prefix=b%2D&consistency=stale",
        {},
        "listSpaces",
        {"limit": 7, "after": "b", "prefix": "b-", "consistency": "stale"},
        200,
    ),
    ("get space", "GET", "/v1/spaces/a", {}, "getSpace", {"space": "a", "consistency": "linearizable"}, 200),
    ("delete space", "DELETE", "/v1/spaces/a?epoch=7", {}, "deleteSpace", {"space": "a", "epoch": 7}, 204),
    (
        "put data",
        "PUT",
        "/v1/spaces/a/data?offset=5&epoch=3",
        {"data": b"\x00\xff", "headers": {"If-Match": '"1-2-3"'}},
        "putData",
        {"space": "a", "offset": 5, "epoch": 3, "data": b"\x00\xff", "if_match": '"1-2-3"'},
        200,
    ),
    ("tx", "POST", "/v1/spaces/a/tx", {"json": TX}, "postTx", {"space": "a", "size": None}, 200),
    (
        "tx with conditions",
        "POST",
        "/v1/spaces/a/tx",
        {"json": {**TX, "size": 9, "if": {"lvc": 3, "epoch": 2, "pages": {"0": 1}}, "tx_id": "t1"}},
        "postTx",
        {"size": 9, "tx_id": "t1"},
        200,
    ),
    (
        "tx in msgpack",
        "POST",
        "/v1/spaces/a/tx",
        {
            "data": msgspec.msgpack.encode({"writes": [{"offset": 1, "data": b"\x00"}]}),
            "headers": {"Content-Type": "application/msgpack"},
        },
        "postTx",
        {"space": "a"},
        200,
    ),
    ("get data", "GET", "/v1/spaces/a/data", {}, "getData", {"range": None, "offset": None}, 200),
    (
        "get data by offset at an LVC",
        "GET",
        "/v1/spaces/a/data?offset=1&length=2&at_lvc=3",
        {},
        "getData",
        {"offset": 1, "length": 2, "at_lvc": 3},
        200,
    ),
    (
        "get data by Range",
        "GET",
        "/v1/spaces/a/data",
        {"headers": {"Range": "bytes=0-1"}},
        "getData",
        {"range": "bytes=0-1"},
        206,
    ),
    ("pages", "GET", "/v1/spaces/a/pages?from=4&limit=2", {}, "getPages", {"from_": 4, "limit": 2}, 200),
    ("wal", "GET", "/v1/spaces/a/wal?from_seq=4&limit=2", {}, "getWal", {"from_seq": 4, "limit": 2}, 200),
    ("take snapshot", "POST", "/v1/spaces/a/snapshots", {}, "createSnapshot", {"kind": "auto", "pin": False}, 201),
    (
        "take snapshot with members",
        "POST",
        "/v1/spaces/a/snapshots?epoch=2",
        {"json": {"label": "v1 β", "kind": "full", "ttl_s": 1.5, "pin": True}},
        "createSnapshot",
        {"label": "v1 β", "kind": "full", "ttl_s": 1.5, "pin": True, "epoch": 2},
        201,
    ),
    ("list snapshots", "GET", "/v1/spaces/a/snapshots?before=9", {}, "listSnapshots", {"before": 9, "limit": 100}, 200),
    ("get snapshot", "GET", "/v1/spaces/a/snapshots/12", {}, "getSnapshot", {"snapshot": "12"}, 200),
    ("get snapshot by label", "GET", "/v1/spaces/a/snapshots/@v%201", {}, "getSnapshot", {"snapshot": "@v 1"}, 200),
    ("delete snapshot", "DELETE", "/v1/spaces/a/snapshots/12", {}, "deleteSnapshot", {"snapshot": "12"}, 204),
    ("pin", "POST", "/v1/spaces/a/snapshots/12/pin", {}, "pinSnapshot", {"holder": "default"}, 200),
    (
        "unpin",
        "POST",
        "/v1/spaces/a/snapshots/@x/unpin",
        {"json": {"holder": "h"}},
        "unpinSnapshot",
        {"holder": "h"},
        200,
    ),
    ("snapshot data", "GET", "/v1/spaces/a/snapshots/12/data?length=3", {}, "getSnapshotData", {"length": 3}, 200),
    ("diff", "GET", "/v1/spaces/a/snapshots/1/diff/@b", {}, "diffSnapshots", {"a": "1", "b": "@b"}, 200),
    ("diff to live", "GET", "/v1/spaces/a/snapshots/1/diff/live", {}, "diffSnapshots", {"b": "live"}, 200),
    ("cut", "POST", "/v1/snapshots", {"json": {"spaces": ["a", "b"]}}, "createSnapshots", {"spaces": ["a", "b"]}, 201),
    ("cut by prefix", "POST", "/v1/snapshots", {"json": {"prefix": "r-"}}, "createSnapshots", {"prefix": "r-"}, 201),
    (
        "rollback",
        "POST",
        "/v1/spaces/a/rollback",
        {"json": {"to": 3}},
        "postRollback",
        {"to": 3, "dry_run": False},
        200,
    ),
    ("rollback by label", "POST", "/v1/spaces/a/rollback", {"json": {"to": "@v1"}}, "postRollback", {"to": "@v1"}, 200),
    (
        "rollback to an LVC",
        "POST",
        "/v1/spaces/a/rollback",
        {"json": {"lvc": 0, "if": {"lvc": 4}, "reason": "bad", "dry_run": True}},
        "postRollback",
        {"lvc": 0, "reason": "bad", "dry_run": True},
        200,
    ),
    ("session", "POST", "/v1/sessions", {}, "postSession", {}, 201),
    (
        "events by long poll",
        "GET",
        "/v1/events?index=0&wait=500ms&space=a&types=snapshot.created,leader.changed",
        {},
        "getEvents",
        {"index": 0, "wait": "500ms", "space": "a", "types": "snapshot.created,leader.changed", "sse": False},
        200,
    ),
    ("transfers", "GET", "/v1/transfers", {}, "listTransfers", {}, 200),
]


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
async def test_row(door, row):
    _, method, target, rest, op, arrives, status = row
    reads = op in ("getData", "getSnapshotData")
    if reads:
        door.service.script = Bytes(b"0123456789")
    else:
        body = None if status == 204 else {"op": op}
        door.service.script = lambda op, args: Answer(status, body, about=About(12, 7, 99))
    got, headers, answered = await door.ask(method, target, **rest)
    assert got == status
    assert [asked[0] for asked in door.service.asked] == [op]
    for name, value in arrives.items():
        assert getattr(door.service.last, name) == value, name
    assert (headers["X-Lastgood-LVC"], headers["X-Lastgood-Epoch"], headers["X-Lastgood-Index"]) == ("12", "7", "99")
    if reads:
        assert headers["Content-Type"] == "application/octet-stream"
        assert headers["ETag"] == '"7-7-12"'
        assert headers["Accept-Ranges"] == "bytes"
    elif status == 204:
        assert answered == b""
        assert "Content-Type" not in headers
    else:
        assert headers["Content-Type"] == "application/json"
        assert answered == {"op": op}
    assert door.metrics.requests == {(op, status): 1}


def test_every_operation_has_a_row():
    walked = {row[4] for row in ROWS}
    elsewhere = {
        "getMetrics",
        "getOpenapi",
        "stream",
    }  # answered without the service; tests below and in test_stream.py
    assert walked | elsewhere == {operation.id for operation in OPERATIONS}


async def test_metrics_have_their_names_from_the_start(door):
    status, headers, body = await door.ask("GET", "/metrics")
    assert status == 200
    assert headers["Content-Type"].startswith("text/plain; version=")
    text = body.decode()
    for name in (
        'sync_snapshot_latency_seconds_bucket{le="12.8",status="ok"}',
        'sync_snapshot_latency_seconds_bucket{le="0.1",status="error"}',
        'sync_rollback_success_rate{cluster="c1",env="test"} 1.0',
        'sync_memory_bytes_used{role="follower"}',
        "raft_snap_save_failures_total 0.0",
        "snapshot_send_rate 0.0",
        "lastgood_applied_index",
        "lastgood_commit_latency_seconds_count",
    ):
        assert name in text, name
    status, headers, body = await door.ask("GET", "/metrics", headers={"Accept": "application/openmetrics-text"})
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert body.decode().endswith("# EOF\n")


@pytest.mark.parametrize("status", [200, 503])
@pytest.mark.parametrize("path", ["/livez", "/readyz"])
async def test_health_answers_a_json_list_of_checks_with_either_status(door, path, status):
    checks = [{"name": "leader", "ok": status == 200, "detail": None}]
    door.service.script = lambda op, args: Answer(status, checks)
    got, headers, body = await door.ask("GET", path)
    assert (got, headers["Content-Type"], body) == (status, "application/json", checks)
    assert ("Retry-After" in headers) == (status == 503)


@pytest.mark.parametrize("target", ["/livez", "/v1/cluster", "/v1/spaces", "/v1/spaces/a", "/metrics", "/openapi.json"])
async def test_head_wherever_get_is(door, target):
    _, _, whole = await door.ask("GET", target)
    status, headers, body = await door.ask("HEAD", target)
    assert (status, body) == (200, b"")
    assert whole
    assert int(headers["Content-Length"]) > 0


async def test_next_page_keeps_the_rest_of_the_query(door):
    door.service.script = lambda op, args: Answer(200, [], next="after=room-9")
    _, headers, _ = await door.ask("GET", "/v1/spaces?limit=2&prefix=r%2D%26&after=room-1")
    assert headers["Link"] == '</v1/spaces?limit=2&prefix=r-%26&after=room-9>; rel="next"'


async def test_a_replay_says_so(door):
    door.service.script = lambda op, args: Answer(200, {}, replayed=True)
    status, headers, _ = await door.ask(
        "PUT", "/v1/spaces/a/data?offset=0", data=b"x", headers={"Idempotency-Key": "k" * 128}
    )
    assert (status, headers["Idempotency-Replayed"]) == (200, "true")
    assert door.metrics.counters["replays"] == 1
    assert door.service.last.idempotency_key == "k" * 128


async def test_bytes_in_json_are_base64(door):
    door.service.script = lambda op, args: Answer(200, [{"before": b"\x00\xff"}])
    _, _, body = await door.ask("GET", "/v1/spaces/a/wal")
    assert body == [{"before": "AP8="}]


async def test_absolute_form_of_the_target(door):
    status, _, _ = await door.raw("GET http://localhost/v1/spaces/a?consistency=stale HTTP/1.1\nHost: localhost")
    assert status == 200
    assert door.service.last.consistency == "stale"


async def test_expect_continue_is_answered_before_the_body(door):
    status, headers, _ = await door.raw(
        "PUT /v1/spaces/a/data?offset=0 HTTP/1.1\nHost: localhost\nExpect: 100-continue\nContent-Length: 3", b"abc"
    )
    assert (status, headers) == (100, {})


async def test_a_passed_on_request_says_so_to_the_service(door):
    await door.ask("GET", "/v1/spaces/a", headers={"X-Lastgood-Forwarded": "n1"})
    await door.ask("GET", "/v1/spaces/a")
    assert door.service.forwarded == [True, False]
