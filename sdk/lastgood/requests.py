"""Arguments of the stream's operations, as they travel: one struct each, defaults left out.

The server's counterpart is the table of argument structs behind the OpenAPI document; names are the contract's.
`session`, `seq` and `ack` are filled in when a call is first sent (see `calls.py`).
"""

from __future__ import annotations

import msgspec

Struct = msgspec.Struct


class Request(Struct, omit_defaults=True, kw_only=True):
    """Base of all arguments."""


class Seated(Request, kw_only=True):
    """A change: `seq` is its seat in `session`; everything below `ack` has been answered."""

    session: int | None = None
    seq: int | None = None
    ack: int | None = None


class Nothing(Request, kw_only=True):
    pass


class OpenSession(Request, kw_only=True):
    idempotency_key: str


class Policy(Request, kw_only=True):
    """When snapshots are due and how long things are kept. What is left at None keeps the server's default.

    `dirty_ratio` over 0 up to 1; `interval_s` 0 = off; `ring` snapshots of each sort; `undo_bytes` of before-images.
    """

    dirty_ratio: float | None = None
    dirty_pages_min: int | None = None
    lvc_delta: int | None = None
    interval_s: float | None = None
    ring: int | None = None
    ttl_s: float | None = None
    undo_bytes: int | None = None


class Fork(Request, kw_only=True):
    space: str
    snapshot: str


class PutSpace(Seated, kw_only=True):
    space: str
    page_size: int | None = None
    max_pages: int | None = None
    policy: Policy | None = None
    from_: Fork | None = msgspec.field(name="from", default=None)


class ListSpaces(Request, kw_only=True):
    limit: int | None = None
    after: str | None = None
    prefix: str | None = None
    consistency: str | None = None


class GetSpace(Request, kw_only=True):
    space: str
    consistency: str | None = None


class DeleteSpace(Seated, kw_only=True):
    space: str
    epoch: int | None = None


class PutData(Seated, kw_only=True):
    space: str
    offset: int
    data: bytes
    epoch: int | None = None


class Write(Struct):
    """One range of a transaction."""

    offset: int
    data: bytes


class If(Request, kw_only=True):
    lvc: int | None = None
    epoch: int | None = None
    pages: dict[str, int] | None = None


class PostTx(Seated, kw_only=True):
    space: str
    writes: list[Write]
    size: int | None = None
    if_: If | None = msgspec.field(name="if", default=None)
    epoch: int | None = None
    tx_id: str | None = None


class GetData(Request, kw_only=True):
    space: str
    offset: int
    length: int
    at_lvc: int | None = None
    consistency: str | None = None


class GetSnapshotData(Request, kw_only=True):
    space: str
    snapshot: str
    offset: int
    length: int
    consistency: str | None = None


class GetPages(Request, kw_only=True):
    space: str
    from_: int = msgspec.field(name="from", default=0)
    limit: int | None = None
    consistency: str | None = None


class GetWal(Request, kw_only=True):
    space: str
    from_seq: int = 0
    limit: int | None = None
    consistency: str | None = None


class CreateSnapshot(Seated, kw_only=True):
    space: str
    label: str | None = None
    kind: str = "auto"
    ttl_s: float | None = None
    pin: bool = False
    epoch: int | None = None


class CreateSnapshots(Seated, kw_only=True):
    spaces: list[str] | None = None
    prefix: str | None = None
    label: str | None = None
    ttl_s: float | None = None
    pin: bool = False


class ListSnapshots(Request, kw_only=True):
    space: str
    limit: int | None = None
    before: int | None = None
    consistency: str | None = None


class GetSnapshot(Request, kw_only=True):
    space: str
    snapshot: str
    consistency: str | None = None


class DeleteSnapshot(Seated, kw_only=True):
    space: str
    snapshot: str
    epoch: int | None = None


class PinSnapshot(Seated, kw_only=True):
    space: str
    snapshot: str
    holder: str = "default"
    epoch: int | None = None


class DiffSnapshots(Request, kw_only=True):
    space: str
    a: str
    b: str
    consistency: str | None = None


class RollbackIf(Request, kw_only=True):
    lvc: int | None = None
    epoch: int | None = None


class PostRollback(Seated, kw_only=True):
    space: str
    to: int | str | None = None
    lvc: int | None = None
    if_: RollbackIf | None = msgspec.field(name="if", default=None)
    epoch: int | None = None
    reason: str | None = None
    dry_run: bool = False
