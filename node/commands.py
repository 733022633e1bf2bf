"""Commands: what one Raft entry carries. This file owns their bytes (docs/format.md, table "command").

A command is a header and a msgpack array of operations. The leader stamps the header: `stamp_ms` is replicated time
(monotonic, decides expiry), `wall_ms` is for display only. Operations are arrays with their tag first.
"""

from __future__ import annotations

from collections.abc import Sequence
from struct import Struct as Layout
from typing import Final, TypeAlias

import msgspec

COMMAND_VERSION: Final = 1
HEADER: Final = Layout(">BBHQQ")  # version, flags (0), operations, stamp_ms, wall_ms
COMMAND_BYTES_MAX: Final = 2 * 1024 * 1024 - 4096  # a quarter of the append batch, less room for the entry's own header
OPERATIONS_MAX: Final = 4096

Struct = msgspec.Struct


class Key(Struct, array_like=True, tag="k", frozen=True):
    """An `Idempotency-Key` with 16 bytes of digest over the request that it stands for."""

    key: str
    fingerprint: bytes


class Seat(Struct, array_like=True, tag="s", frozen=True):
    """A request's place in an SDK session: `seq` counts from 1; what is below `ack` is answered and forgotten."""

    session: int
    seq: int
    ack: int


Ident: TypeAlias = Key | Seat


class Tx(Struct, array_like=True, tag="tx"):
    """One atomic set of byte-range writes. Conditions are checked in this order: epoch, lvc, etag, pages, bounds.

    `pages` maps page number to expected version (0 = never written). `etag` is (uid, epoch, lvc) of an If-Match.
    With `stage`, the writes of `stage_parts` earlier `StagePart`s under that id come before `writes`.
    """

    space: str
    writes: list[tuple[int, memoryview]]
    ident: Ident | None = None
    epoch: int | None = None
    lvc: int | None = None
    etag: tuple[int, int, int] | None = None
    pages: dict[int, int] | None = None
    size: int | None = None
    tx_id: str | None = None
    stage: str | None = None
    stage_parts: int = 0


class StagePart(Struct, array_like=True, tag="sp"):
    """Part `part` (0, 1, 2 …) of a transaction that is too large for one command. Invisible until its `Tx`."""

    stage: str
    part: int
    writes: list[tuple[int, memoryview]]


class CreateSpace(Struct, array_like=True, tag="cs"):
    """Creates a space, or agrees with the one that exists. None = not given, so not compared and set to the default."""

    space: str
    ident: Ident | None = None
    page_size: int | None = None
    max_pages: int | None = None
    policy: dict[str, float | int | None] | None = None
    from_space: str | None = None
    from_snapshot: str | None = None


class DeleteSpace(Struct, array_like=True, tag="ds"):
    space: str
    ident: Ident | None = None
    epoch: int | None = None


class TakeSnapshots(Struct, array_like=True, tag="sn"):
    """One consistent cut over `spaces`, or over all whose name starts with `prefix`.

    `kind` is auto, incremental or full. `pin` names a holder. `reason` is `requested` when a user asked.
    """

    spaces: list[str] | None = None
    prefix: str | None = None
    ident: Ident | None = None
    label: str | None = None
    kind: str = "auto"
    ttl_ms: int | None = None
    pin: str | None = None
    epoch: int | None = None


class DeleteSnapshot(Struct, array_like=True, tag="sd"):
    """`snapshot` is a decimal id or `@label`, here and below."""

    space: str
    snapshot: str
    ident: Ident | None = None
    epoch: int | None = None


class PinSnapshot(Struct, array_like=True, tag="pi"):
    space: str
    snapshot: str
    holder: str = "default"
    pin: bool = True  # False = unpin
    ident: Ident | None = None
    epoch: int | None = None


class Rollback(Struct, array_like=True, tag="rb"):
    """To `snapshot` or to `to_lvc`, exactly one of them. `if_lvc` and `epoch` are the caller's conditions."""

    space: str
    snapshot: str | None = None
    to_lvc: int | None = None
    ident: Ident | None = None
    epoch: int | None = None
    if_lvc: int | None = None
    reason: str | None = None


class OpenSession(Struct, array_like=True, tag="os"):
    """Opens an SDK session; its id is drawn from a replicated counter."""

    ident: Ident | None = None


class Tick(Struct, array_like=True, tag="ti"):
    """Nothing but the header's stamp: what is due by then expires."""


class InitCluster(Struct, array_like=True, tag="in"):
    """The first command of a cluster: its id, the incarnation of each initial member, and the replicated limits.

    `limits` (see node/settings.py) decide in apply, so all nodes must share them: they come from the log, not from
    a file.
    """

    cluster_id: str
    incarnations: dict[str, str]
    limits: dict[str, int] | None = None


Operation: TypeAlias = (
    Tx
    | StagePart
    | CreateSpace
    | DeleteSpace
    | TakeSnapshots
    | DeleteSnapshot
    | PinSnapshot
    | Rollback
    | OpenSession
    | Tick
    | InitCluster
)


class Command(Struct, frozen=True):
    """A decoded command. `operations` in the order in which they apply."""

    stamp_ms: int
    wall_ms: int
    operations: list[Operation]


class BadCommand(Exception):
    """The bytes are no command of a version that this node knows. A node that meets one in its log halts."""


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Operation]).decode


def encode_operations(operations: Sequence[Operation]) -> bytes:
    """Msgpack of the operations, without the header; what the batcher measures."""
    return _encode(operations)


def encode_command(operations: Sequence[Operation], *, stamp_ms: int, wall_ms: int) -> bytes:
    """Bytes of one command. Raises ValueError past `OPERATIONS_MAX`; sizes in bytes are the batcher's business."""
    if len(operations) > OPERATIONS_MAX:
        raise ValueError(f"{len(operations)} operations, at most {OPERATIONS_MAX}")
    header = HEADER.pack(COMMAND_VERSION, 0, len(operations), stamp_ms, wall_ms)
    return header + _encode(operations)


def decode_command(raw: bytes | memoryview) -> Command:
    """Inverse of `encode_command`. Raises BadCommand; data of writes are views into `raw`."""
    try:
        version, flags, count, stamp_ms, wall_ms = HEADER.unpack_from(raw)
        if version != COMMAND_VERSION or flags != 0:
            raise BadCommand(f"command version {version} flags {flags}, known is version {COMMAND_VERSION} flags 0")
        operations = _decode(memoryview(raw)[HEADER.size :])
    except BadCommand:
        raise
    except Exception as error:
        raise BadCommand(f"not a command: {error}") from error
    if len(operations) != count:
        raise BadCommand(f"header says {count} operations, body holds {len(operations)}")
    return Command(stamp_ms, wall_ms, operations)
