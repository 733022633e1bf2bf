"""What rows of the contract mean together, on three real node processes."""

import concurrent.futures
import http.client
import json
from urllib.parse import urlsplit

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.cluster.contract_client import b64, snapshots

pytestmark = pytest.mark.cluster


def test_bytes_come_back_from_every_node(api, contract_cluster, room):
    raw = bytes(range(256)) * 40
    api.good("PUT", f"/v1/spaces/{room}/data?offset=100", raw)
    for node in contract_cluster.ids:
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


def test_a_replay_answers_what_was_decided_then(api, contract_cluster, room):
    key = {"Idempotency_Key": f"{room}-replay"}
    first = api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"a", **key)
    api.good("PUT", f"/v1/spaces/{room}/data?offset=0", b"b")
    for node in contract_cluster.ids:
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


def test_a_condition_that_a_change_does_not_know_is_refused(api, room):
    before = api.good("GET", f"/v1/spaces/{room}/data")
    write = {"offset": 0, "data": b64(b"over")}
    refused = api.ask("PUT", f"/v1/spaces/{room}/data?offset=0", b"over", If_None_Match="*")
    assert (refused.code, "If-None-Match" in refused.body["detail"]) == ("bad_request", True)
    assert api.ask("POST", f"/v1/spaces/{room}/tx", {"writes": [write]}, If_None_Match="*").code == "bad_request"
    assert api.ask("DELETE", f"/v1/spaces/{room}", If_Match='"1-1-1"').code == "bad_request"
    assert api.good("GET", f"/v1/spaces/{room}/data") == before


def test_events_by_long_poll(api, contract_cluster, room):
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
        api.good("GET", f"/v1/events?index={event['seq']}&wait=5s&space={room}", node=node)
        for node in contract_cluster.ids
    ]
    assert everywhere[0] == everywhere[1] == everywhere[2]
    everything = api.good("GET", f"/v1/events?index=0&space={room}")
    page = api.ask("GET", f"/v1/events?index=0&space={room}&limit=1")
    assert page.body == everything[:1]
    rest = api.ask("GET", _next(page).replace("limit=1", "limit=1000"))
    assert (rest.body, "link" in rest.headers) == (everything[1:], False)


def test_events_as_a_stream_go_on_where_they_stopped(api, contract_cluster, room):
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
        readers = [pool.submit(read, 2, node, first[-1][0]) for node in contract_cluster.ids]
        snapshots(api, room, 2)
        everywhere = [reader.result(20) for reader in readers]
    assert [event["id"] for _, event in everywhere[0]] == [3, 4]
    assert everywhere[0] == everywhere[1] == everywhere[2]
    assert all(int(number) == event["seq"] for number, event in everywhere[0])


def test_a_long_answer_is_of_one_version(api, contract_cluster, room):
    """Reads of 3 MiB while every byte changes again and again: none may show two writes."""
    size = 3 * 1024 * 1024

    def write(value):
        body = msgspec.msgpack.encode({"writes": [{"offset": 0, "data": bytes([value]) * size}]})
        return api.ask(
            "POST", f"/v1/spaces/{room}/tx", body, node=contract_cluster.ids[0], Content_Type="application/msgpack"
        )

    assert write(1).status == 200
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [write(value).status for value in range(2, 7)])
        seen = set()
        while not writing.done():
            reply = api.ask("GET", f"/v1/spaces/{room}/data")
            assert (reply.status, len(reply.body)) == (200, size)
            assert len(set(reply.body)) == 1
            assert int(reply.headers["x-lastgood-lvc"]) == 4 + reply.body[0]
            seen.add(reply.body[0])
        assert writing.result() == [200] * 5
    assert len(seen) > 1


def test_metrics_of_a_node_that_works(api, contract_cluster, room):
    """Every family has a source: what is fed by work has moved on the leader."""
    api.good("POST", f"/v1/spaces/{room}/rollback", {"to": 1})
    text = api.raw("GET", "/metrics", node=contract_cluster.leader()).body.decode()
    found = {sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples}
    for name in (
        "lastgood_applied_index",
        "lastgood_commit_index",
        "lastgood_raft_term",
        "lastgood_raft_is_leader",
        "lastgood_raft_peers_reachable",
        "lastgood_journal_bytes",
        "lastgood_journal_syncs_total",
        "lastgood_journal_fsync_seconds_count",
        "lastgood_commit_latency_seconds_count",
        "lastgood_batch_operations_count",
        "lastgood_rollback_latency_seconds_count",
        "lastgood_spaces",
        "lastgood_snapshots",
        "lastgood_undo_bytes",
        "lastgood_heap_bytes",
        "lastgood_disk_free_bytes",
        "sync_memory_bytes_used",
        "sync_rollback_success_rate",
        "process_resident_memory_bytes",
    ):
        assert found[name] > 0, name
    assert 'sync_memory_bytes_used{role="leader"}' in text
    assert 'lastgood_requests_total{op="postRollback",status="200"}' in text
