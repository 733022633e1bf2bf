"""Frozen images of a node's replicated state: the seam between the state machine and its checkpoint or install.

`freeze` is cheap: page tables by reference, tables that grow by the million as changes since the freeze before.
`restore` takes a whole state of the same types. What holds a `FrozenState` keeps its leaves, and they their slots.
Everything but the leaves is plain and can be encoded with msgpack.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from node.events import Event
from node.results import Policy, Result, SnapshotInfo
from node.settings import Limits
from node.table import Leaves
from node.undo_record import Context

Pieces = list[tuple[int, int]]  # (position in the undo log, bytes)


class SnapshotMeta(msgspec.Struct, array_like=True, frozen=True):
    """One snapshot without its leaves. `facts.pins` are the present holders; `root` is None while not computed."""

    facts: SnapshotInfo
    after: Context
    due_ms: int | None
    root: bytes | None


class SnapshotImage(msgspec.Struct, frozen=True, eq=False):
    meta: SnapshotMeta
    leaves: Leaves


class SpaceMeta(msgspec.Struct, array_like=True, frozen=True):
    """One space without leaves, snapshots and window."""

    name: str
    uid: int
    page_size: int
    max_pages: int
    policy: Policy
    created_ms: int
    epoch: int
    lvc: int
    size: int
    pages: int
    log_seq: int
    forked_from: tuple[str, str] | None
    interval_due_ms: int | None
    snapshot_seq: int
    snapshot_lvc: int
    context: Context


class WindowImage(msgspec.Struct, frozen=True, eq=False):
    """The undo window: records of LVCs `first_lvc` … `first_lvc + count - 1` live.

    `columns` hold the records from `rows_from_lvc` on (those before were in the freeze before), as the machine's
    arrays' bytes, in the order of `UndoWindow.columns()`. `held`: LVC of a record -> leaves that it keeps.
    """

    first_lvc: int
    count: int
    rows_from_lvc: int
    columns: tuple[bytes, ...]
    held: dict[int, Leaves]


class SpaceImage(msgspec.Struct, frozen=True, eq=False):
    meta: SpaceMeta
    leaves: Leaves
    snapshots: tuple[SnapshotImage, ...]
    window: WindowImage


class KeyImage(msgspec.Struct, array_like=True, frozen=True):
    """What was decided under one idempotency key."""

    fingerprint: bytes
    result: Result
    due_ms: int


class SessionImage(msgspec.Struct, array_like=True, frozen=True):
    """One SDK session."""

    ack: int
    used_ms: int
    results: dict[int, Result]


class StageImage(msgspec.Struct, array_like=True, frozen=True):
    """The staged parts under one id: part -> writes."""

    due_ms: int
    parts: dict[int, list[tuple[int, bytes]]]


class StateMeta(msgspec.Struct, array_like=True, frozen=True):
    """Counters and small things."""

    applied_index: int
    applied_term: int
    now_ms: int
    counter: int
    cluster_id: str | None
    incarnations: dict[str, str]
    limits: Limits
    session_seq: int
    event_seq: int
    events_dropped: dict[str, int]
    blob_no: int  # local: number of the next blob of undo records


@dataclass(frozen=True, slots=True)
class FrozenState:
    """The state at one index. With `whole`, nothing is left out and every `gone_*` is empty.

    Without: `spaces` are all living spaces, but windows, keys, sessions, stages and blobs are what changed since the
    freeze before; `changed_spaces` are the uids worth looking at (images of others are the same objects as before).
    """

    meta: StateMeta
    whole: bool
    spaces: dict[int, SpaceImage]
    changed_spaces: frozenset[int]
    snapshot_events: list[Event]
    other_events: list[Event]
    keys: dict[str, KeyImage]
    sessions: dict[int, SessionImage]
    stages: dict[str, StageImage]
    blobs: dict[int, Pieces]
    gone_keys: frozenset[str] = field(default=frozenset())
    gone_sessions: frozenset[int] = field(default=frozenset())
    gone_stages: frozenset[str] = field(default=frozenset())
    gone_blobs: frozenset[int] = field(default=frozenset())
