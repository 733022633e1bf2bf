"""Answers as typed values. Field names are those of the HTTP contract; what a newer server adds is ignored.

Times are RFC 3339 strings in UTC, digests and roots hex strings. Fields without a value are None.
"""

from __future__ import annotations

from typing import Any

import msgspec

Struct = msgspec.Struct


class Written(Struct, frozen=True):
    """A committed transaction: the space's version right after it. `log_seq` is that of its last before-image."""

    lvc: int
    epoch: int
    log_seq: int | None = None
    tx_id: str | None = None


class PolicyState(Struct, frozen=True):
    """The policy in force; see `Policy` for the meanings."""

    dirty_ratio: float = 0.15
    dirty_pages_min: int = 16
    lvc_delta: int = 10_000
    interval_s: float = 0
    ring: int = 16
    ttl_s: float | None = None
    undo_bytes: int = 67_108_864


class SpaceInfo(Struct, frozen=True):
    """A space at one moment. `pages` hold something; `dirty_pages` changed since `last_snapshot`."""

    name: str
    uid: int
    page_size: int
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
    policy: PolicyState
    created: str
    max_pages: int | None = None


class Snapshot(Struct, frozen=True):
    """An immutable point of a space. `bytes` = `dirty_pages` (since `base`) × page size."""

    id: int
    label: str | None
    space: str
    uid: int
    kind: str
    reason: str
    base: int | None
    lvc: int
    epoch: int
    root: str | None
    size: int
    pages: int
    dirty_pages: int
    bytes: int
    index: int
    created: str
    expires: str | None
    pins: list[str]


class Cut(Struct, frozen=True):
    """Snapshots of many spaces at one log index."""

    index: int
    snapshots: list[Snapshot]


class Diff(Struct, frozen=True):
    """What differs between two states. `ranges` are (first page, count)."""

    pages_changed: int
    bytes_changed: int
    ranges: list[tuple[int, int]]


class RolledBack(Struct, frozen=True):
    """A rollback that happened. `left_snapshot` holds the state that was left; `took_ms` is local, None in a replay."""

    lvc: int
    epoch: int
    from_lvc: int
    to_lvc: int
    snapshot: int | None
    left_snapshot: int | None
    pages_reverted: int
    verified: bool
    took_ms: float | None = None


class DryRun(Struct, frozen=True):
    """What a rollback would change."""

    pages_changed: int
    ranges: list[tuple[int, int]]
    dry_run: bool = True


class WalRecord(Struct, frozen=True):
    """One before-image, or a rollback (`kind` = "rollback"), oldest first. `before` is what the write replaced."""

    log_seq: int
    lvc: int
    epoch: int
    kind: str | None = None
    tx_id: str | None = None
    index: int | None = None
    offset: int | None = None
    length: int | None = None
    before: bytes | None = None
    size_before: int | None = None
    before_crc: int | str | None = None
    after_crc: int | str | None = None
    at: str | None = None


class PageState(Struct, frozen=True):
    """`version` is the LVC of the last change, 0 = never; `digest` is None while not yet hashed."""

    page: int
    version: int
    digest: str | None
    dirty: bool


class NodeStatus(Struct, frozen=True):
    id: str
    http: str | None = None
    raft: str | None = None
    bulk: str | None = None
    role: str | None = None
    reachable: bool | None = None
    match_index: int | None = None
    lag_entries: int | None = None
    state: str | None = None


class ClusterStatus(Struct, frozen=True):
    """The cluster as its leader sees it, or as the asked node does when there is no leader."""

    cluster_id: str
    leader: str | None
    term: int
    commit_index: int
    applied_index: int
    nodes: list[NodeStatus]


class Transfer(Struct, frozen=True):
    """A running or lately finished transfer of the asked node."""

    id: str | int
    purpose: str
    peer: str | None
    direction: str
    state: str
    total_bytes: int | None
    done_bytes: int
    resent_bytes: int = 0
    resumes: int = 0
    codec: str | None = None
    rate_bytes_per_s: float | None = None
    limit_bytes_per_s: float | None = None
    started: str | None = None
    eta_s: float | None = None


class Read(Struct, frozen=True):
    """Bytes of one version. `size` is the space's (None if the door did not say); `data` ends where it does."""

    data: bytes
    offset: int = 0
    size: int | None = None
    lvc: int | None = None
    epoch: int | None = None
    index: int | None = None
    uid: int | None = None
    etag: str | None = None


class SessionOpened(Struct, frozen=True):
    """`window`: how far above `ack` a seat may be. `idle_s`: the session ends after so long without a change."""

    session: int
    window: int
    idle_s: float


class Event(Struct, frozen=True):
    """Something that happened. `seq` is None for a node's own events; `facts` are the members beyond the named ones."""

    type: str
    seq: int | None
    index: int | None
    space: str | None
    at: str | None
    facts: dict[str, Any]


class Imported(Struct, frozen=True):
    """A finished import: `snapshot` and `rollback_lvc` lead back to the state before it."""

    bytes: int
    lvc: int
    epoch: int
    snapshot: int
    rollback_lvc: int


class Exported(Struct, frozen=True):
    """A finished export: the state is that of `lvc`, whose root is `root`."""

    bytes: int
    lvc: int
    root: str | None


def event_of(members: dict[str, Any]) -> Event:
    """An event from its JSON object."""
    named = ("type", "seq", "index", "space", "at")
    facts = {name: value for name, value in members.items() if name not in named}
    return Event(
        type=str(members.get("type")),
        seq=members.get("seq"),
        index=members.get("index"),
        space=members.get("space"),
        at=members.get("at"),
        facts=facts,
    )
