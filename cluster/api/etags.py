"""Entity tags: `"<uid>-<epoch>-<lvc>"` of live bytes, `"<root>"` of a snapshot's; If-Match and If-None-Match."""

from __future__ import annotations

import re
from typing import Final

ANY: Final = "*"
_LIVE: Final = re.compile(r'"([0-9]{1,19})-([0-9]{1,19})-([0-9]{1,19})"')
_TAG: Final = re.compile(r'(W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_LIST: Final = re.compile(rf"[ \t]*(?:{_TAG.pattern})(?:[ \t]*,[ \t]*(?:{_TAG.pattern}))*[ \t]*")


def live_etag(uid: int, epoch: int, lvc: int) -> str:
    """The tag of a space's live bytes, with its quotes."""
    return f'"{uid}-{epoch}-{lvc}"'


def snapshot_etag(root: bytes) -> str:
    """The tag of a snapshot's bytes, with its quotes."""
    return f'"{root.hex()}"'


def is_tag_list(text: str) -> bool:
    """True for `*` or a list of entity tags as RFC 9110 writes them."""
    return text == ANY or _LIST.fullmatch(text) is not None


def parse_live(text: str) -> tuple[int, int, int] | None:
    """(uid, epoch, lvc) of one live tag; None for any other tag, which no live state can ever match."""
    match = _LIVE.fullmatch(text.strip())
    return (int(match[1]), int(match[2]), int(match[3])) if match else None


def if_match_holds(header: str, etag: str | None) -> bool:
    """Strong comparison (RFC 9110 13.1.1). `etag` None = nothing is there."""
    if etag is None:
        return False
    return header == ANY or any(weak == "" and tag == etag for weak, tag in _tags(header))


def if_none_match_holds(header: str, etag: str | None) -> bool:
    """Weak comparison (RFC 9110 13.1.2): False means 304 for a read."""
    if etag is None:
        return True
    return header != ANY and all(tag != etag for _, tag in _tags(header))


def _tags(header: str) -> list[tuple[str, str]]:
    return [(match[1] or "", match[0].removeprefix("W/")) for match in _TAG.finditer(header)]
