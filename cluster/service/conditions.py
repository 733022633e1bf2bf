"""Request arguments turned into the operations that the log carries, conditions included. Pure: no state is looked at.

The API has checked types, forms and rules between members; what is left to refuse here needs a look at two of them.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from blake3 import blake3
from lastgood.names import is_label

from cluster.api import args as api
from cluster.api import etags
from node import commands as ops

_encode = msgspec.msgpack.Encoder().encode


class BadArgument(Exception):
    """The request can't be meant: refused before the log, without effect. `code` is an error code."""

    def __init__(self, detail: str, code: str = "bad_request") -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


def identity(op: str, args: api.Changing) -> ops.Ident | None:
    """The request's name in the idempotency table: a key with its digest, a seat in a session, or None."""
    if args.session is not None:
        return ops.Seat(args.session, args.seq or 0, args.ack or 0)
    if args.idempotency_key is not None:
        return ops.Key(args.idempotency_key, fingerprint(op, args))
    return None


def fingerprint(op: str, args: api.Changing) -> bytes:
    """16 bytes over the operation and its arguments without the key itself: two requests agree or they conflict."""
    bare = msgspec.structs.replace(args, idempotency_key=None)
    return blake3(_encode((op, bare))).digest(16)


def live_etag(text: str | None) -> tuple[int, int, int] | None:
    """(uid, epoch, lvc) of an If-Match; None for no condition or `*` (the space must exist, which it must anyway)."""
    if text is None or text == etags.ANY:
        return None
    found = etags.parse_live(text)
    if found is None:
        raise BadArgument(f"If-Match: {text!r} is not the ETag of a live state", "precondition_failed")
    return found


def tx_of_put(args: api.PutData) -> ops.Tx:
    """PUT …/data: one range, one transaction."""
    return ops.Tx(
        space=args.space,
        writes=[(args.offset, memoryview(args.data))],
        ident=identity("putData", args),
        epoch=args.epoch,
        etag=live_etag(args.if_match),
    )


def tx_of_post(args: api.PostTx) -> ops.Tx:
    """POST …/tx: several ranges and a size, under conditions."""
    condition = args.if_ or api.If()
    return ops.Tx(
        space=args.space,
        writes=[(write.offset, memoryview(write.data)) for write in args.writes],
        ident=identity("postTx", args),
        epoch=args.epoch if condition.epoch is None else condition.epoch,
        lvc=condition.lvc,
        etag=live_etag(args.if_match),
        pages=None if condition.pages is None else {int(page): lvc for page, lvc in condition.pages.items()},
        size=args.size,
        tx_id=args.tx_id,
    )


def create_space(args: api.PutSpace) -> ops.CreateSpace:
    if args.page_size is not None and args.page_size & (args.page_size - 1):
        raise BadArgument(f"page_size {args.page_size} is not a power of two from 4096 to 65536")
    policy: dict[str, Any] | None = None
    if args.policy is not None:
        policy = {
            name: value for name, value in msgspec.structs.asdict(args.policy).items() if value is not msgspec.UNSET
        }
    return ops.CreateSpace(
        space=args.space,
        ident=identity("putSpace", args),
        page_size=args.page_size,
        max_pages=args.max_pages,
        policy=policy,
        from_space=None if args.from_ is None else args.from_.space,
        from_snapshot=None if args.from_ is None else snapshot_ref(args.from_.snapshot),
    )


def take_snapshot(args: api.CreateSnapshot) -> ops.TakeSnapshots:
    return ops.TakeSnapshots(
        spaces=[args.space],
        ident=identity("createSnapshot", args),
        label=args.label,
        kind=args.kind,
        ttl_ms=None if args.ttl_s is None else int(args.ttl_s * 1000),
        pin="default" if args.pin else None,
        epoch=args.epoch,
    )


def take_snapshots(args: api.CreateSnapshots) -> ops.TakeSnapshots:
    return ops.TakeSnapshots(
        spaces=args.spaces,
        prefix=args.prefix,
        ident=identity("createSnapshots", args),
        label=args.label,
        ttl_ms=None if args.ttl_s is None else int(args.ttl_s * 1000),
        pin="default" if args.pin else None,
    )


def rollback(args: api.PostRollback) -> ops.Rollback:
    condition = args.if_ or api.RollbackIf()
    snapshot = None if args.to is None else snapshot_ref(args.to)
    return ops.Rollback(
        space=args.space,
        snapshot=snapshot,
        to_lvc=args.lvc,
        ident=identity("postRollback", args),
        epoch=args.epoch if condition.epoch is None else condition.epoch,
        if_lvc=condition.lvc,
        reason=args.reason,
    )


def snapshot_ref(ref: int | str) -> str:
    """A snapshot's name: an id from 1, or `@label`. Raises BadArgument for anything else."""
    text = str(ref)
    if re.fullmatch(r"[1-9][0-9]{0,18}", text):
        return text
    if text.startswith("@") and is_label(text[1:]):
        return text
    raise BadArgument(f"{text!r} is neither a snapshot's id nor @label")
