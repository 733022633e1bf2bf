"""Every row and every reachable code of the HTTP contract, against three real node processes."""

import concurrent.futures
import http.client
import itertools
import json
import signal
import time
from urllib.parse import urlsplit

import msgspec
import pytest
from lastgood.codes import CODES

from cluster.api.operations import OPERATIONS
from cluster.local import LocalCluster
from tests.cluster.contract_client import Client, as_json, b64, stream_all

pytestmark = pytest.mark.cluster

SETTINGS = {
    "events_kept": 64,
    "undo_records_max": 12,
    "request_timeout_ms": 1500,
    "journal_bytes_max": 4 * 1024 * 1024,
}
NAMES = (f"room-{number}" for number in itertools.count(1))
# Nothing can provoke these from outside yet; each has its test where it can be made.
NOT_REACHABLE = {
    "unauthorized": "tokens are not built",
    "update_in_progress": "updates are not built",
    "internal": "a defect; tests/contract/api/test_errors.py plants one",
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = LocalCluster.create(tmp_path_factory.mktemp("contract"), nodes=3, settings=SETTINGS)
    made.start()
    try:
        made.wait_ready(timeout_s=60)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="module")
def api(cluster):
    return Client({node.id: node.http for node in cluster.nodes})


@pytest.fixture
def room(api):
    """A space with three writes, snapshot 1 `@v1`, one more write, snapshot 2 `@v2`. LVC 4, size 9000."""
    name = next(NAMES)
    api.good("PUT", f"/v1/spaces/{name}", {"policy": {"dirty_ratio": 1}})
    for at in (0, 4096, 8990):
        api.good("PUT", f"/v1/spaces/{name}/data?offset={at}", b"0123456789")
    api.good("POST", f"/v1/spaces/{name}/snapshots", {"label": "v1"})
    api.good("PUT", f"/v1/spaces/{name}/data?offset=4096", b"changed")
    api.good("POST", f"/v1/spaces/{name}/snapshots", {"label": "v2"})
    return name


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


def test_every_operation_of_the_stream(api, cluster, room):
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
    for (op, args), url in zip(requests.items(), itertools.cycle(cluster.endpoints), strict=False):
        (status, body) = stream_all(url, [(1, op, args)])[1]
        assert status < 300, (op, body)
        if op in ("getData", "getSnapshotData"):
            assert set(body) == {"data", "offset", "size", "lvc", "epoch", "index", "uid", "etag"}
            assert isinstance(body["data"], bytes)
        else:
            api.check_body(op, status, as_json(body))


# ---------------------------------------------------------------- codes


def snapshots(api, room, count):
    for _ in range(count):
        api.good("POST", f"/v1/spaces/{room}/snapshots")


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


def test_a_session_that_never_was_is_gone(cluster, room):
    args = {"space": room, "offset": 0, "data": b"x", "session": 999_999, "seq": 1, "ack": 1}
    (status, body) = stream_all(cluster.endpoints[0], [(1, "putData", args)])[1]
    assert (status, body["code"]) == (410, "gone")


def test_a_seq_over_the_window_is_rate_limited(api, cluster, room):
    opened = api.good("POST", "/v1/sessions")
    args = {"space": room, "offset": 0, "data": b"x", "session": opened["session"], "ack": 1}
    far = {**args, "seq": opened["window"] + 1}
    answers = stream_all(cluster.endpoints[1], [(1, "putData", {**args, "seq": 1}), (2, "putData", far)])
    assert answers[1][0] == 200
    assert (answers[2][0], answers[2][1]["code"]) == (429, "rate_limited")
    again = stream_all(cluster.endpoints[2], [(1, "putData", {**args, "seq": 1})])
    assert again[1] == answers[1]


# ---------------------------------------------------------------- what rows mean together


def test_bytes_come_back_from_every_node(api, cluster, room):
    raw = bytes(range(256)) * 40
    api.good("PUT", f"/v1/spaces/{room}/data?offset=100", raw)
    for node in cluster.ids:
        reply = api.ask("GET", f"/v1/spaces/{room}/data?offset=100&length={len(raw)}", node=node)
        assert reply.body == raw
        part = api.ask("GET", f"/v1/spaces/{room}/data", node=node, Range="bytes=100-199")
        assert (part.status, part.body, part.headers["content-range"]) == (206, raw[:100], "bytes 100-199/10340")
    assert api.ask("GET", f"/v1/spaces/{room}/snapshots/@v1/data", Range="bytes=-10").body == b"0123456789"


def test_never_written_bytes_are_zero_and_an_empty_space_is_empty(api, room):
    api.good("PUT", f"/v1/spaces/{room}-e")
    reply = api.ask("GET", f"/v1/spaces/{room}-e/data", Range="bytes=0-")
    assert (reply.status, reply.body) == (200, b"")
    api.good("POST", f"/v1/spaces/{room}-e/tx", {"size": 10_000})
    assert api.good("GET", f"/v1/spaces/{room}-e/data") == bytes(10_000)


def test_entity_tags(api, room):
    live = api.ask("GET", f"/v1/spaces/{room}/data").headers["etag"]
    uid, epoch, lvc = live.strip('"').split("-")
    assert lvc == "4"
    assert api.ask("GET", f"/v1/spaces/{room}/data", If_None_Match=live).status == 304
    written = api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"a", If_Match=live)
    assert (written.status, written.body["lvc"]) == (200, 5)
    assert api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"a", If_Match=live).code == "precondition_failed"
    snapshot = api.good("GET", f"/v1/spaces/{room}/snapshots/1")
    reply = api.ask("GET", f"/v1/spaces/{room}/snapshots/1/data")
    assert reply.headers["etag"] == f'"{snapshot["root"]}"'
    assert api.ask("GET", f"/v1/spaces/{room}/snapshots/1/data", If_None_Match=reply.headers["etag"]).status == 304
    assert api.good("GET", f"/v1/spaces/{room}")["uid"] == int(uid)
    assert api.good("GET", f"/v1/spaces/{room}")["epoch"] == int(epoch)


def test_a_replay_answers_what_was_decided_then(api, cluster, room):
    key = {"Idempotency_Key": f"{room}-replay"}
    first = api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"a", **key)
    api.good("PUT", f"/v1/spaces/{room}/data?offset=0", b"b")
    for node in cluster.ids:
        again = api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"a", node=node, **key)
        assert (again.status, again.body) == (200, first.body)
        assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert api.good("GET", f"/v1/spaces/{room}/data?length=1") == b"b"


def test_a_refusal_is_replayed_too_and_local_figures_are_null(api, room):
    key = {"Idempotency_Key": f"{room}-refused"}
    target = f"/v1/spaces/{room}/tx"
    first = api.ask("POST", target, {"size": 1, "if": {"lvc": 99}}, **key)
    again = api.ask("POST", target, {"size": 1, "if": {"lvc": 99}}, **key)
    assert (first.code, again.code) == ("conflict", "conflict")
    assert again.headers["idempotency-replayed"] == "true"
    key = {"Idempotency_Key": f"{room}-rollback"}
    first = api.ask("POST", f"/v1/spaces/{room}/rollback", {"to": 1}, **key)
    again = api.ask("POST", f"/v1/spaces/{room}/rollback", {"to": 1}, **key)
    assert first.body["took_ms"] > 0
    assert again.body == {**first.body, "took_ms": None}


def test_rollback_brings_the_bytes_back_and_can_itself_be_rolled_back(api, room):
    before = api.good("GET", f"/v1/spaces/{room}")
    dry = api.good("POST", f"/v1/spaces/{room}/rollback", {"to": "@v1", "dry_run": True})
    assert dry == {"dry_run": True, "pages_changed": 1, "ranges": [[1, 1]]}
    done = api.good("POST", f"/v1/spaces/{room}/rollback", {"to": "@v1"})
    assert (done["from_lvc"], done["to_lvc"], done["lvc"], done["snapshot"], done["pages_reverted"]) == (4, 3, 5, 1, 1)
    assert done["verified"] is True
    assert done["epoch"] > before["epoch"]
    assert api.good("GET", f"/v1/spaces/{room}/data?offset=4096&length=10") == b"0123456789"
    stale = api.ask("PUT", f"/v1/spaces/{room}/data?offset=0&epoch={before['epoch']}", b"x")
    assert stale.code == "stale_epoch"
    again = api.good("POST", f"/v1/spaces/{room}/rollback", {"to": done["left_snapshot"]})
    assert again["lvc"] == 6
    assert api.good("GET", f"/v1/spaces/{room}/data?offset=4096&length=10") == b"changed789"
    past = api.good("POST", f"/v1/spaces/{room}/rollback", {"lvc": 2})
    assert (past["to_lvc"], past["snapshot"]) == (2, None)
    assert len(api.good("GET", f"/v1/spaces/{room}/data")) == 4106
    kinds = [record["kind"] for record in api.good("GET", f"/v1/spaces/{room}/wal")]
    assert kinds.count("rollback") == 3


def test_wal_is_oldest_first_and_dense(api, room):
    records = api.good("GET", f"/v1/spaces/{room}/wal")
    assert [record["log_seq"] for record in records] == [1, 2, 3, 4]
    assert records[3]["before"] == b64(b"0123456")
    page = api.ask("GET", f"/v1/spaces/{room}/wal?limit=3")
    assert [record["log_seq"] for record in page.body] == [1, 2, 3]
    assert page.headers["link"].endswith('rel="next"')
    assert api.good("GET", _next(page))[0]["log_seq"] == 4


def _next(reply):
    return reply.headers["link"].partition(">")[0].lstrip("<")


def test_pages_of_lists(api, room):
    for letter in "abcde":
        api.good("PUT", f"/v1/spaces/{room}.{letter}")
    seen, target = [], f"/v1/spaces?limit=2&prefix={room}."
    while target:
        reply = api.ask("GET", target)
        seen += [space["name"] for space in reply.body]
        target = _next(reply) if "link" in reply.headers else None
    assert seen == [f"{room}.{letter}" for letter in "abcde"]
    newest = api.ask("GET", f"/v1/spaces/{room}/snapshots?limit=1")
    assert [snapshot["id"] for snapshot in newest.body] == [2]
    assert [snapshot["id"] for snapshot in api.good("GET", _next(newest))] == [1]


def test_one_cut_over_many_spaces(api, room):
    api.good("PUT", f"/v1/spaces/{room}-2")
    cut = api.good("POST", "/v1/snapshots", {"prefix": room, "label": "cut"})
    assert [snapshot["space"] for snapshot in cut["snapshots"]] == [room, f"{room}-2"]
    assert {snapshot["index"] for snapshot in cut["snapshots"]} == {cut["index"]}


def test_pins_are_a_set_of_holders(api, room):
    target = f"/v1/spaces/{room}/snapshots/1"
    assert api.good("POST", f"{target}/pin")["pins"] == ["default"]
    assert api.good("POST", f"{target}/pin")["pins"] == ["default"]
    assert api.good("POST", f"{target}/pin", {"holder": "a"})["pins"] == ["a", "default"]
    assert api.good("POST", f"{target}/unpin")["pins"] == ["a"]
    assert api.good("POST", f"{target}/unpin", {"holder": "a"})["pins"] == []
    assert api.ask("DELETE", target).status == 204
    assert api.ask("GET", target).code == "not_found"


def test_a_large_transaction_is_staged_and_visible_at_once(api, room):
    raw = bytes(range(256)) * 4096 * 5
    body = msgspec.msgpack.encode({"writes": [{"offset": 0, "data": raw}]})
    for node in ("n1", "n2", "n3"):
        reply = api.ask("POST", f"/v1/spaces/{room}/tx", body, node=node, Content_Type="application/msgpack")
        assert reply.status == 200, reply
    assert api.good("GET", f"/v1/spaces/{room}/data") == raw


def test_events_by_long_poll(api, cluster, room):
    api.good("POST", f"/v1/spaces/{room}/rollback", {"to": 1})
    (event,) = api.good("GET", f"/v1/events?index=0&wait=5s&space={room}&types=rollback.confirmed")
    assert (event["type"], event["space"], event["to_lvc"]) == ("rollback.confirmed", room, 3)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(
            api.ask, "GET", f"/v1/events?index={event['seq']}&wait=10s&space={room}&types=snapshot.created", node="n1"
        )
        taken = api.good("POST", f"/v1/spaces/{room}/snapshots", {"label": "late"})
        found = waiting.result(15).body
    assert [entry["id"] for entry in found][-1:] == [taken["id"]]
    everywhere = [
        api.good("GET", f"/v1/events?index={event['seq']}&wait=5s&space={room}", node=node) for node in cluster.ids
    ]
    assert everywhere[0] == everywhere[1] == everywhere[2]


def test_events_as_a_stream_go_on_where_they_stopped(api, cluster, room):
    def read(count, node, last=None):
        where = urlsplit(api.endpoints[node])
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=20)
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last else {})
        connection.request("GET", f"/v1/events?space={room}&types=snapshot.created", headers=headers)
        answer = connection.getresponse()
        assert answer.headers.get_content_type() == "text/event-stream"
        found = []
        while len(found) < count:
            line = answer.readline().decode()
            if line.startswith("id: "):
                found.append((line[4:-1], json.loads(answer.readline().decode().removeprefix("data: "))))
        connection.close()
        return found

    first = read(2, "n1", last=str(api.good("GET", f"/v1/events?index=0&wait=5s&space={room}")[0]["seq"] - 1))
    assert [event["id"] for _, event in first] == [1, 2]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read, 2, node, first[-1][0]) for node in cluster.ids]
        snapshots(api, room, 2)
        everywhere = [reader.result(20) for reader in readers]
    assert [event["id"] for _, event in everywhere[0]] == [3, 4]
    assert everywhere[0] == everywhere[1] == everywhere[2]
    assert all(int(number) == event["seq"] for number, event in everywhere[0])


def test_a_long_answer_is_of_one_version(api, cluster, room):
    """Reads of 6 MiB while every byte changes again and again: none may show two writes."""
    size = 6 * 1024 * 1024

    def write(value):
        body = msgspec.msgpack.encode({"writes": [{"offset": 0, "data": bytes([value]) * size}]})
        return api.ask("POST", f"/v1/spaces/{room}/tx", body, node=cluster.ids[0], Content_Type="application/msgpack")

    assert write(1).status == 200
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [write(value).status for value in range(2, 8)])
        seen = set()
        while not writing.done():
            reply = api.ask("GET", f"/v1/spaces/{room}/data")
            assert (reply.status, len(reply.body)) == (200, size)
            assert len(set(reply.body)) == 1
            assert int(reply.headers["x-lastgood-lvc"]) == 4 + reply.body[0]
            seen.add(reply.body[0])
        assert writing.result() == [200] * 6
    assert len(seen) > 1


# ---------------------------------------------------------------- codes that need a hurt cluster; the last tests here


def test_unknown_outcome_when_the_leader_falls_silent(api, cluster, room):
    """A write that was passed on to a leader which then answers nothing: nobody can say, so nobody claims."""
    leader = cluster.leader()
    follower = next(node for node in cluster.ids if node != leader)
    api.good("PUT", f"/v1/spaces/{room}/data?offset=0", b"x", node=follower)  # the way is open
    cluster.signal(leader, signal.SIGSTOP)
    try:
        reply = api.ask(
            "PUT", f"/v1/spaces/{room}/data?offset=0", b"y", node=follower, Idempotency_Key=f"{room}-unknown"
        )
        assert (reply.status, reply.code, reply.body["retryable"]) == (504, "unknown_outcome", True)
    finally:
        cluster.signal(leader, signal.SIGCONT)
    cluster.wait_ready(timeout_s=60)
    deadline = time.monotonic() + 20
    while (
        again := api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"y", Idempotency_Key=f"{room}-unknown")
    ).status != 200:
        assert again.body["retryable"], again
        assert time.monotonic() < deadline, again
    assert again.body["lvc"] == 6  # once, whichever attempt it was


def test_no_leader_without_a_majority(api, cluster, room):
    """One node of three: it is alive, not ready, refuses what needs the others, and still answers stale reads."""
    left, *gone = cluster.ids
    cluster.stop(gone)
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
        cluster.start(gone)
    cluster.wait_ready(timeout_s=60)
    assert api.good("GET", f"/v1/spaces/{room}")["lvc"] == 4


def test_every_code_is_walked():
    here = {code for code, _ in CODES_HERE}
    elsewhere = {"method_not_allowed", "rate_limited", "unknown_outcome", "no_leader"}
    alone = {"installing", "storage_full"}  # test_contract_codes.py
    assert here | elsewhere | alone | set(NOT_REACHABLE) == set(CODES)
