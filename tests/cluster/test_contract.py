"""Every row and every reachable code of the HTTP contract, against three real node processes."""

import itertools
import json
import signal
import time

import pytest
from lastgood.codes import CODES

from cluster.api.operations import OPERATIONS
from tests.cluster.contract_client import as_json, b64, snapshots, stream_all

pytestmark = pytest.mark.cluster

# Nothing can provoke these from outside yet; each has its test where it can be made.
NOT_REACHABLE = {
    "unauthorized": "tokens are not built",
    "update_in_progress": "updates are not built",
    "internal": "a defect; tests/contract/api/test_errors.py plants one",
}


# ---------------------------------------------------------------- rows

TX = {"writes": [{"offset": 1, "data": b64(b"ab")}, {"offset": 2, "data": b64(b"c")}], "if": {"lvc": 4}}
# operation, method, target, body, status; every answer is also held against the OpenAPI document
ROWS = [
    ("getLivez", "GET", "/livez", None, 200),
    ("getReadyz", "GET", "/readyz", None, 200),
    ("getMetrics", "GET", "/metrics", None, 200),
    ("getOpenapi", "GET", "/openapi.json", None, 200),
    ("getCluster", "GET", "/v1/cluster", None, 200),
    ("putSpace", "PUT", "/v1/spaces/{room}-b", {"page_size": 8192, "max_pages": 100}, 201),
    ("putSpace", "PUT", "/v1/spaces/{room}", {"policy": {"dirty_ratio": 1}}, 200),
    ("putSpace", "PUT", "/v1/spaces/{room}-fork", {"from": {"space": "{room}", "snapshot": "@v1"}}, 201),
    ("putSpace", "PUT", "/v1/spaces/{room}-fork", {"from": {"space": "{room}", "snapshot": 1}}, 201),
    ("listSpaces", "GET", "/v1/spaces?limit=2", None, 200),
    ("getSpace", "GET", "/v1/spaces/{room}", None, 200),
    ("getSpace", "GET", "/v1/spaces/{room}?consistency=stale", None, 200),
    ("deleteSpace", "DELETE", "/v1/spaces/{room}", None, 204),
    ("putData", "PUT", "/v1/spaces/{room}/data?offset=7", b"x", 200),
    ("postTx", "POST", "/v1/spaces/{room}/tx", TX, 200),
    ("postTx", "POST", "/v1/spaces/{room}/tx", {"size": 10, "if": {"pages": {"1": 4, "9": 0}}}, 200),
    ("getData", "GET", "/v1/spaces/{room}/data", None, 200),
    ("getData", "GET", "/v1/spaces/{room}/data?offset=4096&length=10&at_lvc=3", None, 200),
    ("getPages", "GET", "/v1/spaces/{room}/pages?from=1&limit=1", None, 200),
    ("getWal", "GET", "/v1/spaces/{room}/wal", None, 200),
    ("createSnapshot", "POST", "/v1/spaces/{room}/snapshots", None, 201),
    ("createSnapshot", "POST", "/v1/spaces/{room}/snapshots", {"kind": "full", "ttl_s": 60, "pin": True}, 201),
    ("listSnapshots", "GET", "/v1/spaces/{room}/snapshots?limit=1", None, 200),
    ("getSnapshot", "GET", "/v1/spaces/{room}/snapshots/1", None, 200),
    ("getSnapshot", "GET", "/v1/spaces/{room}/snapshots/@v2", None, 200),
    ("deleteSnapshot", "DELETE", "/v1/spaces/{room}/snapshots/@v1", None, 204),
    ("pinSnapshot", "POST", "/v1/spaces/{room}/snapshots/1/pin", {"holder": "h"}, 200),
    ("unpinSnapshot", "POST", "/v1/spaces/{room}/snapshots/1/unpin", None, 200),
    ("getSnapshotData", "GET", "/v1/spaces/{room}/snapshots/@v1/data", None, 200),
    ("diffSnapshots", "GET", "/v1/spaces/{room}/snapshots/1/diff/@v2", None, 200),
    ("diffSnapshots", "GET", "/v1/spaces/{room}/snapshots/1/diff/live", None, 200),
    ("createSnapshots", "POST", "/v1/snapshots", {"prefix": "{room}", "label": "cut"}, 201),
    ("createSnapshots", "POST", "/v1/snapshots", {"spaces": ["{room}"], "pin": True}, 201),
    ("postRollback", "POST", "/v1/spaces/{room}/rollback", {"to": 1, "if": {"lvc": 4}, "reason": "test"}, 200),
    ("postRollback", "POST", "/v1/spaces/{room}/rollback", {"to": "@v1", "dry_run": True}, 200),
    ("postRollback", "POST", "/v1/spaces/{room}/rollback", {"lvc": 2}, 200),
    ("postSession", "POST", "/v1/sessions", None, 201),
    ("getEvents", "GET", "/v1/events?index=0&types=rollback.confirmed", None, 200),
    ("getEvents", "GET", "/v1/events?wait=1ms&space={room}", None, 200),
    ("listTransfers", "GET", "/v1/transfers", None, 200),
]


def fill(value, room):
    return json.loads(json.dumps(value).replace("{room}", room)) if isinstance(value, dict) else value


@pytest.mark.parametrize("row", ROWS, ids=[f"{row[0]}-{place}" for place, row in enumerate(ROWS)])
def test_row(api, room, row):
    _, method, target, body, status = row
    target = target.replace("{room}", room)
    reply = api.ask(method, target, fill(body, room))
    assert reply.status == status, reply
    if "/v1/spaces/" in target and row[0] != "deleteSpace":
        assert int(reply.headers["x-lastgood-lvc"]) >= 0
        assert int(reply.headers["x-lastgood-epoch"]) >= 1
        assert int(reply.headers["x-lastgood-index"]) >= 1
    if method == "GET":
        head = api.raw("HEAD", target)
        assert (head.status, head.body) == (status, b"")


def test_every_operation_has_a_row():
    assert {row[0] for row in ROWS} | {"stream"} == {operation.id for operation in OPERATIONS}


def test_every_operation_of_the_stream(api, contract_cluster, room):
    requests = {
        "getCluster": {},
        "putSpace": {"space": f"{room}-s"},
        "listSpaces": {"limit": 3},
        "getSpace": {"space": room},
        "putData": {"space": room, "offset": 3, "data": b"\x00\xff"},
        "postTx": {"space": room, "writes": [{"offset": 3, "data": b"\x00\xff"}], "size": 99},
        "getData": {"space": room, "offset": 0, "length": 4},
        "getPages": {"space": room, "from": 0},
        "getWal": {"space": room, "limit": 5},
        "createSnapshot": {"space": room, "label": "s"},
        "listSnapshots": {"space": room},
        "getSnapshot": {"space": room, "snapshot": "@s"},
        "pinSnapshot": {"space": room, "snapshot": "@s"},
        "unpinSnapshot": {"space": room, "snapshot": "@s"},
        "getSnapshotData": {"space": room, "snapshot": "@s", "offset": 0, "length": 9},
        "diffSnapshots": {"space": room, "a": "1", "b": "live"},
        "createSnapshots": {"spaces": [room]},
        "postRollback": {"space": room, "to": 1},
        "deleteSnapshot": {"space": room, "snapshot": "@s"},
        "postSession": {},
        "getEvents": {"index": 0, "types": "rollback.confirmed"},
        "listTransfers": {},
        "deleteSpace": {"space": f"{room}-s"},
    }
    assert set(requests) == {row.id for row in OPERATIONS if row.stream}
    for (op, args), url in zip(requests.items(), itertools.cycle(contract_cluster.endpoints), strict=False):
        (status, body) = stream_all(url, [(1, op, args)])[1]
        assert status < 300, (op, body)
        if op in ("getData", "getSnapshotData"):
            assert set(body) == {"data", "offset", "size", "lvc", "epoch", "index", "uid", "etag"}
            assert isinstance(body["data"], bytes)
        else:
            api.check_body(op, status, as_json(body))


# ---------------------------------------------------------------- codes


def _conflict(api, room):
    return api.ask("POST", f"/v1/spaces/{room}/tx", {"size": 1, "if": {"lvc": 3}})


def _conflict_settings(api, room):
    return api.ask("PUT", f"/v1/spaces/{room}", {"page_size": 65536})


def _stale_epoch_first(api, room):
    return api.ask("POST", f"/v1/spaces/{room}/tx?epoch=999999", {"size": 1, "if": {"lvc": 999}})


def _idempotency_conflict(api, room):
    api.good("PUT", f"/v1/spaces/{room}/data?offset=0", b"a", Idempotency_Key=f"{room}-k")
    return api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"b", Idempotency_Key=f"{room}-k")


def _pinned(api, room):
    api.good("POST", f"/v1/spaces/{room}/snapshots/1/pin")
    return api.ask("DELETE", f"/v1/spaces/{room}/snapshots/1")


def _pinned_space(api, room):
    api.good("POST", f"/v1/spaces/{room}/snapshots/1/pin")
    return api.ask("DELETE", f"/v1/spaces/{room}")


def _gone(api, room):
    snapshots(api, room, 70)
    return api.ask("GET", "/v1/events?index=1&types=snapshot.created")


def _gone_sse(api, room):
    snapshots(api, room, 70)
    return api.ask("GET", "/v1/events?types=snapshot.created", Accept="text/event-stream", Last_Event_ID="1")


def _outside_window(api, room):
    for _ in range(14):
        api.good("PUT", f"/v1/spaces/{room}/data?offset=0", b"a")
    reply = api.ask("POST", f"/v1/spaces/{room}/rollback", {"lvc": 1})
    assert reply.body["oldest_lvc"] > 1
    assert reply.body["newest_lvc"] == 18
    return reply


def _outside_window_read(api, room):
    return api.ask("GET", f"/v1/spaces/{room}/data?at_lvc=99")


def _precondition(api, room):
    return api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"a", If_Match='"1-1-1"')


def _precondition_read(api, room):
    return api.ask("GET", f"/v1/spaces/{room}/data", If_Match='"1-1-1"')


# code, what provokes it
CODES_HERE = [
    ("bad_request", lambda api, room: api.ask("PUT", f"/v1/spaces/{room}", {"max_pages": 1.5})),
    ("bad_request", lambda api, room: api.ask("GET", "/v1/spaces/-")),
    ("forbidden", lambda api, room: api.ask("GET", "/v1/spaces", Host="evil.example")),
    ("not_found", lambda api, room: api.ask("GET", "/v1/spaces/nothing")),
    ("not_found", lambda api, room: api.ask("PUT", "/v1/spaces/nothing/data?offset=0", b"x")),
    ("not_found", lambda api, room: api.ask("GET", f"/v1/spaces/{room}/snapshots/99?consistency=stale")),
    ("not_found", lambda api, room: api.ask("POST", f"/v1/spaces/{room}/rollback", {"to": "@nothing"})),
    ("not_found", lambda api, room: api.ask("GET", f"/v1/spaces/{room}/snapshots/1/diff/99")),
    ("conflict", _conflict),
    ("conflict", _conflict_settings),
    ("stale_epoch", _stale_epoch_first),
    ("stale_epoch", lambda api, room: api.ask("DELETE", f"/v1/spaces/{room}?epoch=999999")),
    ("idempotency_conflict", _idempotency_conflict),
    ("pinned", _pinned),
    ("pinned", _pinned_space),
    ("gone", _gone),
    ("gone", _gone_sse),
    ("outside_window", _outside_window),
    ("outside_window", _outside_window_read),
    ("precondition_failed", _precondition),
    ("precondition_failed", _precondition_read),
    ("too_large", lambda api, room: api.ask("PUT", f"/v1/spaces/{room}/data?offset={2**40}", b"x")),
    ("unsupported_media_type", lambda api, room: api.ask("PUT", f"/v1/spaces/{room}", b"{}")),
    ("range_not_satisfiable", lambda api, room: api.ask("GET", f"/v1/spaces/{room}/data", Range="bytes=9000-")),
    ("range_not_satisfiable", lambda api, room: api.ask("GET", f"/v1/spaces/{room}/data?offset=9001")),
]


@pytest.mark.parametrize("case", CODES_HERE, ids=[f"{case[0]}-{place}" for place, case in enumerate(CODES_HERE)])
def test_code(api, room, case):
    code, provoke = case
    reply = provoke(api, room)
    assert (reply.code, reply.status, reply.body["retryable"]) == (code, CODES[code].status, CODES[code].retryable)


def test_method_not_allowed(api):
    reply = api.raw("PATCH", "/v1/spaces")
    assert (reply.status, reply.code, reply.headers["allow"]) == (405, "method_not_allowed", "GET, HEAD")


def test_a_session_that_never_was_is_gone(contract_cluster, room):
    args = {"space": room, "offset": 0, "data": b"x", "session": 999_999, "seq": 1, "ack": 1}
    (status, body) = stream_all(contract_cluster.endpoints[0], [(1, "putData", args)])[1]
    assert (status, body["code"]) == (410, "gone")


def test_a_seq_over_the_window_is_rate_limited(api, contract_cluster, room):
    opened = api.good("POST", "/v1/sessions")
    args = {"space": room, "offset": 0, "data": b"x", "session": opened["session"], "ack": 1}
    far = {**args, "seq": opened["window"] + 1}
    answers = stream_all(contract_cluster.endpoints[1], [(1, "putData", {**args, "seq": 1}), (2, "putData", far)])
    assert answers[1][0] == 200
    assert (answers[2][0], answers[2][1]["code"]) == (429, "rate_limited")
    again = stream_all(contract_cluster.endpoints[2], [(1, "putData", {**args, "seq": 1})])
    assert again[1] == answers[1]


# ---------------------------------------------------------------- codes that need a hurt cluster; the last tests here


def test_unknown_outcome_when_the_leader_falls_silent(api, contract_cluster, room):
    """A write that was passed on to a leader which then answers nothing: nobody can say, so nobody claims."""
    leader = contract_cluster.leader()
    follower = next(node for node in contract_cluster.ids if node != leader)
    api.good("PUT", f"/v1/spaces/{room}/data?offset=0", b"x", node=follower)  # the way is open
    contract_cluster.signal(leader, signal.SIGSTOP)
    try:
        reply = api.ask(
            "PUT", f"/v1/spaces/{room}/data?offset=0", b"y", node=follower, Idempotency_Key=f"{room}-unknown"
        )
        assert (reply.status, reply.code, reply.body["retryable"]) == (504, "unknown_outcome", True)
    finally:
        contract_cluster.signal(leader, signal.SIGCONT)
    contract_cluster.wait_ready(timeout_s=60)
    deadline = time.monotonic() + 20
    while (
        again := api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"y", Idempotency_Key=f"{room}-unknown")
    ).status != 200:
        assert again.body["retryable"], again
        assert time.monotonic() < deadline, again
    assert again.body["lvc"] == 6  # once, whichever attempt it was


def test_no_leader_without_a_majority(api, contract_cluster, room):
    """One node of three: it is alive, not ready, refuses what needs the others, and still answers stale reads."""
    left, *gone = contract_cluster.ids
    contract_cluster.stop(gone)
    try:
        deadline = time.monotonic() + 20
        while api.raw("GET", "/readyz", node=left).status != 503:
            assert time.monotonic() < deadline
        assert api.ask("GET", "/livez", node=left).status == 200
        for reply in (
            api.ask("GET", f"/v1/spaces/{room}", node=left),
            api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"x", node=left),
            api.ask("POST", "/v1/sessions", node=left),
        ):
            assert (reply.status, reply.code, reply.body["retryable"]) == (503, "no_leader", True)
        assert api.ask("GET", f"/v1/spaces/{room}?consistency=stale", node=left).status == 200
        assert api.good("GET", "/v1/cluster", node=left)["leader"] is None
        assert api.ask("GET", "/v1/transfers", node=left).status == 200
    finally:
        contract_cluster.start(gone)
    contract_cluster.wait_ready(timeout_s=60)
    assert api.good("GET", f"/v1/spaces/{room}")["lvc"] == 4


def test_every_code_is_walked():
    here = {code for code, _ in CODES_HERE}
    elsewhere = {"method_not_allowed", "rate_limited", "unknown_outcome", "no_leader"}
    alone = {"installing", "storage_full"}  # test_contract_codes.py
    assert here | elsewhere | alone | set(NOT_REACHABLE) == set(CODES)
