"""What reads of a node's state answer. Local views of replicated state; the API renders them."""

from __future__ import annotations

from msgspec import Struct


class ReadResult(Struct):
    """Bytes of one version of a space. `size` is that of the space (or snapshot), not of `data`.

    A read whose offset lies beyond `size` is refused `range_not_satisfiable`; one that ends beyond it is cut.
    """

    data: bytes
    offset: int
    size: int
    uid: int
    epoch: int
    lvc: int
    snapshot: int | None = None


class PageRow(Struct):
    """One page of the live table; `digest` is None while it was not hashed since its last change."""

    page: int
    version: int
    digest: bytes | None
    dirty: bool


class DiffResult(Struct):
    """Pages whose bytes differ, how many bytes do, and the pages as [first_page, count]."""

    pages_changed: int
    bytes_changed: int
    ranges: list[tuple[int, int]]


class WalRow(Struct):
    """One record of the undo window. `kind`: `write` (a before-image), `size` (the size was set), `rollback`.

    For `size`: offset = the new size, length = 0, before = None. For `rollback`: from_lvc, to_lvc, snapshot and
    left_snapshot are set, offset and length are 0.
    """

    log_seq: int
    kind: str
    tx_id: str | None
    lvc: int
    epoch: int
    index: int
    offset: int
    length: int
    before: bytes | None
    size_before: int
    before_crc: int | None
    after_crc: int | None
    at_ms: int
    from_lvc: int | None = None
    to_lvc: int | None = None
    snapshot: int | None = None
    left_snapshot: int | None = None


class DryRun(Struct):
    """What a rollback would change."""

    pages_changed: int
    ranges: list[tuple[int, int]]
    dry_run: bool = True
