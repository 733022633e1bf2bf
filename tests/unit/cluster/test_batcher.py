"""Group commit without I/O: order, bounds, and what happens at each bound."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.batcher import OPERATION_BYTES, Batcher, BatchLimits, Overloaded, Stamper
from node.commands import Tick

SMALL = BatchLimits(
    batch_bytes_max=1000 + 3 * OPERATION_BYTES,
    batch_operations_max=4,
    queue_bytes_max=5000,
    queue_operations_max=8,
    in_flight_max=2,
)


def ignore(_: Any) -> None:
    """A reply that nobody reads."""


def fill(batcher: Batcher, sizes: list[int]) -> list[Tick]:
    operations = [Tick() for _ in sizes]
    for operation, size in zip(operations, sizes, strict=True):
        batcher.add(operation, size, ignore)
    return operations


def test_what_waits_goes_together_up_to_the_bounds() -> None:
    batcher = Batcher(SMALL)
    operations = fill(batcher, [400, 400, 400, 10, 10])
    first = batcher.take()
    assert first is not None
    assert [id(op) for op in first.operations] == [id(op) for op in operations[:2]]
    second = batcher.take()
    assert second is not None
    assert len(second.operations) == 3
    assert batcher.queued_bytes == 0


def test_no_more_in_flight_than_allowed() -> None:
    batcher = Batcher(SMALL)
    fill(batcher, [900, 900, 900])
    assert batcher.take() is not None
    assert batcher.take() is not None
    assert batcher.take() is None
    batcher.finished()
    assert batcher.take() is not None


def test_an_operation_larger_than_a_batch_goes_alone() -> None:
    batcher = Batcher(SMALL)
    fill(batcher, [10, 4000, 10])
    taken = [batcher.take(), batcher.take()]
    assert [len(batch.operations) for batch in taken if batch] == [1, 1]


def test_the_queue_is_bounded_in_count_and_bytes() -> None:
    batcher = Batcher(SMALL)
    fill(batcher, [1] * 8)
    with pytest.raises(Overloaded, match="8 operations"):
        batcher.add(Tick(), 1, ignore)
    assert len(batcher) == 8
    batcher = Batcher(SMALL)
    fill(batcher, [4000])
    with pytest.raises(Overloaded, match="5000 bytes"):
        batcher.add(Tick(), 1000, ignore)
    assert batcher.queued_bytes == 4000 + OPERATION_BYTES


def test_drained_operations_are_given_back_to_their_callers() -> None:
    batcher = Batcher(SMALL)
    told: list[str] = []
    batcher.add(Tick(), 5, told.append)
    for reply in batcher.drain():
        reply("lost")
    assert (told, len(batcher), batcher.queued_bytes) == (["lost"], 0, 0)


@given(st.lists(st.integers(0, 1200), max_size=8))
def test_nothing_is_lost_or_reordered(sizes: list[int]) -> None:
    batcher = Batcher(BatchLimits(1000, 3, 10**9, 10**6, 10**6))
    operations = fill(batcher, sizes)
    seen: list[int] = []
    while (batch := batcher.take()) is not None:
        assert len(batch.operations) == 1 or batch.bytes_estimated <= 1000
        seen += [id(op) for op in batch.operations]
    assert seen == [id(op) for op in operations]


def test_time_goes_on_from_the_log_and_never_back() -> None:
    clock = [500.0]
    stamper = Stamper(lambda: clock[0])
    stamper.lead(10_000)
    assert stamper.stamp() == 10_000
    clock[0] += 70
    assert stamper.stamp() == 10_070
    stamper.lead(3)  # a log that is behind what this node stamped as a leader before
    assert stamper.stamp() == 10_070
    clock[0] += 1
    assert stamper.stamp() == 10_071
