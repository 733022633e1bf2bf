"""From operations to one command and back: one reply each, and the outcomes told apart."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.batcher import Batcher, BatchLimits, Stamper
from cluster.consensus.seams import Committed, NotLeader, NotSubmitted, Unknown
from cluster.service.pipeline import WritePipeline
from cluster.service.staging import PARTS_AHEAD, Stager, cut
from node.commands import CreateSpace, Tick, Tx, decode_command
from node.results import Done, Refused


class Scripted:
    """Consensus that keeps what was proposed until the test ends it."""

    def __init__(self) -> None:
        self.proposed: list[tuple[bytes, Callable[[Any], None]]] = []

    def propose(self, command: bytes, done: Callable[[Any], None]) -> None:
        self.proposed.append((command, done))


class Room:
    full = False

    def can_accept(self, raw: bytes) -> bool:
        return not self.full


class Turns:
    """`call_soon` whose next turn the test runs."""

    def __init__(self) -> None:
        self.due: list[Callable[[], None]] = []

    def run(self) -> None:
        due, self.due = self.due, []
        for call in due:
            call()


def make(in_flight: int = 1) -> tuple[WritePipeline, Scripted, Room, Turns]:
    consensus, room, turns = Scripted(), Room(), Turns()
    pipeline = WritePipeline(
        batcher=Batcher(BatchLimits(1 << 20, 100, 1 << 20, 3, in_flight)),
        stamper=Stamper(lambda: 7.0),
        proposer=consensus,
        room=room,
        wall_ms=lambda: 42,
        call_soon=lambda call: turns.due.append(call),
    )
    return pipeline, consensus, room, turns


def test_what_came_in_one_turn_is_one_command() -> None:
    pipeline, consensus, _, turns = make()
    replies: list[Any] = []
    for _ in range(3):
        pipeline.submit(Tick(), 0, replies.append)
    turns.run()
    (raw, done) = consensus.proposed[0]
    command = decode_command(raw)
    assert (len(command.operations), command.wall_ms) == (3, 42)
    outcomes = [Done(), Refused("conflict", "x"), Done()]
    done(Committed(9, outcomes))
    assert replies == outcomes


def test_the_next_batch_leaves_when_a_place_is_free() -> None:
    pipeline, consensus, _, turns = make()
    pipeline.submit(Tick(), 0, lambda _: None)
    turns.run()
    pipeline.submit(Tick(), 0, lambda _: None)
    turns.run()
    assert len(consensus.proposed) == 1
    consensus.proposed[0][1](Committed(1, [Done()]))
    assert len(consensus.proposed) == 2


@pytest.mark.parametrize(
    ("outcome", "code"),
    [(Unknown("x"), "unknown_outcome"), (NotLeader(None), "no_leader"), (NotSubmitted("full"), "rate_limited")],
)
def test_outcomes_are_told_apart(outcome: Any, code: str) -> None:
    pipeline, consensus, _, turns = make()
    replies: list[Refused] = []
    pipeline.submit(Tick(), 0, replies.append)
    turns.run()
    consensus.proposed[0][1](outcome)
    assert [reply.code for reply in replies] == [code]


def test_after_a_failed_batch_the_queue_goes_on() -> None:
    pipeline, consensus, _, turns = make()
    pipeline.submit(Tick(), 0, lambda _: None)
    turns.run()
    pipeline.submit(Tick(), 0, lambda _: None)
    turns.run()
    consensus.proposed[0][1](Unknown("x"))
    turns.run()
    assert len(consensus.proposed) == 2


def test_a_full_disk_refuses_before_anything_is_submitted() -> None:
    pipeline, consensus, room, turns = make()
    room.full = True
    replies: list[Refused] = []
    pipeline.submit(Tick(), 0, replies.append)
    turns.run()
    assert [reply.code for reply in replies] == ["storage_full"]
    assert consensus.proposed == []


def test_a_full_queue_refuses_by_name() -> None:
    pipeline, _, _, _ = make()
    replies: list[Refused] = []
    for _ in range(4):
        pipeline.submit(Tick(), 0, replies.append)
    assert [(reply.code, "3 operations" in reply.detail) for reply in replies] == [("rate_limited", True)]


def test_what_no_node_could_decode_never_gets_into_the_log() -> None:
    pipeline, consensus, _, turns = make()
    replies: list[Refused] = []
    pipeline.submit(CreateSpace("room", policy={"ring": "many"}), 0, replies.append)  # type: ignore[dict-item]
    turns.run()
    assert [reply.code for reply in replies] == ["internal"]
    assert consensus.proposed == []


def test_lost_leadership_answers_what_was_never_submitted() -> None:
    pipeline, consensus, _, turns = make()
    replies: list[Refused] = []
    pipeline.submit(Tick(), 0, lambda _: None)
    turns.run()
    pipeline.submit(Tick(), 0, replies.append)
    pipeline.lost_leadership()
    turns.run()
    assert [reply.code for reply in replies] == ["no_leader"]
    assert len(consensus.proposed) == 1


@given(st.lists(st.tuples(st.integers(0, 10**6), st.binary(min_size=1, max_size=50)), max_size=8), st.integers(1, 20))
def test_staged_parts_say_the_same_writes(writes: list[tuple[int, bytes]], part_bytes_max: int) -> None:
    parts = cut([(offset, memoryview(piece)) for offset, piece in writes], part_bytes_max)
    assert all(sum(len(piece) for _, piece in part) <= part_bytes_max for part in parts)
    one_by_one = [(offset + at, piece[at]) for offset, piece in writes for at in range(len(piece))]
    again = [(offset + at, piece[at]) for part in parts for offset, piece in part for at in range(len(piece))]
    assert again == one_by_one


class Ended:
    """A pipeline that counts what waits for it, and ends it in the next turn: number `refused` with a refusal."""

    def __init__(self, refused: int | None = None) -> None:
        self.refused = refused
        self.numbers: list[int] = []
        self.waiting = self.waiting_max = 0

    def submit(self, operation: Any, data_bytes: int, reply: Callable[[Any], None]) -> None:
        self.numbers.append(operation.part)
        self.waiting += 1
        self.waiting_max = max(self.waiting_max, self.waiting)
        outcome = Refused("rate_limited", "full") if operation.part == self.refused else Done()
        asyncio.get_running_loop().call_soon(self._end, reply, outcome)

    def _end(self, reply: Callable[[Any], None], outcome: Any) -> None:
        self.waiting -= 1
        reply(outcome)


async def test_a_transaction_of_64_parts_leaves_room_in_the_queue() -> None:
    for refused in (None, 5):
        pipeline, committed, answers = Ended(refused), [], []
        host: Any = SimpleNamespace(
            pipeline=pipeline,
            replica=SimpleNamespace(term=3),
            config=SimpleNamespace(id="n1", batch_bytes_max=16),
        )
        tx = Tx("a", [(0, memoryview(bytes(64 * 16)))])
        await Stager(host).run(tx, committed.append, answers.append)
        assert pipeline.waiting_max == PARTS_AHEAD
        if refused is None:
            assert (pipeline.numbers, len(committed), answers) == (list(range(64)), 1, [])
            assert (committed[0].writes, committed[0].stage_parts) == ([], 64)
        else:
            assert (len(pipeline.numbers) <= 5 + PARTS_AHEAD, committed, answers[0].status) == (True, [], 429)
