"""Conditions, bounds and effects of one transaction; staged ones; the undo window and its bounds."""

from __future__ import annotations

import pytest

from node.commands import (
    CreateSpace,
    Key,
    OpenSession,
    Rollback,
    Seat,
    StagePart,
    TakeSnapshots,
    Tick,
    Tx,
    encode_command,
)
from node.results import Done, Refused, Replayed, RollbackDone, SessionDone, TxDone
from node.settings import HOUR_MS, Limits
from node.state import Job
from tests.unit.node.rig import Rig

PAGE = 4096


@pytest.fixture
def rig() -> Rig:
    rig = Rig()
    rig.apply(CreateSpace("a"))
    return rig


def code(outcome) -> str:
    assert isinstance(outcome, Refused), outcome
    return outcome.code


def test_a_write_reads_back_and_zeros_are_between(rig):
    done = rig.one(Tx("a", [(10_000, b"xyz")]))
    assert done == TxDone(1, 1, 1, "2-0")
    assert rig.bytes_of("a") == bytes(10_000) + b"xyz"
    assert rig.machine.space("a").pages == 1


def test_ranges_apply_in_order_and_the_last_wins(rig):
    rig.one(Tx("a", [(0, b"aaaa"), (2, b"bbbb"), (3, b"c")], tx_id="mine"))
    assert rig.bytes_of("a") == b"aabcbb"
    rows = rig.machine.wal("a")
    assert [(row.log_seq, row.tx_id, row.offset, row.before, row.size_before) for row in rows] == [
        (1, "mine", 0, b"", 0),
        (2, "mine", 2, b"aa", 4),
        (3, "mine", 3, b"b", 6),
    ]


def test_conditions_are_checked_in_order_and_nothing_happens(rig):
    rig.apply(Tx("a", [(0, b"one")]))
    before = rig.machine.space("a")
    assert code(rig.one(Tx("a", [(0, b"x")], epoch=9, lvc=9, etag=(9, 9, 9)))) == "stale_epoch"
    assert code(rig.one(Tx("a", [(0, b"x")], epoch=1, lvc=9, etag=(9, 9, 9)))) == "conflict"
    assert code(rig.one(Tx("a", [(0, b"x")], lvc=1, etag=(1, 1, 9), pages={0: 9}))) == "precondition_failed"
    assert code(rig.one(Tx("a", [(0, b"x")], lvc=1, etag=(1, 1, 1), pages={0: 9}))) == "conflict"
    assert code(rig.one(Tx("a", [(0, b"x")], pages={7: 1}))) == "conflict"
    assert code(rig.one(Tx("a", [], epoch=1))) == "bad_request"
    assert code(rig.one(Tx("a", [(0, b"")]))) == "bad_request"
    assert code(rig.one(Tx("nobody", [(0, b"x")]))) == "not_found"
    assert rig.machine.space("a") == before
    assert isinstance(rig.one(Tx("a", [(0, b"x")], epoch=1, lvc=1, etag=(1, 1, 1), pages={0: 1, 7: 0})), TxDone)


def test_bounds(rig):
    rig.apply(CreateSpace("small", max_pages=2))
    assert isinstance(rig.one(Tx("small", [(2 * PAGE - 1, b"x")])), TxDone)
    assert code(rig.one(Tx("small", [(0, b"ok"), (2 * PAGE - 1, b"xy")]))) == "too_large"
    assert code(rig.one(Tx("small", [], size=2 * PAGE + 1))) == "too_large"
    assert code(rig.one(Tx("small", [(0, b"x")] * 1025))) == "too_large"
    assert isinstance(rig.one(Tx("small", [(0, b"x")] * 1024)), TxDone)
    assert rig.bytes_of("small")[:2] == b"x\0"


def test_long_writes_become_ranges_of_a_mebibyte(rig):
    block = b"y" * ((1 << 20) + 5)
    rig.apply(Tx("a", [(3, block)]))
    rows = rig.machine.wal("a")
    assert [(row.offset, row.length) for row in rows] == [(3, 1 << 20), (3 + (1 << 20), 5)]
    assert rig.bytes_of("a") == b"\0\0\0" + block


def test_a_lower_size_cuts_and_a_higher_one_shows_zeros(rig):
    rig.apply(Tx("a", [(0, b"z" * (3 * PAGE))]))
    rig.apply(Tx("a", [], size=PAGE + 1))
    rig.apply(Tx("a", [], size=2 * PAGE))
    assert rig.bytes_of("a") == b"z" * (PAGE + 1) + bytes(PAGE - 1)
    assert rig.machine.space("a").pages == 2
    rig.apply(Rollback("a", to_lvc=1))
    assert rig.bytes_of("a") == b"z" * (3 * PAGE)


def test_a_staged_transaction_is_one(rig):
    block = b"s" * (1 << 20)
    for part in range(3):
        assert rig.one(StagePart("up", part, [(part << 20, block)])) == Done()
    assert rig.machine.space("a").size == 0
    steps: list[int] = []
    raw = encode_command([Tx("a", [(0, b"end")], stage="up", stage_parts=3)], stamp_ms=2000, wall_ms=0)
    (done,) = rig.apply_raw(raw, steps)
    assert isinstance(done, TxDone) and done.lvc == 1 and done.log_seq == 4
    assert rig.bytes_of("a") == b"end" + block[3:] + block + block
    assert len(steps) > 1
    assert code(rig.one(Tx("a", [], stage="up", stage_parts=3))) == "gone"
    assert code(rig.one(Tx("a", [], stage="up", stage_parts=1 << 60))) == "gone"
    rig.apply(Rollback("a", to_lvc=0))
    assert rig.bytes_of("a") == b""


def test_staged_parts_expire_and_are_bounded():
    rig = Rig(limits=Limits(stage_bytes_max=1000, stage_ttl_ms=50))
    rig.apply(CreateSpace("a"))
    assert rig.one(StagePart("one", 0, [(0, b"x" * 600)])) == Done()
    assert code(rig.one(StagePart("two", 0, [(0, b"x" * 600)]))) == "rate_limited"
    assert rig.one(StagePart("one", 0, [(0, b"y" * 600)])) == Done()
    assert rig.machine.next_due_ms() == rig.now_ms + 50
    rig.now_ms += 50
    rig.apply(Tick())
    assert rig.machine.next_due_ms() is None
    assert rig.one(StagePart("two", 0, [(0, b"x" * 600)])) == Done()
    assert code(rig.one(Tx("a", [], stage="one", stage_parts=1))) == "gone"


# ---------------------------------------------------------------- exactly once


def test_a_key_answers_what_was_decided(rig):
    key = Key("k", b"f" * 16)
    first = rig.one(Tx("a", [(0, b"1")], key))
    assert rig.one(Tx("a", [(0, b"1")], key)) == Replayed(first)
    assert code(rig.one(Tx("a", [(0, b"2")], Key("k", b"g" * 16)))) == "idempotency_conflict"
    assert rig.machine.space("a").lvc == 1
    refused = rig.one(Tx("a", [(0, b"2")], Key("r", b"f" * 16), lvc=9))
    rig.apply(Tx("a", [(0, b"x")]))
    assert rig.one(Tx("a", [(0, b"2")], Key("r", b"f" * 16), lvc=9)) == Replayed(refused)


def test_refusals_of_the_moment_are_not_kept(rig):
    key = Key("k", b"f" * 16)
    assert code(rig.one(Tx("a", [], key))) == "bad_request"
    assert isinstance(rig.one(Tx("a", [(0, b"1")], key)), TxDone)


def test_a_key_is_forgotten_after_an_hour(rig):
    key = Key("k", b"f" * 16)
    rig.one(Tx("a", [(0, b"1")], key))
    rig.now_ms += HOUR_MS - 1
    assert isinstance(rig.one(Tx("a", [(0, b"1")], key)), Replayed)
    rig.now_ms += 1
    assert isinstance(rig.one(Tx("a", [(0, b"1")], key)), TxDone)


def test_a_full_key_table_refuses_new_keys_and_forgets_none():
    rig = Rig(limits=Limits(keys_max=2))
    rig.apply(CreateSpace("a"))
    for name in "xy":
        rig.one(Tx("a", [(0, b"1")], Key(name, b"")))
    assert code(rig.one(Tx("a", [(0, b"1")], Key("z", b"")))) == "rate_limited"
    assert isinstance(rig.one(Tx("a", [(0, b"1")], Key("x", b""))), Replayed)
    assert rig.machine.space("a").lvc == 2


def test_a_session_applies_each_sequence_once():
    rig = Rig(limits=Limits(session_window=4))
    rig.apply(CreateSpace("a"))
    opened = rig.one(OpenSession())
    assert opened == SessionDone(1, 4, HOUR_MS)
    first = rig.one(Tx("a", [(0, b"1")], Seat(1, 1, 1)))
    third = rig.one(Tx("a", [(0, b"3")], Seat(1, 3, 1)))
    assert rig.one(Tx("a", [(0, b"1")], Seat(1, 1, 1))) == Replayed(first)
    assert code(rig.one(Tx("a", [(0, b"5")], Seat(1, 5, 1)))) == "rate_limited"
    assert isinstance(rig.one(Tx("a", [(0, b"5")], Seat(1, 5, 2))), TxDone)
    assert code(rig.one(Tx("a", [(0, b"1")], Seat(1, 1, 1)))) == "gone"
    assert rig.one(Tx("a", [(0, b"3")], Seat(1, 3, 2))) == Replayed(third)
    assert code(rig.one(Tx("a", [(0, b"1")], Seat(2, 1, 1)))) == "gone"
    assert rig.machine.space("a").lvc == 3


def test_a_session_ends_after_an_hour_unused():
    rig = Rig(limits=Limits(sessions_max=1))
    rig.apply(CreateSpace("a"))
    rig.one(OpenSession())
    assert code(rig.one(OpenSession())) == "rate_limited"
    rig.now_ms += HOUR_MS - 1
    assert isinstance(rig.one(Tx("a", [(0, b"1")], Seat(1, 1, 1))), TxDone)
    rig.now_ms += HOUR_MS - 1
    assert isinstance(rig.one(Tx("a", [(0, b"1")], Seat(1, 2, 1))), TxDone)
    rig.now_ms += HOUR_MS
    assert code(rig.one(Tx("a", [(0, b"1")], Seat(1, 3, 1)))) == "gone"
    assert rig.one(OpenSession()) == SessionDone(2, 4096, HOUR_MS)


# ---------------------------------------------------------------- the undo window


def test_the_window_is_bounded_in_bytes_and_keeps_the_newest():
    rig = Rig()
    rig.apply(CreateSpace("a", policy={"undo_bytes": 1500}))
    for _ in range(10):
        rig.apply(Tx("a", [(0, b"x" * 300)]))
    info = rig.machine.space("a")
    assert 5 < info.undo_from_lvc < 9
    refused = rig.one(Rollback("a", to_lvc=info.undo_from_lvc - 1))
    assert code(refused) == "outside_window"
    assert refused.extra == {"oldest_lvc": info.undo_from_lvc, "newest_lvc": 10}
    assert code(rig.one(Rollback("a", to_lvc=11))) == "outside_window"
    rig.apply(Tx("a", [(0, b"y" * 10_000)]), Tx("a", [(0, b"z" * 10_000)]))
    assert rig.machine.space("a").undo_from_lvc == 11
    assert isinstance(rig.one(Rollback("a", to_lvc=11)), RollbackDone)
    assert rig.bytes_of("a") == b"y" * 10_000


def test_the_window_is_bounded_in_records():
    rig = Rig(limits=Limits(undo_records_max=3))
    rig.apply(CreateSpace("a"))
    for _ in range(5):
        rig.apply(Tx("a", [(0, b"x")]))
    assert rig.machine.space("a").undo_from_lvc == 2
    assert [row.lvc for row in rig.machine.wal("a")] == [3, 4, 5]


def test_all_windows_together_are_bounded_and_the_oldest_goes_first():
    rig = Rig(limits=Limits(undo_bytes_total=3000))
    for name in "abc":
        rig.apply(CreateSpace(name))
    for name in "aabbcc":
        rig.apply(Tx(name, [(0, b"x" * 600)]), Tx(name, [(0, b"x" * 600)]))
    book = rig.machine.registry.book
    assert book.bytes <= 3000
    assert book.bytes == sum(window.bytes for window in book.windows.values())
    assert [rig.machine.space(name).undo_from_lvc for name in "abc"] == [4, 4, 0]
    rig.apply(Tx("a", [(0, b"x" * 6000)]), Tx("a", [(0, b"x" * 6000)]))
    assert [rig.machine.space(name).undo_from_lvc for name in "abc"] == [5, 4, 4]
    assert isinstance(rig.one(Rollback("a", to_lvc=5)), RollbackDone)


def test_dead_records_are_released_from_the_undo_log():
    rig = Rig(limits=Limits(undo_records_max=2))
    rig.apply(CreateSpace("a"))
    for _ in range(20):
        rig.apply(Tx("a", [(0, b"x" * 100)]), Tx("a", [(0, b"y" * 100)]))
    assert rig.undo.live_bytes < 1000
    rig.machine.applier.registry.remove_space(rig.machine.registry.by_name["a"])
    assert rig.undo.live_bytes == 0


def test_a_rollback_to_an_lvc_is_a_job_and_the_space_says_so(rig):
    for _ in range(200):
        rig.apply(Tx("a", [(0, b"x")]))
    raw = encode_command([Tx("a", [(1, b"q")]), Rollback("a", to_lvc=0)], stamp_ms=1, wall_ms=1)
    job = rig.machine.apply(rig.index + 1, 1, raw)
    assert isinstance(job, Job)
    states = []
    outcomes = None
    while outcomes is None:
        outcomes = job.step(1)
        states.append(rig.machine.space("a").state)
    assert "rolling_back" in states and states[-1] == "active" and len(states) > 3
    assert [type(outcome) for outcome in outcomes] == [TxDone, RollbackDone]
    assert rig.machine.applied_index == rig.index + 1


def test_writing_zeros_makes_a_page_present_and_no_other_root(rig):
    rig.apply(Tx("a", [], size=2 * PAGE), TakeSnapshots(["a"]))
    rig.apply(Tx("a", [(0, bytes(10))]), TakeSnapshots(["a"]))
    assert rig.machine.space("a").pages == 1
    assert rig.root(1, 1) == rig.root(1, 2)
