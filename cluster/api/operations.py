"""The table of the API: every operation, where HTTP finds its arguments, what it answers and how it can fail.

Routing, validation, the OpenAPI document and the stream's operations are all made from it, so they can't disagree.
An argument that is named neither in the path nor in `query`, `headers` or HIDDEN is a member of the body.
"""

from __future__ import annotations

from typing import Any, Final, Literal, NamedTuple

from cluster.api import args, bodies

BodyKind = Literal["none", "json", "tx", "raw"]
Content = Literal["json", "bytes", "text", "events", "nothing", "websocket"]

JSON_BYTES_MAX: Final = 2 * 1024 * 1024
DATA_BYTES_MAX: Final = 1024 * 1024
TX_BYTES_MAX: Final = 64 * 1024 * 1024
TX_RANGES_MAX: Final = 1024
TX_ENVELOPE_BYTES: Final = 256 * 1024  # msgpack around 1,024 ranges and their conditions
STREAM_OPEN_MAX: Final = 1024
STREAM_MESSAGE_BYTES_MAX: Final = 4 * 1024 * 1024
HEADER_BYTES_MAX: Final = 8 * 1024

# Members of the argument structs that HTTP does not offer: a seat in an SDK session belongs to the stream.
HIDDEN: Final = frozenset({"session", "seq", "ack", "sse"})

ALWAYS: Final = ("bad_request", "forbidden", "too_large", "rate_limited", "internal")
READ: Final = ("no_leader", "installing", "unknown_outcome")
CHANGE: Final = (
    "unsupported_media_type",
    "idempotency_conflict",
    "no_leader",
    "installing",
    "unknown_outcome",
    "storage_full",
)
KEY: Final = {"idempotency_key": "Idempotency-Key"}
MATCH: Final = {"if_match": "If-Match"}
READ_HEADERS: Final = {"range": "Range", "if_match": "If-Match", "if_none_match": "If-None-Match"}


class Operation(NamedTuple):
    """One row. `success` maps status to the type of the body (None: no body, or not JSON)."""

    id: str
    method: str
    path: str
    args: type[args.Args]
    summary: str
    success: dict[int, Any]
    errors: tuple[str, ...] = ()
    query: tuple[str, ...] = ()
    headers: dict[str, str] = {}  # noqa: RUF012 - rows are constants
    body: BodyKind = "none"
    content: Content = "json"
    stream: bool = True  # offered on /v1/stream
    paged: bool = False  # answers may carry Link rel=next

    @property
    def changing(self) -> bool:
        """True for an operation that takes an Idempotency-Key."""
        return issubclass(self.args, args.Changing)

    @property
    def body_bytes_max(self) -> int:
        return {"none": 0, "json": JSON_BYTES_MAX, "tx": JSON_BYTES_MAX, "raw": DATA_BYTES_MAX}[self.body]


_SPACE = "/v1/spaces/{space}"
_SNAPSHOT = "/v1/spaces/{space}/snapshots/{snapshot}"

OPERATIONS: Final[tuple[Operation, ...]] = (
    Operation(
        "getLivez",
        "GET",
        "/livez",
        args.NoArgs,
        "Is this process alive",
        {200: list[bodies.CheckBody], 503: list[bodies.CheckBody]},
        stream=False,
    ),
    Operation(
        "getReadyz",
        "GET",
        "/readyz",
        args.NoArgs,
        "Can this node serve: it knows a leader, has caught up, does not install",
        {200: list[bodies.CheckBody], 503: list[bodies.CheckBody]},
        stream=False,
    ),
    Operation(
        "getMetrics",
        "GET",
        "/metrics",
        args.NoArgs,
        "Prometheus metrics of this node",
        {200: None},
        content="text",
        stream=False,
    ),
    Operation(
        "getOpenapi",
        "GET",
        "/openapi.json",
        args.NoArgs,
        "This document",
        {200: dict[str, Any]},
        stream=False,
    ),
    Operation(
        "getCluster",
        "GET",
        "/v1/cluster",
        args.NoArgs,
        "The cluster, from its leader when there is one, else this node's view",
        {200: bodies.ClusterBody},
    ),
    Operation(
        "putSpace",
        "PUT",
        _SPACE,
        args.PutSpace,
        "Creates a space, or agrees with the one that has the same settings",
        {201: bodies.SpaceBody, 200: bodies.SpaceBody},
        ("not_found", "conflict", "gone", *CHANGE),
        headers=KEY,
        body="json",
    ),
    Operation(
        "listSpaces",
        "GET",
        "/v1/spaces",
        args.ListSpaces,
        "Spaces in order of name",
        {200: list[bodies.SpaceBody]},
        READ,
        ("limit", "after", "prefix", "consistency"),
        paged=True,
    ),
    Operation(
        "getSpace",
        "GET",
        _SPACE,
        args.GetSpace,
        "One space",
        {200: bodies.SpaceBody},
        ("not_found", *READ),
        ("consistency",),
    ),
    Operation(
        "deleteSpace",
        "DELETE",
        _SPACE,
        args.DeleteSpace,
        "Deletes a space with its snapshots and undo log",
        {204: None},
        ("not_found", "stale_epoch", "pinned", "update_in_progress", "gone", *CHANGE),
        ("epoch",),
        KEY,
        content="nothing",
    ),
    Operation(
        "putData",
        "PUT",
        f"{_SPACE}/data",
        args.PutData,
        "Writes bytes at an offset, atomically",
        {200: bodies.TxBody},
        ("not_found", "stale_epoch", "precondition_failed", "gone", *CHANGE),
        ("offset", "epoch"),
        {**KEY, **MATCH},
        "raw",
    ),
    Operation(
        "postTx",
        "POST",
        f"{_SPACE}/tx",
        args.PostTx,
        "One atomic set of writes, in order, under conditions",
        {200: bodies.TxBody},
        ("not_found", "conflict", "stale_epoch", "precondition_failed", "gone", *CHANGE),
        ("epoch",),
        {**KEY, **MATCH},
        "tx",
    ),
    Operation(
        "getData",
        "GET",
        f"{_SPACE}/data",
        args.GetData,
        "Bytes of a space, now or right after an LVC",
        {200: None, 206: None, 304: None},
        ("not_found", "outside_window", "precondition_failed", "range_not_satisfiable", *READ),
        ("offset", "length", "at_lvc", "consistency"),
        READ_HEADERS,
        content="bytes",
    ),
    Operation(
        "getPages",
        "GET",
        f"{_SPACE}/pages",
        args.GetPages,
        "Pages that hold data, with version and digest",
        {200: list[bodies.PageBody]},
        ("not_found", *READ),
        ("from", "limit", "consistency"),
        paged=True,
    ),
    Operation(
        "getWal",
        "GET",
        f"{_SPACE}/wal",
        args.GetWal,
        "Before-images, oldest first, at most 8 MiB an answer",
        {200: list[bodies.WalRecordBody]},
        ("not_found", "gone", *READ),
        ("from_seq", "limit", "consistency"),
        paged=True,
    ),
    Operation(
        "createSnapshot",
        "POST",
        f"{_SPACE}/snapshots",
        args.CreateSnapshot,
        "Takes a snapshot; answers when its root is known",
        {201: bodies.SnapshotBody},
        ("not_found", "stale_epoch", "gone", *CHANGE),
        ("epoch",),
        KEY,
        "json",
    ),
    Operation(
        "listSnapshots",
        "GET",
        f"{_SPACE}/snapshots",
        args.ListSnapshots,
        "Snapshots, newest first",
        {200: list[bodies.SnapshotBody]},
        ("not_found", *READ),
        ("limit", "before", "consistency"),
        paged=True,
    ),
    Operation(
        "getSnapshot",
        "GET",
        _SNAPSHOT,
        args.GetSnapshot,
        "One snapshot, by id or @label",
        {200: bodies.SnapshotBody},
        ("not_found", *READ),
        ("consistency",),
    ),
    Operation(
        "deleteSnapshot",
        "DELETE",
        _SNAPSHOT,
        args.DeleteSnapshot,
        "Deletes a snapshot",
        {204: None},
        ("not_found", "stale_epoch", "pinned", "update_in_progress", "gone", *CHANGE),
        ("epoch",),
        KEY,
        content="nothing",
    ),
    Operation(
        "pinSnapshot",
        "POST",
        f"{_SNAPSHOT}/pin",
        args.PinSnapshot,
        "Adds a holder of the snapshot; idempotent",
        {200: bodies.SnapshotBody},
        ("not_found", "stale_epoch", "gone", *CHANGE),
        ("epoch",),
        KEY,
        "json",
    ),
    Operation(
        "unpinSnapshot",
        "POST",
        f"{_SNAPSHOT}/unpin",
        args.PinSnapshot,
        "Removes a holder of the snapshot; idempotent",
        {200: bodies.SnapshotBody},
        ("not_found", "stale_epoch", "gone", *CHANGE),
        ("epoch",),
        KEY,
        "json",
    ),
    Operation(
        "getSnapshotData",
        "GET",
        f"{_SNAPSHOT}/data",
        args.GetSnapshotData,
        "Bytes of a snapshot; they never change",
        {200: None, 206: None, 304: None},
        ("not_found", "precondition_failed", "range_not_satisfiable", *READ),
        ("offset", "length", "consistency"),
        READ_HEADERS,
        content="bytes",
    ),
    Operation(
        "diffSnapshots",
        "GET",
        f"{_SPACE}/snapshots/{{a}}/diff/{{b}}",
        args.DiffSnapshots,
        "Pages that differ; b may be live",
        {200: bodies.DiffBody},
        ("not_found", *READ),
        ("consistency",),
    ),
    Operation(
        "createSnapshots",
        "POST",
        "/v1/snapshots",
        args.CreateSnapshots,
        "Snapshots of many spaces in one consistent cut",
        {201: bodies.SnapshotsBody},
        ("not_found", "gone", *CHANGE),
        (),
        KEY,
        "json",
    ),
    Operation(
        "postRollback",
        "POST",
        f"{_SPACE}/rollback",
        args.PostRollback,
        "Brings a space back to a snapshot or to an LVC",
        {200: bodies.RollbackBody | bodies.DryRunBody},
        ("not_found", "conflict", "stale_epoch", "update_in_progress", "outside_window", "gone", *CHANGE),
        ("epoch",),
        KEY,
        "json",
    ),
    Operation(
        "postSession",
        "POST",
        "/v1/sessions",
        args.PostSession,
        "Opens an SDK session",
        {201: bodies.SessionBody},
        CHANGE,
        (),
        KEY,
        "json",
    ),
    Operation(
        "getEvents",
        "GET",
        "/v1/events",
        args.GetEvents,
        "Events: long poll, or server-sent events by Accept",
        {200: list[bodies.EventBody]},
        ("gone", *READ),
        ("index", "wait", "space", "types", "limit"),
        {"last_event_id": "Last-Event-ID"},
        content="events",
        paged=True,
    ),
    Operation(
        "listTransfers",
        "GET",
        "/v1/transfers",
        args.NoArgs,
        "Transfers of the asked node, newest first",
        {200: list[bodies.TransferBody]},
    ),
    Operation(
        "stream",
        "GET",
        "/v1/stream",
        args.NoArgs,
        "WebSocket of pipelined operations in msgpack",
        {101: None},
        content="websocket",
        stream=False,
    ),
)

BY_ID: Final[dict[str, Operation]] = {row.id: row for row in OPERATIONS}
