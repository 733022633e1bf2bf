"""What is counted before an entry is journalled: the journal's own bytes and staged parts too, or a full disk halts."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from node.commands import DeleteSpace, Operation, StagePart, Tx, encode_command
from node.reserve import Reserve

SPARE = 1000
BLOCK = memoryview(bytes(100_000))


def reserve(free: int) -> Reserve:
    registry: Any = SimpleNamespace(heaps=SimpleNamespace(heaps={}), by_name={}, stages=SimpleNamespace(stages={}))
    disk: Any = SimpleNamespace(free_bytes=lambda folder: free)
    return Reserve(registry, disk, "folder", spare_bytes=SPARE)


def raw(operation: Operation) -> bytes:
    return encode_command([operation], stamp_ms=0, wall_ms=0)


@pytest.mark.parametrize(
    ("operation", "least"),
    [(StagePart("s", 0, [(0, BLOCK)]), 100_000), (Tx("a", [(0, BLOCK)]), 300_000)],
    ids=["a staged part is journalled", "a transaction goes to journal, undo log and heap"],
)
def test_the_journal_counts(operation: Operation, least: int) -> None:
    assert not reserve(least).can_accept(raw(operation))
    assert reserve(least + 20_000).can_accept(raw(operation))


def test_what_frees_space_is_let_through() -> None:
    assert reserve(0).can_accept(raw(DeleteSpace("a")))
