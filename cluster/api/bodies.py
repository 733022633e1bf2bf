"""Answer bodies of the API as the OpenAPI document shows them: JSON over HTTP, the same as msgpack on the stream.

Every member is always there; one without a value is null. The service builds them as maps, for speed;
`tests/cluster/test_contract.py` holds what a real node answers against these types.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from node.results import Policy

Struct = msgspec.Struct


class TxBody(Struct):
    """A committed transaction. `log_seq` is that of its last before-image."""

    lvc: int
    epoch: int
    log_seq: int
    tx_id: str


class SpaceBody(Struct):
    """One space. `pages` hold data, `dirty_pages` changed since `last_snapshot`."""

    name: str
    uid: int
    page_size: int
    max_pages: int
    size: int
    pages: int
    lvc: int
    epoch: int
    state: Literal["active", "updating", "rolling_back"]
    dirty_pages: int
    baseline_dirty_pages: int
    dirty_ratio: float
    baseline: int | None
    last_snapshot: int | None
    undo_from_lvc: int
    policy: Policy
    created: str


class SnapshotBody(Struct):
    """One snapshot. `dirty_pages` since `base`, `bytes` = those times the page size, `root` in hex."""

    id: int
    label: str | None
    space: str
    uid: int
    kind: Literal["incremental", "hybrid", "full"]
    reason: Literal["requested", "interval", "dirty_ratio", "lvc_delta", "chain", "first", "rollback", "update"]
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


class SnapshotsBody(Struct):
    """One consistent cut over many spaces; `index` is the log index of the cut."""

    index: int
    snapshots: list[SnapshotBody]


class PageBody(Struct):
    """One page. `version` is the LVC of its last change; `digest` in hex, null while not yet hashed."""

    page: int
    version: int
    digest: str | None
    dirty: bool


class DiffBody(Struct):
    """`ranges` are `[first_page, count]`."""

    pages_changed: int
    bytes_changed: int
    ranges: list[tuple[int, int]]


class RollbackBody(Struct):
    """A rollback. Snapshots as ids; `snapshot` is null when an LVC was named; `took_ms` is null in a replay."""

    lvc: int
    epoch: int
    from_lvc: int
    to_lvc: int
    snapshot: int | None
    left_snapshot: int
    pages_reverted: int
    verified: bool
    took_ms: float | None


class DryRunBody(Struct):
    """What a rollback would change."""

    dry_run: bool
    pages_changed: int
    ranges: list[tuple[int, int]]


class WalRecordBody(Struct):
    """One record of the undo window, one per range as written. `kind` is `write`, `size` or `rollback`.

    Only a rollback has the last four members; it has no bytes of its own.
    """

    kind: Literal["write", "size", "rollback"]
    log_seq: int
    tx_id: str | None
    lvc: int
    epoch: int
    index: int
    offset: int | None
    length: int | None
    before: bytes | None
    size_before: int
    before_crc: int | None
    after_crc: int | None
    at: str
    from_lvc: int | UnsetType = UNSET
    to_lvc: int | UnsetType = UNSET
    snapshot: int | UnsetType | None = UNSET
    left_snapshot: int | UnsetType = UNSET


class NodeBody(Struct):
    """One node as the answering node sees it; figures of a node that is not reached are null."""

    id: str
    http: str
    raft: str
    bulk: str
    role: Literal["leader", "follower", "candidate", "learner"] | None
    reachable: bool
    match_index: int | None
    lag_entries: int | None
    state: Literal["ready", "installing", "repairing", "down"]


class ClusterBody(Struct):
    cluster_id: str
    leader: str | None
    term: int
    commit_index: int
    applied_index: int
    nodes: list[NodeBody]


class CheckBody(Struct):
    """One check of `/livez` or `/readyz`."""

    name: str
    ok: bool
    detail: str | None = None


class SessionBody(Struct):
    """An SDK session: a `seq` more than `window` above `ack` is refused; it ends after `idle_s` unused."""

    session: int
    window: int
    idle_s: float


class TransferBody(Struct):
    id: str
    purpose: str
    peer: str | None
    direction: Literal["in", "out"]
    state: Literal["waiting", "running", "retrying", "done", "failed"]
    total_bytes: int | None
    done_bytes: int
    resent_bytes: int
    resumes: int
    codec: str
    rate_bytes_per_s: float
    limit_bytes_per_s: float | None
    started: str
    eta_s: float | None


class EventBody(Struct):
    """What every event carries; further members depend on `type`. A node's own events carry `node` and no `seq`."""

    index: int | None
    type: str
    space: str | None
    at: str
    seq: int | UnsetType = UNSET
    node: str | UnsetType = UNSET


class ProblemBody(Struct):
    """RFC 9457. Some codes carry further members, as `oldest_lvc` and `newest_lvc` of `outside_window`."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    retryable: bool
