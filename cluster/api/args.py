"""Arguments of every operation of the API: one struct each, the same for HTTP, the stream and the OpenAPI document.

Path, query, header and body members of a request are merged into one struct; `cluster/api/operations.py` says where
HTTP finds each. Types and simple bounds are checked here (msgspec, strict); what depends on state is decided in apply.
Binary members are bytes: base64 in JSON, bin in msgpack.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**63 - 1)]
# The end of the text in Python and in JSON Schema alike: `$` lets a trailing newline through, `\Z` is unknown to ECMA.
END = r"(?![\s\S])"
NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}"
REFERENCE = r"[1-9][0-9]{0,17}|@[\s\S]{1,128}"
SpaceName = Annotated[str, Meta(pattern=f"^{NAME}{END}")]
Holder = Annotated[str, Meta(pattern=f"^{NAME}{END}")]
SnapshotRef = Annotated[str, Meta(pattern=f"^(?:{REFERENCE}){END}")]
SnapshotOrLive = Annotated[str, Meta(pattern=f"^(?:live|{REFERENCE}){END}")]
IdempotencyKey = Annotated[str, Meta(pattern=r"^[\x21-\x7e]{1,128}" + END)]
PageSize = Literal[4096, 8192, 16384, 32768, 65536]
Label = Annotated[str, Meta(min_length=1, max_length=128)]
Limit = Annotated[int, Meta(ge=1, le=1000)]
Consistency = Literal["linearizable", "stale"]


class Args(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """Base of all: nothing unknown is accepted."""


class Changing(Args, kw_only=True):
    """Every changing request: an idempotency key, or a seat in an SDK session (stream only), or neither."""

    idempotency_key: IdempotencyKey | None = None
    session: Positive | None = None
    seq: Positive | None = None
    ack: Positive | None = None


class NoArgs(Args, kw_only=True):
    pass


# ---------------------------------------------------------------- cluster and spaces


class ForkFrom(Args, kw_only=True):
    space: SpaceName
    snapshot: Positive | SnapshotRef


class PolicyArgs(Args, kw_only=True):
    """Members left out keep their defaults at creation and are not compared later."""

    dirty_ratio: Annotated[float, Meta(gt=0, le=1)] | msgspec.UnsetType = msgspec.UNSET
    dirty_pages_min: Natural | msgspec.UnsetType = msgspec.UNSET
    lvc_delta: Positive | msgspec.UnsetType = msgspec.UNSET
    interval_s: Annotated[float, Meta(ge=0, le=1e9)] | msgspec.UnsetType = msgspec.UNSET
    ring: Annotated[int, Meta(ge=1, le=65536)] | msgspec.UnsetType = msgspec.UNSET
    ttl_s: Annotated[float, Meta(ge=1, le=1000000000.0)] | msgspec.UnsetType | None = msgspec.UNSET
    undo_bytes: Natural | msgspec.UnsetType = msgspec.UNSET


class PutSpace(Changing, kw_only=True):
    space: SpaceName
    page_size: PageSize | None = None
    max_pages: Positive | None = None
    policy: PolicyArgs | None = None
    from_: ForkFrom | None = msgspec.field(name="from", default=None)


class ListSpaces(Args, kw_only=True):
    limit: Limit = 100
    after: str | None = None
    prefix: str | None = None
    consistency: Consistency = "linearizable"


class GetSpace(Args, kw_only=True):
    space: SpaceName
    consistency: Consistency = "linearizable"


class DeleteSpace(Changing, kw_only=True):
    space: SpaceName
    epoch: Natural | None = None


# ---------------------------------------------------------------- bytes


class PutData(Changing, kw_only=True):
    """`data` is the HTTP body. `if_match` is an ETag `"<uid>-<epoch>-<lvc>"` (or `*`)."""

    space: SpaceName
    offset: Natural
    data: bytes
    epoch: Natural | None = None
    if_match: str | None = None


class Write(Args, kw_only=True):
    offset: Natural
    data: bytes


class If(Args, kw_only=True):
    lvc: Natural | None = None
    epoch: Natural | None = None
    pages: dict[str, Natural] | None = None


class PostTx(Changing, kw_only=True):
    space: SpaceName
    writes: list[Write] = msgspec.field(default_factory=list)
    size: Natural | None = None
    if_: If | None = msgspec.field(name="if", default=None)
    epoch: Natural | None = None
    if_match: str | None = None
    tx_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


class GetData(Args, kw_only=True):
    """`range` is the HTTP header as it came; offset and length are the other way to say it."""

    space: SpaceName
    offset: Natural | None = None
    length: Natural | None = None
    at_lvc: Natural | None = None
    range: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    consistency: Consistency = "linearizable"


class GetPages(Args, kw_only=True):
    space: SpaceName
    from_: Natural = msgspec.field(name="from", default=0)
    limit: Limit = 100
    consistency: Consistency = "linearizable"


class GetWal(Args, kw_only=True):
    space: SpaceName
    from_seq: Natural = 0
    limit: Limit = 100
    consistency: Consistency = "linearizable"


# ---------------------------------------------------------------- snapshots and rollback


class CreateSnapshot(Changing, kw_only=True):
    space: SpaceName
    label: Label | None = None
    kind: Literal["auto", "incremental", "full"] = "auto"
    ttl_s: Annotated[float, Meta(ge=1, le=1e9)] | None = None
    pin: bool = False
    epoch: Natural | None = None


class CreateSnapshots(Changing, kw_only=True):
    spaces: Annotated[list[SpaceName], Meta(min_length=1, max_length=10_000)] | None = None
    prefix: str | None = None
    label: Label | None = None
    ttl_s: Annotated[float, Meta(ge=1, le=1e9)] | None = None
    pin: bool = False


class ListSnapshots(Args, kw_only=True):
    """Newest first; `before` is the id that the page before ended with."""

    space: SpaceName
    limit: Limit = 100
    before: Positive | None = None
    consistency: Consistency = "linearizable"


class GetSnapshot(Args, kw_only=True):
    space: SpaceName
    snapshot: SnapshotRef
    consistency: Consistency = "linearizable"


class DeleteSnapshot(Changing, kw_only=True):
    space: SpaceName
    snapshot: SnapshotRef
    epoch: Natural | None = None


class PinSnapshot(Changing, kw_only=True):
    space: SpaceName
    snapshot: SnapshotRef
    holder: Holder = "default"
    epoch: Natural | None = None


class GetSnapshotData(Args, kw_only=True):
    space: SpaceName
    snapshot: SnapshotRef
    offset: Natural | None = None
    length: Natural | None = None
    range: str | None = None
    if_match: str | None = None
    if_none_match: str | None = None
    consistency: Consistency = "linearizable"


class DiffSnapshots(Args, kw_only=True):
    """`b` may be `live`."""

    space: SpaceName
    a: SnapshotRef
    b: SnapshotOrLive
    consistency: Consistency = "linearizable"


class RollbackIf(Args, kw_only=True):
    lvc: Natural | None = None
    epoch: Natural | None = None


class PostRollback(Changing, kw_only=True):
    space: SpaceName
    to: Positive | SnapshotRef | None = None
    lvc: Natural | None = None
    if_: RollbackIf | None = msgspec.field(name="if", default=None)
    epoch: Natural | None = None
    reason: Annotated[str, Meta(max_length=1024)] | None = None
    dry_run: bool = False


# ---------------------------------------------------------------- sessions, events, transfers


class PostSession(Changing, kw_only=True):
    """Opens an SDK session: `{session, window, idle_s}`. A seq more than `window` above `ack` is refused."""


class GetEvents(Args, kw_only=True):
    """`last_event_id` is the header of that name. `types` is comma-separated."""

    index: Natural | None = None
    wait: str | None = None
    space: SpaceName | None = None
    types: str | None = None
    limit: Limit = 100
    last_event_id: str | None = None
    sse: bool = False
