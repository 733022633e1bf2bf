"""The checker knows good histories from bad ones. Every bad one here is a bug that some store has shipped."""

import itertools
import random

import pytest

from chaos.checker import check
from chaos.history import History, Op
from chaos.model import TORN, SpaceModel, check_space, decode, encode, length_of, offset_of

ZERO = (0, 0)


def write(called, returned, values, lvc=None, *, outcome="ok", epoch=7, **args):
    result = {"lvc": lvc, "epoch": epoch} if outcome == "ok" else {"code": args.pop("code", "")}
    args.setdefault("tx_id", f"t{next(iter(values.values()))}")
    if outcome == "info":
        returned, result = None, {}
    return Op(0, "write", "s", {"values": values, **args}, called, returned, outcome, result)


def read(called, returned, values, lvc, epoch=7):
    return Op(1, "read", "s", {}, called, returned, "ok", {"values": values, "lvc": lvc, "epoch": epoch})


def snapshot(called, returned, number, lvc, epoch=7):
    return Op(2, "snapshot", "s", {}, called, returned, "ok", {"id": number, "lvc": lvc, "epoch": epoch, "root": "r"})


def snapread(called, returned, number, values):
    return Op(2, "snapread", "s", {"id": number}, called, returned, "ok", {"values": values})


def rollback(called, returned, became, from_lvc, to_lvc, *, epoch=8, **to):
    result = {"lvc": became, "epoch": epoch, "from_lvc": from_lvc, "to_lvc": to_lvc}
    return Op(3, "rollback", "s", to, called, returned, "ok", result)


def verdict(*ops, **kwargs):
    return check_space(ops, values=ZERO, lvc=0, epoch=7, **kwargs).verdict


GOOD = {
    "nothing": [],
    "one after the other": [
        write(0, 1, {0: 5}, 1),
        read(2, 3, (5, 0), 1),
        write(4, 5, {1: 6}, 2),
        read(6, 7, (5, 6), 2),
    ],
    "a read beside a write sees before": [write(0, 5, {0: 5}, 1), read(1, 2, (0, 0), 0)],
    "a read beside a write sees after": [write(0, 5, {0: 5}, 1), read(1, 2, (5, 0), 1)],
    "two writes side by side in either order": [
        write(0, 9, {0: 5}, 2),
        write(0, 9, {0: 6}, 1),
        read(10, 11, (5, 0), 2),
    ],
    "an unknown write never seen": [write(0, 1, {0: 5}, outcome="info"), read(2, 3, (0, 0), 0), read(8, 9, (0, 0), 0)],
    "an unknown write seen late": [
        write(0, 1, {0: 5}, outcome="info"),
        read(2, 3, (0, 0), 0),
        write(4, 5, {1: 6}, 1),
        read(6, 7, (5, 6), 2),
    ],
    "a refused write leaves nothing": [write(0, 1, {0: 5}, outcome="fail", code="no_leader"), read(2, 3, (0, 0), 0)],
    "a condition that fails for a reason": [
        write(0, 1, {0: 5}, 1),
        write(2, 3, {0: 6}, outcome="fail", code="conflict", if_lvc=0),
        write(4, 5, {0: 7}, 2, if_lvc=1),
    ],
    "rollback to a snapshot": [
        write(0, 1, {0: 5}, 1),
        snapshot(2, 3, 1, 1),
        write(4, 5, {0: 6}, 2),
        rollback(6, 7, 3, 2, 1, to=1),
        read(8, 9, (5, 0), 3, epoch=8),
        snapread(8, 9, 1, (5, 0)),
    ],
    "rollback to an LVC before a rollback": [
        write(0, 1, {0: 5}, 1),
        write(2, 3, {0: 6}, 2),
        rollback(4, 5, 3, 2, 1, lvc=1),
        rollback(6, 7, 4, 3, 2, lvc=2, epoch=9),
        read(8, 9, (6, 0), 4, epoch=9),
    ],
}

BAD = {
    "stale read": [write(0, 1, {0: 5}, 1), read(2, 3, (0, 0), 0)],
    "stale read with a new version": [write(0, 1, {0: 5}, 1), read(2, 3, (0, 0), 1)],
    "lost update": [write(0, 1, {0: 5}, 1), write(2, 3, {1: 6}, 1), read(4, 5, (0, 6), 1)],
    "lost update, version counted": [write(0, 1, {0: 5}, 1), write(2, 3, {1: 6}, 2), read(4, 5, (0, 6), 2)],
    "acknowledged write gone": [write(0, 1, {0: 5}, 1), read(2, 3, (5, 0), 1), read(4, 5, (0, 0), 0)],
    "double apply of a retry": [write(0, 1, {0: 5}, 1), write(2, 3, {0: 6}, 2), read(4, 5, (5, 0), 3)],
    "double apply counted only": [write(0, 1, {0: 5}, 1), read(2, 3, (5, 0), 2)],
    "a read from the future": [read(0, 1, (5, 0), 1), write(2, 3, {0: 5}, 1)],
    "back and forth": [
        write(0, 9, {0: 5}, 1),
        read(1, 2, (5, 0), 1),
        read(3, 4, (0, 0), 0),
    ],
    "a refused write shows up": [write(0, 1, {0: 5}, outcome="fail", code="no_leader"), read(2, 3, (5, 0), 1)],
    "a condition that failed for no reason": [
        write(0, 1, {0: 5}, 1),
        write(2, 3, {0: 6}, outcome="fail", code="conflict", if_lvc=1),
    ],
    "an old epoch was let in": [
        write(0, 1, {0: 5}, 1, epoch=7),
        rollback(2, 3, 2, 1, 0, lvc=0),
        write(4, 5, {0: 9}, 3),
    ],
    "a failed condition was applied all the same": [
        write(0, 1, {0: 5}, 1),
        write(2, 3, {0: 6}, outcome="fail", code="conflict", if_lvc=0),
        read(4, 5, (6, 0), 2),
    ],
    "half a transaction": [write(0, 1, {0: 5, 1: 5}, 1), read(2, 3, (5, 0), 1)],
    "torn bytes": [write(0, 1, {0: 5}, 1), read(2, 3, (TORN, 0), 1)],
    "a snapshot that moved": [
        write(0, 1, {0: 5}, 1),
        snapshot(2, 3, 1, 1),
        write(4, 5, {0: 6}, 2),
        snapread(6, 7, 1, (6, 0)),
    ],
    "a snapshot number given twice": [snapshot(0, 1, 1, 0), snapshot(2, 3, 1, 0)],
    "rollback to the wrong state": [
        write(0, 1, {0: 5}, 1),
        snapshot(2, 3, 1, 1),
        write(4, 5, {0: 6}, 2),
        rollback(6, 7, 3, 2, 1, to=1),
        read(8, 9, (0, 0), 3, epoch=8),
    ],
    "rollback without a new epoch": [write(0, 1, {0: 5}, 1), rollback(2, 3, 2, 1, 0, lvc=0, epoch=7)],
    "an unknown write applied twice": [
        write(0, 1, {0: 5}, outcome="info"),
        read(2, 3, (5, 0), 1),
        write(4, 5, {0: 6}, 2),
        read(6, 7, (5, 0), 3),
    ],
}


@pytest.mark.parametrize("name", GOOD)
def test_good_histories(name):
    assert verdict(*GOOD[name]) == "ok"


@pytest.mark.parametrize("name", BAD)
def test_bad_histories(name):
    assert verdict(*BAD[name]) == "violation"


def test_the_bound_gives_unknown_and_unknown_is_not_ok():
    ops = [write(0, 1, {0: n + 1}, outcome="info") for n in range(12)]
    ops += [read(100, 101, (99, 0), 12)]
    found = check_space(ops, values=ZERO, lvc=0, epoch=7, steps_max=1000)
    assert found.verdict == "unknown"
    assert not found.ok


def test_a_violation_names_what_fits_nowhere():
    found = check_space(BAD["stale read"], values=ZERO, lvc=0, epoch=7)
    assert [op.kind for op in found.stuck] == ["read"]
    found = check_space(BAD["a snapshot that moved"], values=ZERO, lvc=0, epoch=7)
    assert [op.kind for op in found.stuck] == ["snapread"]
    assert [op.kind for op in found.order] == ["write", "snapshot", "write"]


def test_a_hint_helps_but_never_hides():
    late = [write(0, 1, {0: n + 1}, outcome="info") for n in range(14)]
    late += [read(100 + n, 100.5 + n, (n + 1, 0), n + 1) for n in range(14)]
    committed = {f"t{n + 1}": n + 1 for n in range(14)}
    assert verdict(*late, committed=committed, steps_max=500) == "ok"
    # A log that claims less than the clients saw is no excuse, and one that claims more is not believed either.
    assert verdict(*GOOD["an unknown write seen late"], committed={}) == "ok"
    assert verdict(*BAD["stale read"], committed={"t5": 1}) == "violation"


def sequential_run(rng, count, clients):
    """A history that a correct store would give: each operation takes effect at an instant of its own."""
    values, lvc, clock, ops = [0, 0], 0, 0.0, []
    free_at = [0.0] * clients
    for n in range(count):
        client = min(range(clients), key=lambda c: free_at[c])
        clock = max(clock + rng.random(), free_at[client])
        called, returned = clock - rng.random() * 0.9, clock + rng.random() * 3
        called = max(called, free_at[client])
        free_at[client] = returned
        if rng.random() < 0.5:
            register = rng.randrange(2)
            lost = rng.random() < 0.15
            applied = not lost or rng.random() < 0.5
            if applied:
                values[register], lvc = n + 1, lvc + 1
            ops.append(write(called, returned, {register: n + 1}, lvc, outcome="info" if lost else "ok"))
        else:
            ops.append(read(called, returned, tuple(values), lvc))
    return ops


@pytest.mark.parametrize("seed", range(10))
def test_random_correct_histories_pass_and_a_changed_read_does_not(seed):
    rng = random.Random(seed)
    ops = sequential_run(rng, 300, clients=6)
    assert verdict(*ops) == "ok"
    victim = rng.choice([op for op in ops if op.kind == "read" and op.result["lvc"] > 3])
    victim.result["lvc"] -= 3
    assert verdict(*ops) == "violation"


@pytest.mark.parametrize("seed", range(150))
def test_agrees_with_trying_every_order(seed):
    """The naive twin: all permutations of small histories, right and wrong ones."""
    rng = random.Random(seed)
    ops = sequential_run(rng, 5, clients=3)
    for op in ops:
        if rng.random() < 0.25 and op.outcome == "ok" and op.kind == "read":
            op.result = {**op.result, "lvc": rng.randrange(4), "values": (rng.randrange(6), 0)}
    assert (verdict(*ops) == "ok") == explained_by_some_order(ops)


def explained_by_some_order(ops):
    known = [op for op in ops if op.outcome != "info"]
    unknown = [op for op in ops if op.outcome == "info"]
    for size in range(len(unknown) + 1):
        for chosen in itertools.combinations(unknown, size):
            for order in itertools.permutations([*known, *chosen]):
                if explains(order):
                    return True
    return False


def explains(order):
    latest_call = -1.0
    for op in order:
        latest_call = max(latest_call, op.called)
        if op.returned is not None and op.returned < latest_call:
            return False
    model = SpaceModel()
    state = model.start(values=ZERO, lvc=0, epoch=7)
    for op in order:
        state = model.step(state, op)
        if state is None:
            return False
    return True


def test_the_checker_takes_any_model():
    class Counter:
        def step(self, state, op):
            if op.kind == "read":
                return state if op.result["values"] == state else None
            return state + 1

        def version(self, state):
            return state

        def ceiling(self, op):
            return None

    ops = [write(0, 5, {0: 1}, 1), write(0, 5, {0: 2}, 1)]
    assert check([*ops, Op(0, "read", "s", {}, 6, 7, "ok", {"values": 2})], Counter(), 0).ok
    assert not check([*ops, Op(0, "read", "s", {}, 6, 7, "ok", {"values": 1})], Counter(), 0).ok


def test_registers_cross_pages_and_show_tearing():
    raw = bytearray(length_of(2))
    raw[offset_of(1) : offset_of(1) + 320] = encode(77)
    assert decode(bytes(raw), 2) == (0, 77)
    assert decode(b"", 2) == (0, 0)
    assert offset_of(0) // 4096 != (offset_of(0) + 319) // 4096
    raw[8192:] = encode(78)[: len(raw) - 8192]
    assert decode(bytes(raw), 2) == (0, TORN)


def test_longest_gap():
    history = History()
    for at in (1.0, 2.0, 5.5, 6.0):
        history.add(write(at - 0.5, at, {0: 1}, 1))
    assert history.longest_gap(0, 7) == 3.5
    assert history.longest_gap(10, 14) == 4
