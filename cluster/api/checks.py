"""Rules between arguments that types can't say, checked before anything is passed on, on HTTP and the stream alike."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from lastgood.names import is_label

from cluster.api import args
from cluster.api.answer import Answer
from cluster.api.etags import ANY, is_tag_list
from cluster.api.operations import DATA_BYTES_MAX, TX_BYTES_MAX, TX_RANGES_MAX
from cluster.api.problem import problem
from cluster.api.ranges import BadRange, parse_range
from cluster.api.times import parse_wait_ms

Check = Callable[[Any], Answer | None]

EVENT_TYPES: Final = frozenset(
    {
        "snapshot.created",
        "snapshot.expired",
        "rollback.confirmed",
        "update.opened",
        "update.confirmed",
        "update.aborted",
        "update.expired",
        "leader.changed",
        "member.added",
        "member.removed",
        "transfer.started",
        "transfer.resumed",
        "transfer.finished",
        "node.diverged",
        "page.repaired",
    }
)
_PAGE: Final = re.compile(r"(?:0|[1-9][0-9]{0,17})")
_NATURAL: Final = re.compile(r"(?:0|[1-9][0-9]{0,18})")


def _bad(detail: str) -> Answer:
    return problem("bad_request", detail)


def check_identity(asked: args.Changing) -> Answer | None:
    """A session, its seq and its ack come together, and not beside an idempotency key."""
    session, seq, ack = asked.session, asked.seq, asked.ack
    if session is None:
        if seq is None and ack is None:
            return None
        return _bad("seq or ack without session")
    if seq is None or ack is None:
        return _bad("session without seq and ack")
    if asked.idempotency_key is not None:
        return _bad("session and idempotency_key: at most one of them")
    if ack > seq:
        return _bad(f"ack is {ack}, above seq {seq}")
    return None


def check_put_data(asked: args.PutData) -> Answer | None:
    size = len(asked.data)
    if size == 0:
        return _bad("the body is empty, at least 1 byte is written")
    if size > DATA_BYTES_MAX:
        return problem("too_large", f"data has {size} bytes, at most {DATA_BYTES_MAX}")
    if asked.if_match is not None and (refused := _check_write_match(asked.if_match)) is not None:
        return refused
    return check_identity(asked)


def check_post_tx(asked: args.PostTx) -> Answer | None:
    if not asked.writes and asked.size is None:
        return _bad("neither writes nor size: at least one of them")
    if len(asked.writes) > TX_RANGES_MAX:
        return problem("too_large", f"{len(asked.writes)} ranges, at most {TX_RANGES_MAX} a transaction")
    total = 0
    for position, write in enumerate(asked.writes):
        if not write.data:
            return _bad(f"writes[{position}].data is empty, at least 1 byte is written")
        total += len(write.data)
    if total > TX_BYTES_MAX:
        return problem("too_large", f"the writes have {total} bytes, at most {TX_BYTES_MAX} a transaction")
    if asked.if_ is not None:
        if (refused := _check_one_epoch(asked.epoch, asked.if_.epoch)) is not None:
            return refused
        for page in asked.if_.pages or ():
            if _PAGE.fullmatch(page) is None:
                return _bad(f"if.pages names {page[:40]!r}, expected a page number")
    if asked.if_match is not None and (refused := _check_write_match(asked.if_match)) is not None:
        return refused
    return check_identity(asked)


def check_read(asked: args.GetData | args.GetSnapshotData) -> Answer | None:
    if asked.range is not None:
        try:
            parse_range(asked.range)
        except BadRange as error:
            return _bad(str(error))
        if asked.offset is not None or asked.length is not None:
            return _bad("Range beside offset or length: one way to say it")
    for name, tags in (("If-Match", asked.if_match), ("If-None-Match", asked.if_none_match)):
        if tags is not None and not is_tag_list(tags):
            return _bad(f"{name} is {tags[:80]!r}, expected * or entity tags in double quotes")
    return None


def check_create_snapshot(asked: args.CreateSnapshot) -> Answer | None:
    return _check_label(asked.label) or check_identity(asked)


def check_create_snapshots(asked: args.CreateSnapshots) -> Answer | None:
    if (asked.spaces is None) == (asked.prefix is None):
        return _bad("spaces or prefix: exactly one of them")
    if asked.spaces is not None and len(set(asked.spaces)) != len(asked.spaces):
        return _bad("spaces names one space twice")
    return _check_label(asked.label) or check_identity(asked)


def check_rollback(asked: args.PostRollback) -> Answer | None:
    if (asked.to is None) == (asked.lvc is None):
        return _bad("to or lvc: exactly one of them")
    if asked.if_ is not None and (refused := _check_one_epoch(asked.epoch, asked.if_.epoch)) is not None:
        return refused
    return check_identity(asked)


def check_events(asked: args.GetEvents) -> Answer | None:
    if asked.wait is not None:
        try:
            parse_wait_ms(asked.wait)
        except ValueError as error:
            return _bad(str(error))
    if asked.types is not None:
        for name in asked.types.split(","):
            if name not in EVENT_TYPES:
                return _bad(f"types names {name[:80]!r}, known are {', '.join(sorted(EVENT_TYPES))}")
    last = asked.last_event_id
    if last is not None and _NATURAL.fullmatch(last) is None:
        return _bad(f"Last-Event-ID is {last[:80]!r}, expected the seq of an event")
    return None


def check_events_on_stream(asked: args.GetEvents) -> Answer | None:
    if asked.sse:
        return _bad("sse is for HTTP: server-sent events have no place on the stream")
    return check_events(asked)


def _check_label(label: str | None) -> Answer | None:
    if label is None or is_label(label):
        return None
    return _bad(f"label is {label!r}: up to 128 printable characters, no leading @, not all digits")


def _check_one_epoch(epoch: int | None, if_epoch: int | None) -> Answer | None:
    if epoch is None or if_epoch is None or epoch == if_epoch:
        return None
    return _bad(f"epoch is {epoch} and if.epoch is {if_epoch}: one epoch a request")


def _check_write_match(header: str) -> Answer | None:
    """A write takes `*` or one tag, because the log decides on one (uid, epoch, lvc)."""
    if header == ANY:
        return None
    if not is_tag_list(header) or header.count('"') != 2:
        return _bad(f"If-Match is {header[:80]!r}, a write takes * or one entity tag in double quotes")
    return None


CHECKS: Final[dict[str, Check]] = {
    "putData": check_put_data,
    "postTx": check_post_tx,
    "getData": check_read,
    "getSnapshotData": check_read,
    "createSnapshot": check_create_snapshot,
    "createSnapshots": check_create_snapshots,
    "postRollback": check_rollback,
    "getEvents": check_events,
    "putSpace": check_identity,
    "deleteSpace": check_identity,
    "deleteSnapshot": check_identity,
    "pinSnapshot": check_identity,
    "unpinSnapshot": check_identity,
    "postSession": check_identity,
}
