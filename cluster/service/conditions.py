"""Request arguments turned into the operations that the log carries, conditions included. Pure: no state is looked at.

What can be refused without the log (a malformed condition, two ways to say one thing) is refused here, by name.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec
from blake3 import blake3
from lastgood.names import IDEMPOTENCY_KEY, is_label

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
    key = args.idempotency_key
    if args.session is None:
        if key is None:
            if args.seq is not None or args.ack is not None:
                raise BadArgument("seq and ack need a session")
            return None
        if not IDEMPOTENCY_KEY.match(key):
            raise BadArgument("Idempotency-Key takes 1 to 128 visible ASCII characters")
        return ops.Key(key, fingerprint(op, args))
    if key is not None:
        raise BadArgument("a request has an idempotency key or a seat in a session, not both")
    if args.seq is None:
        raise BadArgument(f"session {args.session} without a seq")
    ack = 1 if args.ack is None else args.ack
    if ack > args.seq:
        raise BadArgument(f"ack {ack} is above seq {args.seq}: it names the lowest seq not yet answered")
    return ops.Seat(args.session, args.seq, ack)


def fingerprint(op: str, args: api.Changing) -> bytes:
    """16 bytes over the operation and its arguments without the key itself: two requests agree or they conflict."""
    bare = msgspec.structs.replace(args, idempotency_key=None)
    return blake3(_encode((op, bare))).digest(16)


def live_etag(text: str | None) -> tuple[int, int, int] | None:
    """(uid, epoch, lvc) of an If-Match; None for no condition or `*` (the space must exist, which it must anyway)."""
    if text is None or text.strip() == etags.ANY:
        return None
    found = etags.parse_live(text)
    if found is None:
        if "," in text:
            raise BadArgument(f"If-Match: {text!r} names several ETags, a write takes one")
        raise BadArgument(f"If-Match: {text!r} is not the ETag of a live state", "precondition_failed")
    return found


def one_epoch(query: int | None, condition: int | None) -> int | None:
    """`?epoch=` and `if.epoch` say the same; given both, they must agree."""
    if query is not None and condition is not None and query != condition:
        raise BadArgument(f"epoch {query} and if.epoch {condition} differ")
    return condition if query is None else query


def tx_of_put(args: api.PutData) -> ops.Tx:
    """PUT …/data: one range, one transaction."""
    if not args.data:
        raise BadArgument("the body is empty; a write has 1 byte or more")
    return ops.Tx(
        space=args.space,
        writes=[(args.offset, memoryview(args.data))],
        ident=identity("putData", args) if args.session is not None or args.idempotency_key is not None else None,
        epoch=args.epoch,
        etag=None if args.if_match is None else live_etag(args.if_match),
    )


def tx_of_post(args: api.PostTx) -> ops.Tx:
    """POST …/tx: several ranges and a size, under conditions."""
    condition = args.if_ or api.If()
    if not args.writes and args.size is None:
        raise BadArgument("a transaction has at least one write or a size")
    for number, write in enumerate(args.writes):
        if not write.data:
            raise BadArgument(f"writes[{number}].data is empty; a write has 1 byte or more")
    return ops.Tx(
        space=args.space,
        writes=[(write.offset, memoryview(write.data)) for write in args.writes],
        ident=identity("postTx", args),
        epoch=one_epoch(args.epoch, condition.epoch),
        lvc=condition.lvc,
        etag=live_etag(args.if_match),
        pages=None if condition.pages is None else _page_numbers(condition.pages),
        size=args.size,
        tx_id=args.tx_id,
    )


def _page_numbers(pages: dict[str, int]) -> dict[int, int]:
    for text in pages:
        if not re.fullmatch(r"0|[1-9][0-9]{0,17}", text):
            raise BadArgument(f"if.pages: {text!r} is not a page number")
    return {int(text): version for text, version in pages.items()}


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
    check_label(args.label)
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
    check_label(args.label)
    if (args.spaces is None) == (args.prefix is None):
        raise BadArgument("name either spaces or a prefix")
    return ops.TakeSnapshots(
        spaces=args.spaces,
        prefix=args.prefix,
        ident=identity("createSnapshots", args),
        label=args.label,
        ttl_ms=None if args.ttl_s is None else int(args.ttl_s * 1000),
        pin="default" if args.pin else None,
    )


def check_label(label: str | None) -> None:
    if label is not None and not is_label(label):
        raise BadArgument(
            f"label {label!r}: 1 to 128 printable characters, no leading @, and not digits only (those are ids)"
        )


def rollback(args: api.PostRollback) -> ops.Rollback:
    condition = args.if_ or api.RollbackIf()
    if (args.to is None) == (args.lvc is None):
        raise BadArgument("name either `to` (a snapshot) or `lvc`")
    snapshot = None if args.to is None else snapshot_ref(args.to)
    return ops.Rollback(
        space=args.space,
        snapshot=snapshot,
        to_lvc=args.lvc,
        ident=identity("postRollback", args),
        epoch=one_epoch(args.epoch, condition.epoch),
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
