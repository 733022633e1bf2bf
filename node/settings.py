"""Replicated limits: they decide in apply, so every node must have the same. The cluster's first entry sets them."""

from __future__ import annotations

import msgspec

HOUR_MS = 3_600_000


class Limits(msgspec.Struct, frozen=True):
    """Bounds of one cluster's replicated state. Times in milliseconds of replicated time, sizes in bytes."""

    undo_bytes_total: int = 1 << 30  # before-images of all spaces together
    undo_records_max: int = 65_536  # transactions and rollbacks in one space's undo window
    keys_max: int = 1_000_000  # idempotency keys kept
    key_ttl_ms: int = HOUR_MS
    sessions_max: int = 100_000
    session_window: int = 4_096  # sequences above the acknowledged one that a session may use
    session_idle_ms: int = HOUR_MS
    stage_bytes_max: int = 256 << 20  # staged parts of all transactions together
    stage_ttl_ms: int = 600_000
    events_max: int = 10_000  # of each of the two rings
    spaces_max: int = 100_000
    chain_max: int = 64  # incrementals after a baseline before the next one must be a baseline
    tx_bytes_max: int = 64 << 20
    tx_ranges_max: int = 1_024


def limits_from(given: dict[str, int] | None) -> Limits:
    """Defaults with `given` on top. Raises ValueError that names an unknown or non-positive limit."""
    for name, value in (given or {}).items():
        if name not in Limits.__struct_fields__:
            raise ValueError(f"unknown limit {name!r}")
        if value < 1:
            raise ValueError(f"limit {name} is {value}, at least 1")
    return Limits(**(given or {}))
