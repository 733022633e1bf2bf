"""What applying an operation answers: `Refused`, or one of the typed results below. Replicated facts only.

Nothing local (durations, roots that a thread computes, slots) may stand here: results are kept in the idempotency
table, which is part of the replicated state. Field names are those of the HTTP contract.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec

Struct = msgspec.Struct


class Refused(Struct, tag="refused"):
    """A decision without effect. `code` is a key of `lastgood.codes.CODES`; `detail` names value and limit."""

    code: str
    detail: str
    extra: dict[str, Any] | None = None  # further members of the problem document, e.g. oldest_lvc


class TxDone(Struct, tag="tx"):
    """`log_seq` is that of the transaction's last before-image."""

    lvc: int
    epoch: int
    log_seq: int
    tx_id: str


class Policy(Struct, frozen=True):
    """When snapshots are due and how long things are kept, per space. Bounds: see `node.policy.check_policy`."""

    dirty_ratio: float = 0.15
    dirty_pages_min: int = 16
    lvc_delta: int = 10_000
    interval_s: float = 0
    ring: int = 16
    ttl_s: float | None = None
    undo_bytes: int = 67_108_864


class SpaceInfo(Struct, tag="space"):
    """One space as the HTTP contract shows it. Times are wall milliseconds, rendered by the API."""

    name: str
    uid: int
    page_size: int
    max_pages: int
    size: int
    pages: int
    lvc: int
    epoch: int
    state: str
    dirty_pages: int
    baseline_dirty_pages: int
    dirty_ratio: float
    baseline: int | None
    last_snapshot: int | None
    undo_from_lvc: int
    policy: Policy
    created_ms: int


class SpaceDone(Struct, tag="space_done"):
    created: bool
    info: SpaceInfo


class SnapshotInfo(Struct, tag="snapshot"):
    """One snapshot without its root, which is derived state: ask `StateMachine.root_of`."""

    id: int
    label: str | None
    space: str
    uid: int
    kind: str  # incremental | hybrid | full
    reason: str  # requested | interval | dirty_ratio | lvc_delta | chain | first | rollback | update
    base: int | None
    lvc: int
    epoch: int
    size: int
    pages: int
    dirty_pages: int
    bytes: int
    index: int
    created_ms: int
    expires_ms: int | None  # wall clock, for display
    pins: list[str]


class SnapshotsDone(Struct, tag="snapshots"):
    index: int
    snapshots: list[SnapshotInfo]


class RollbackDone(Struct, tag="rollback"):
    lvc: int
    epoch: int
    from_lvc: int
    to_lvc: int
    snapshot: int | None  # the target, None when an LVC was named
    left_snapshot: int
    pages_reverted: int
    verified: bool


class SessionDone(Struct, tag="session"):
    session: int
    window: int
    idle_ms: int


class Done(Struct, tag="done"):
    """Nothing more to say: deletes, ticks, staged parts."""


Result: TypeAlias = Refused | TxDone | SpaceDone | SnapshotInfo | SnapshotsDone | RollbackDone | SessionDone | Done


class Replayed(Struct):
    """The outcome that the log decided for this key or seat earlier."""

    result: Result


Outcome: TypeAlias = Result | Replayed
