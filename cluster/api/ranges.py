"""Which bytes a read asks for: `Range` (one range, suffix included) or offset and length, against the size."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from cluster.api.answer import Answer
from cluster.api.problem import problem

_RANGE: Final = re.compile(r"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.IGNORECASE)
_UNIT: Final = re.compile(r"([!#$%&'*+.^_`|~0-9A-Za-z-]+)=(.*)", re.DOTALL)


class Span(NamedTuple):
    """Half-open bytes `start` to `stop`; `status` is 206 when a Range was honoured, else 200."""

    start: int
    stop: int
    status: int


class BadRange(ValueError):
    """A `Range` that is no range. The text says what was expected."""


class RangeAsked(NamedTuple):
    """A parsed `Range`: `first` None = the last `last` bytes; `last` None = to the end; `last` is inclusive."""

    first: int | None
    last: int | None


def parse_range(header: str) -> RangeAsked | None:
    """The one range asked for; None for a unit other than bytes, which is ignored as RFC 9110 14.2 says.

    Raises BadRange for what is no range, and for more than one.
    """
    unit = _UNIT.fullmatch(header)
    if unit is None:
        raise BadRange(f"Range is {header[:80]!r}, expected bytes=first-last, bytes=first- or bytes=-count")
    if unit[1].lower() != "bytes":
        return None
    if "," in unit[2]:
        raise BadRange("Range asks for several ranges, at most one a request")
    match = _RANGE.fullmatch(header)
    if match is None or not (match[1] or match[2]):
        raise BadRange(f"Range is {header[:80]!r}, expected bytes=first-last, bytes=first- or bytes=-count")
    first = int(match[1]) if match[1] else None
    last = int(match[2]) if match[2] else None
    if first is not None and last is not None and last < first:
        raise BadRange(f"Range is {header[:80]!r}: it ends before it starts")
    return RangeAsked(first, last)


def unsatisfiable(detail: str, size: int) -> Answer:
    """416 with the `Content-Range` that tells the size."""
    answer = problem("range_not_satisfiable", detail, size=size)
    answer.headers = {"Content-Range": f"bytes */{size}"}
    return answer


def select(size: int, *, range_header: str | None, offset: int | None, length: int | None) -> Span | Answer:
    """The span of a read of `size` bytes, or the 416. Raises BadRange for a bad form."""
    asked = parse_range(range_header) if range_header is not None else None
    if asked is not None and size > 0:  # no content: a Range is ignored (RFC 9110 14.2), 200 without bytes
        return _of_range(size, asked)
    start = offset or 0
    if start > size:
        return unsatisfiable(f"offset is {start}, the size is {size}", size)
    stop = size if length is None else min(size, start + length)
    return Span(start, stop, 200)


def _of_range(size: int, asked: RangeAsked) -> Span | Answer:
    if asked.first is None:
        count = asked.last or 0
        if count == 0:
            return unsatisfiable("Range asks for the last 0 bytes", size)
        return Span(max(0, size - count), size, 206)
    if asked.first >= size:
        return unsatisfiable(f"Range starts at {asked.first}, the size is {size}", size)
    stop = size if asked.last is None else min(size, asked.last + 1)
    return Span(asked.first, stop, 206)
