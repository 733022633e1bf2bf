"""The core of the client without any I/O: seats, windows, what stays open."""

from __future__ import annotations

import random
from typing import Any

import lastgood
import msgspec
import pytest
from lastgood.answers import Written
from lastgood.calls import Call, Calls, Limits
from lastgood.codes import CODES
from lastgood.endpoints import parse_endpoints
from lastgood.errors import BY_CODE, from_problem
from lastgood.events import SseParser
from lastgood.requests import GetData, PutData

pack = msgspec.msgpack.encode
decode = msgspec.msgpack.Decoder(Written).decode
WRITTEN = pack({"lvc": 1, "epoch": 1, "log_seq": 1, "tx_id": "t"})


class Slot:
    outcome: Any = None

    def done(self) -> bool:
        return self.outcome is not None

    def set_result(self, result: Any) -> None:
        assert self.outcome is None
        self.outcome = result

    def set_exception(self, exception: BaseException) -> None:
        assert self.outcome is None
        self.outcome = exception


def write(calls: Calls, *, deadline: float = 30.0, size: int = 300) -> Slot:
    slot = Slot()
    args = PutData(space="a", offset=0, data=b"x", epoch=1)
    calls.submit(Call("putData", args, decode, slot, size, deadline, True))
    return slot


def refusal(code: str) -> bytes:
    return pack({"code": code, "detail": "because", "status": CODES[code].status})


@pytest.fixture
def calls() -> Calls:
    """With a session (number 5, window 4) open."""
    made = Calls(limits=Limits(), chance=random.Random(1))
    write(made)
    ((number, op, _),) = made.take(1, 0.0)
    assert op == "postSession"
    made.answered(number, 201, pack({"session": 5, "window": 4, "idle_s": 3600}), 0.0)
    ((number, _, args),) = made.take(1, 0.0)
    assert isinstance(args, PutData) and (args.session, args.seq, args.ack) == (5, 1, 1)
    made.answered(number, 200, WRITTEN, 0.0)
    return made


def seats(frame: list[Any]) -> list[tuple[int | None, int | None]]:
    return [(args.seq, args.ack) for _, _, args in frame]


def test_ack_is_the_lowest_seat_without_an_answer(calls: Calls) -> None:
    slots = [write(calls) for _ in range(3)]
    frame = calls.take(1, 0.0)
    assert seats(frame) == [(2, 2), (3, 2), (4, 2)]
    calls.answered(frame[1][0], 200, WRITTEN, 0.0)
    write(calls)
    assert seats(calls.take(1, 0.0)) == [(5, 2)]
    calls.answered(frame[0][0], 200, WRITTEN, 0.0)
    write(calls)
    assert seats(calls.take(1, 0.0)) == [(6, 4)]
    assert [slot.done() for slot in slots] == [True, True, False]


def test_no_seat_beyond_the_window(calls: Calls) -> None:
    for _ in range(6):
        write(calls)
    frame = calls.take(1, 0.0)
    assert seats(frame) == [(2, 2), (3, 2), (4, 2), (5, 2)]
    assert calls.take(1, 0.0) == []
    calls.answered(frame[0][0], 200, WRITTEN, 0.0)
    assert seats(calls.take(1, 0.0)) == [(6, 3)]


def test_a_lost_link_keeps_seats_and_order(calls: Calls) -> None:
    for _ in range(3):
        write(calls)
    calls.take(1, 0.0)
    calls.lost(1)
    assert seats(calls.take(2, 0.0)) == [(2, 2), (3, 2), (4, 2)]
    assert calls.open_on(1) == 0 and calls.open_on(2) == 3


@pytest.mark.parametrize("code", sorted(CODES))
def test_every_code_as_a_first_and_as_a_later_answer(calls: Calls, code: str) -> None:
    """What was turned away at the door after an attempt whose fate is open stays open."""
    first, later = write(calls, deadline=0.01), write(calls, deadline=0.01)
    frame = calls.take(1, 0.0)
    calls.answered(frame[0][0], CODES[code].status, refusal(code), 0.0)
    calls.lost(1)
    calls.tick(0.005)
    for number, _, args in calls.take(2, 0.005):
        if isinstance(args, PutData) and args.seq == 3:
            calls.answered(number, CODES[code].status, refusal(code), 0.005)
    calls.tick(1.0)
    by_the_log = {"not_found", "conflict", "stale_epoch", "update_in_progress", "idempotency_conflict", "pinned"}
    by_the_log |= {"outside_window", "precondition_failed", "range_not_satisfiable"}
    if code == "gone":  # the session ended: a call that surely was not applied waits for a new one
        assert isinstance(first.outcome, lastgood.Unavailable)
    else:
        assert type(first.outcome) is (BY_CODE[code] if CODES[code].outcome_known else lastgood.UnknownOutcome)
    assert type(later.outcome) is (BY_CODE[code] if code in by_the_log else lastgood.UnknownOutcome)


def test_internal_errors_are_retried_three_times(calls: Calls) -> None:
    slot, now = write(calls), 0.0
    for _ in range(3):
        assert not slot.done()
        now += 1.0
        calls.tick(now)
        ((number, _, _),) = calls.take(1, now)
        calls.answered(number, 500, refusal("internal"), now)
    assert isinstance(slot.outcome, lastgood.UnknownOutcome)


def test_reads_have_no_seat_and_no_unknown_outcome(calls: Calls) -> None:
    slot = Slot()
    calls.submit(Call("getData", GetData(space="a", offset=0, length=1), decode, slot, 100, 1.0, False))
    calls.take(1, 0.0)
    calls.lost(1)
    calls.tick(2.0)
    assert isinstance(slot.outcome, lastgood.Unavailable)


def test_a_node_that_installs_is_left_at_once(calls: Calls) -> None:
    write(calls)
    ((number, _, _),) = calls.take(1, 0.0)
    calls.answered(number, 503, refusal("installing"), 0.0)
    assert calls.rotate


def test_messages_are_bounded(calls: Calls) -> None:
    for _ in range(3):
        write(calls, size=3 << 20)
    assert len(calls.take(1, 0.0)) == 1
    calls = Calls(limits=Limits(open_max=2), chance=random.Random(1))
    for _ in range(5):
        calls.submit(Call("getData", GetData(space="a", offset=0, length=1), decode, Slot(), 100, 1.0, False))
    assert len(calls.take(1, 0.0)) == 2
    assert calls.take(1, 0.0) == []
    assert len(calls.take(2, 0.0)) == 2


def test_an_unreadable_answer_is_an_error_of_the_protocol(calls: Calls) -> None:
    slot = write(calls)
    ((number, _, _),) = calls.take(1, 0.0)
    calls.answered(number, 200, pack(["what"]), 0.0)
    assert isinstance(slot.outcome, lastgood.ProtocolError)


def test_every_code_has_its_exception() -> None:
    assert set(BY_CODE) == set(CODES) - {"unknown_outcome"}
    for code, row in CODES.items():
        if code == "unknown_outcome":
            continue
        error = from_problem(row.status, {"code": code, "detail": "d", "more": 1}, changing=False)
        assert isinstance(error, lastgood.Refused)
        assert (error.code, error.status, error.retryable, error.extra) == (
            code,
            row.status,
            row.retryable,
            {"more": 1},
        )


def test_a_foreign_problem_is_survived() -> None:
    assert isinstance(from_problem(502, "<html>", changing=True), lastgood.UnknownOutcome)
    assert isinstance(from_problem(418, None, changing=True), lastgood.Refused)


def test_endpoints() -> None:
    assert parse_endpoints("a:1, http://b:2/,a:1") == ["http://a:1", "http://b:2"]
    assert parse_endpoints(["localhost", "https://[::1]:9"]) == ["http://localhost:7801", "https://[::1]:9"]
    for bad in ("", "ftp://x", "http://", "a:b", "http://a/path"):
        with pytest.raises(ValueError):
            parse_endpoints(bad)


def test_sse_lines() -> None:
    parser = SseParser()
    lines = [": comment", "id: 7", "event: x", "data: {", "data: }", "", "", "data:1", ""]
    assert [got for line in lines if (got := parser.feed(line))] == [("7", "{\n}"), ("7", "1")]
