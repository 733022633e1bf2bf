"""What a read of bytes answers before any byte is read: preconditions first, then the span (RFC 9110 13.2.2)."""

from __future__ import annotations

from cluster.api.answer import About, Answer
from cluster.api.args import GetData, GetSnapshotData
from cluster.api.etags import if_match_holds, if_none_match_holds
from cluster.api.problem import problem
from cluster.api.ranges import Span, select


def plan_read(args: GetData | GetSnapshotData, *, size: int, etag: str, about: About | None = None) -> Span | Answer:
    """The span to read of `size` bytes that carry `etag`, or the final answer: 304, 412 or 416."""
    if args.if_match is not None and not if_match_holds(args.if_match, etag):
        answer = problem("precondition_failed", f"If-Match is {args.if_match[:200]}, the entity tag is {etag}")
        answer.about = about
        return answer
    if args.if_none_match is not None and not if_none_match_holds(args.if_none_match, etag):
        return Answer(304, None, {"ETag": etag}, about)
    span = select(size, range_header=args.range, offset=args.offset, length=args.length)
    if isinstance(span, Answer):
        span.about = about
    return span
