"""Kinds, rules, labels, rings, pins, time to live, forks, consistent cuts and the policy's timer."""

from __future__ import annotations

import pytest

from node.commands import CreateSpace, DeleteSnapshot, DeleteSpace, PinSnapshot, Rollback, TakeSnapshots, Tick, Tx
from node.policy import decide_snapshot, make_policy
from node.results import Done, Policy, Refused, RollbackDone, SnapshotInfo, SnapshotsDone, SpaceDone
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


def take(rig: Rig, **options) -> SnapshotInfo:
    outcome = rig.one(TakeSnapshots(["a"], **options))
    assert isinstance(outcome, SnapshotsDone), outcome
    return outcome.snapshots[0]


def ids(rig: Rig, name: str = "a") -> list[int]:
    return [info.id for info in rig.machine.snapshots(name, limit=1000)]


def events(rig: Rig) -> list[tuple[str, int]]:
    return [(event.type, event.body.get("id", 0)) for event in rig.machine.events(0)]


def decide(**changes):
    facts = {
        "baseline_dirty_pages": 0,
        "pages": 100,
        "transactions": 0,
        "chain": 0,
        "policy": Policy(),
        "chain_max": 64,
    }
    return decide_snapshot(**{**facts, **changes})


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, None),
        ({"baseline_dirty_pages": 15}, None),
        ({"baseline_dirty_pages": 16}, "dirty_ratio"),
        ({"baseline_dirty_pages": 16, "pages": 107}, None),
        ({"baseline_dirty_pages": 16, "pages": 106}, "dirty_ratio"),
        ({"transactions": 9_999}, None),
        ({"transactions": 10_000}, "lvc_delta"),
        ({"chain": 64}, None),
        ({"chain": 65}, "chain"),
        ({"policy": Policy(dirty_pages_min=0)}, None),
    ],
)
def test_decide_snapshot(changes, reason):
    assert decide(**changes) == reason


@pytest.mark.parametrize(
    "member",
    [
        {"dirty_ratio": 0}, {"dirty_ratio": 1.01}, {"dirty_pages_min": -1}, {"lvc_delta": 0}, {"lvc_delta": 1.5},
        {"interval_s": -1}, {"ring": 0}, {"ring": 65537}, {"ttl_s": 0}, {"undo_bytes": -1}, {"what": 1}, {"ring": None},
        {"ring": True},
    ],
)  # fmt: skip
def test_bad_policies_are_named(member, rig):
    with pytest.raises(ValueError, match=next(iter(member))):
        make_policy(member)
    if member.get("ring") is not True:
        assert code(rig.one(CreateSpace("b", policy=member))) == "bad_request"


def test_kinds_and_bases(rig):
    rig.apply(Tx("a", [(0, b"x" * PAGE * 3)]))
    rows = [take(rig)]
    rig.apply(Tx("a", [(0, b"y")]))
    rows.append(take(rig, kind="auto"))
    rig.apply(Tx("a", [(PAGE, b"y" * PAGE * 2)]))
    rows += [take(rig, kind="incremental"), take(rig, kind="full")]
    facts = [(row.kind, row.reason, row.base, row.dirty_pages, row.bytes) for row in rows]
    assert facts == [
        ("full", "requested", None, 3, 3 * PAGE),
        ("incremental", "requested", 1, 1, PAGE),
        ("incremental", "requested", 2, 2, 2 * PAGE),
        ("full", "requested", None, 3, 3 * PAGE),
    ]
    info = rig.machine.space("a")
    assert (info.baseline, info.last_snapshot, info.dirty_pages, info.baseline_dirty_pages) == (4, 4, 0, 0)


def test_the_automatic_rules_are_silent_before_a_baseline(rig):
    rig.apply(*[Tx("a", [(page * PAGE, b"x")]) for page in range(40)])
    assert ids(rig) == []
    take(rig)
    rig.apply(*[Tx("a", [(page * PAGE, b"x")]) for page in range(20)])
    (hybrid, first) = rig.machine.snapshots("a")
    assert (hybrid.kind, hybrid.reason, hybrid.base, hybrid.dirty_pages, hybrid.lvc) == (
        "hybrid",
        "dirty_ratio",
        1,
        16,
        56,
    )
    assert first.kind == "full" and rig.machine.space("a").baseline == 2


def test_lvc_delta_and_the_counter_that_a_rollback_takes_back(rig):
    rig.apply(CreateSpace("b", policy={"lvc_delta": 3}))
    rig.apply(TakeSnapshots(["b"]), Tx("b", [(0, b"1")]), Tx("b", [(0, b"2")]), Rollback("b", snapshot="1"))
    rig.apply(Tx("b", [(0, b"1")]), Tx("b", [(0, b"2")]))
    assert [info.reason for info in rig.machine.snapshots("b")] == ["rollback", "requested"]
    rig.apply(Tx("b", [(0, b"3")]))
    assert [info.reason for info in rig.machine.snapshots("b")] == ["lvc_delta", "rollback", "requested"]


def test_labels_name_the_newest_living_one(rig):
    take(rig, label="v1")
    take(rig, label="v1")
    assert rig.machine.snapshot("a", "@v1").id == 2
    assert rig.one(DeleteSnapshot("a", "@v1")) == Done()
    assert rig.machine.snapshot("a", "@v1").id == 1
    assert code(rig.machine.snapshot("a", "2")) == "not_found"
    assert code(rig.machine.snapshot("a", "@nobody")) == "not_found"
    for bad in ("123", "@x", "", "x" * 129):
        assert code(rig.one(TakeSnapshots(["a"], label=bad))) == "bad_request"


def test_rings_of_requested_and_automatic_ones(rig):
    rig.apply(CreateSpace("b", policy={"ring": 2}))
    for _ in range(4):
        rig.apply(Tx("b", [(0, b"x")]), TakeSnapshots(["b"]))
    assert ids(rig, "b") == [4, 3]
    for _ in range(3):
        rig.apply(Tx("b", [(0, b"x")]), Rollback("b", snapshot="4"))
    assert ids(rig, "b") == [7, 6, 4, 3]
    assert events(rig).count(("snapshot.expired", 5)) == 1


def test_pins_keep_and_unpinning_lets_go(rig):
    rig.apply(CreateSpace("b", policy={"ring": 1}))
    assert rig.one(TakeSnapshots(["b"], pin="default")).snapshots[0].pins == ["default"]
    rig.apply(TakeSnapshots(["b"]), TakeSnapshots(["b"]))
    assert ids(rig, "b") == [3, 1]
    assert rig.one(PinSnapshot("b", "1", "zoe")).pins == ["default", "zoe"]
    assert code(rig.one(DeleteSnapshot("b", "1"))) == "pinned"
    assert code(rig.one(DeleteSpace("b"))) == "pinned"
    assert rig.one(PinSnapshot("b", "1", "zoe", pin=False)).pins == ["default"]
    assert rig.one(PinSnapshot("b", "1", "zoe", pin=False)).pins == ["default"]
    assert rig.one(PinSnapshot("b", "1", pin=False)).pins == []
    assert ids(rig, "b") == [3]
    assert rig.one(DeleteSpace("b")) == Done()


def test_time_to_live_is_replicated_time(rig):
    take(rig, ttl_ms=1000)
    take(rig, ttl_ms=2000, pin="p")
    assert rig.machine.next_due_ms() == rig.now_ms + 1000
    rig.now_ms += 999
    rig.apply(Tick())
    assert ids(rig) == [2, 1]
    rig.now_ms += 1
    rig.apply(Tick())
    assert ids(rig) == [2]
    rig.now_ms += 5000
    rig.apply(Tick())
    assert ids(rig) == [2]
    rig.apply(PinSnapshot("a", "2", "p", pin=False))
    assert ids(rig) == []
    assert [event for event in events(rig) if event[0] == "snapshot.expired"] == [
        ("snapshot.expired", 1),
        ("snapshot.expired", 2),
    ]


def test_confirm_against_expiry_is_decided_by_log_order(rig):
    take(rig, ttl_ms=1000)
    rig.now_ms += 1000
    assert code(rig.one(Rollback("a", snapshot="1"))) == "not_found"


def test_the_policy_has_a_default_time_to_live(rig):
    rig.apply(CreateSpace("b", policy={"ttl_s": 1.5}), TakeSnapshots(["b"]))
    assert rig.machine.next_due_ms() == rig.now_ms + 1500
    assert rig.machine.snapshot("b", "1").expires_ms == rig.now_ms + 3_600_000 + 1500


def test_the_interval_takes_one_when_something_changed(rig):
    rig.apply(CreateSpace("b", policy={"interval_s": 1}))
    rig.now_ms += 1000
    rig.apply(Tick())
    assert ids(rig, "b") == []
    rig.apply(Tx("b", [(0, b"x")]))
    for _ in range(3):
        rig.now_ms += 1000
        rig.apply(Tick())
    assert ids(rig, "b") == [1]
    rig.apply(Tx("b", [(0, b"y")]))
    rig.now_ms += 5000
    rig.apply(Tick())
    assert [(info.kind, info.reason) for info in rig.machine.snapshots("b")] == [
        ("incremental", "interval"),
        ("full", "first"),
    ]
    assert rig.machine.next_due_ms() == rig.now_ms + 1000


def test_a_tiny_interval_does_not_spin(rig):
    rig.apply(CreateSpace("b", policy={"interval_s": 1e-9}), Tx("b", [(0, b"x")]))
    rig.now_ms += 1000
    rig.apply(Tick())
    assert ids(rig, "b") == [1] and rig.machine.next_due_ms() == rig.now_ms + 100


def test_what_would_not_fit_a_record_is_refused(rig):
    take(rig)
    assert code(rig.one(Tx("a", [(0, b"x")], tx_id="x" * 129))) == "bad_request"
    assert code(rig.one(TakeSnapshots(["a"], ttl_ms=10**12 + 1))) == "bad_request"
    assert code(rig.one(TakeSnapshots(["a"], pin="no spaces"))) == "bad_request"
    assert code(rig.one(PinSnapshot("a", "1", ""))) == "bad_request"
    assert code(rig.one(Rollback("a", snapshot="1", reason="x" * 1025))) == "bad_request"
    assert code(rig.one(Rollback("a", snapshot="9" * 30))) == "not_found"


def test_one_cut_over_many_spaces(rig):
    for name in ("p-1", "p-2", "q"):
        rig.apply(CreateSpace(name), Tx(name, [(0, name.encode())]))
    done = rig.one(TakeSnapshots(prefix="p-", label="cut"))
    assert [info.space for info in done.snapshots] == ["p-1", "p-2"]
    assert {info.index for info in done.snapshots} == {done.index}
    assert code(rig.one(TakeSnapshots(["p-1", "nobody"]))) == "not_found"
    assert ids(rig, "p-1") == [1]
    assert code(rig.one(TakeSnapshots(prefix="z"))) == "not_found"
    assert code(rig.one(TakeSnapshots(["q"], prefix="p"))) == "bad_request"


def test_a_fork_shares_and_then_goes_its_own_way(rig):
    rig.apply(Tx("a", [(0, b"origin")]), TakeSnapshots(["a"], label="base"), Tx("a", [(0, b"O")]))
    created = rig.one(CreateSpace("f", from_space="a", from_snapshot="@base"))
    assert isinstance(created, SpaceDone) and created.created
    assert (created.info.uid, created.info.epoch, created.info.lvc, created.info.size) == (2, 2, 1, 6)
    rig.apply(Tx("f", [(5, b"N!")]))
    assert rig.bytes_of("f") == b"origiN!" and rig.bytes_of("a") == b"Origin"
    assert rig.bytes_of("a", snapshot="1") == b"origin"
    assert rig.one(TakeSnapshots(["f"])).snapshots[0].id == 1
    assert rig.one(CreateSpace("f", from_space="a", from_snapshot="@base")).created is False
    assert code(rig.one(CreateSpace("f", from_space="a", from_snapshot="1"))) == "conflict"
    assert code(rig.one(CreateSpace("g", from_space="a", from_snapshot="9"))) == "not_found"
    assert code(rig.one(CreateSpace("g", page_size=8192, from_space="a", from_snapshot="1"))) == "conflict"
    assert code(rig.one(Rollback("f", to_lvc=0))) == "outside_window"
    rig.apply(DeleteSpace("a"))
    assert rig.bytes_of("f") == b"origiN!"


def test_creation_agrees_with_what_was_given_only(rig):
    assert rig.one(CreateSpace("a", page_size=4096)).created is False
    assert rig.one(CreateSpace("a", policy={"ring": 16})).created is False
    assert code(rig.one(CreateSpace("a", page_size=8192))) == "conflict"
    assert code(rig.one(CreateSpace("a", policy={"ring": 3}))) == "conflict"
    assert code(rig.one(CreateSpace("b", page_size=5000))) == "bad_request"
    assert code(rig.one(CreateSpace("-b"))) == "bad_request"
    assert code(rig.one(CreateSpace("b", max_pages=0))) == "bad_request"


def test_epochs_never_repeat_for_a_name(rig):
    rig.apply(Tx("a", [(0, b"x")]), TakeSnapshots(["a"]), Rollback("a", snapshot="1"), Rollback("a", snapshot="1"))
    assert rig.machine.space("a").epoch == 3
    rig.apply(DeleteSpace("a"), CreateSpace("a"))
    info = rig.machine.space("a")
    assert (info.uid, info.epoch) == (4, 4)
    assert code(rig.one(Tx("a", [(0, b"x")], epoch=3))) == "stale_epoch"


def test_a_rollback_can_be_rolled_back_and_says_what_it_did(rig):
    rig.apply(Tx("a", [(0, b"good")]), TakeSnapshots(["a"], label="good"), Tx("a", [(0, b"evil")]))
    done = rig.one(Rollback("a", snapshot="@good", reason="bad update"))
    assert done == RollbackDone(3, 2, 2, 1, 1, 2, 1, True)
    assert rig.bytes_of("a") == b"good"
    event = rig.machine.events(0, types=frozenset({"rollback.confirmed"}))[0]
    assert event.body["reason"] == "bad update" and event.body["left_snapshot"] == 2
    assert code(rig.one(Rollback("a", snapshot="2", if_lvc=2))) == "conflict"
    assert code(rig.one(Rollback("a", snapshot="2", epoch=1))) == "stale_epoch"
    assert code(rig.one(Rollback("a"))) == "bad_request"
    assert isinstance(rig.one(Rollback("a", snapshot="2", if_lvc=3, epoch=2)), RollbackDone)
    assert rig.bytes_of("a") == b"evil"


def test_events_are_dense_and_gone_only_for_what_was_asked():
    from node.events import EventBook

    book = EventBook(3)
    for number in range(10):
        book.add(number, "snapshot.created" if number % 2 else "rollback.confirmed", f"s{number % 4}", 0, {})
    assert [event.seq for event in book.after(0)] == [5, 6, 7, 8, 9, 10]
    assert [event.seq for event in book.after(7, limit=2)] == [8, 9]
    assert code(book.after(3)) == "gone"
    assert code(book.after(3, types=frozenset({"snapshot.created"}))) == "gone"
    assert [event.seq for event in book.after(3, types=frozenset({"update.opened"}))] == []
    assert [event.seq for event in book.after(4, types=frozenset({"snapshot.created"}), space="s1")] == [6, 10]
