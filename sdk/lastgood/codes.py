"""Error codes that every door of lastgood speaks: HTTP problems, stream answers, SDK exceptions.

One table, so that the server, the SDK, the OpenAPI document and `docs/errors.md` can't disagree.
"""

from __future__ import annotations

from typing import Final, NamedTuple


class ErrorCode(NamedTuple):
    """One documented error: `status` is the HTTP status; `retryable` means that the same request may succeed later."""

    code: str
    status: int
    title: str
    retryable: bool
    outcome_known: bool


def _row(code: str, status: int, title: str, retryable: bool = False, outcome_known: bool = True) -> ErrorCode:
    return ErrorCode(code, status, title, retryable, outcome_known)


_ROWS: Final = (
    _row("bad_request", 400, "The request is not valid"),
    _row("unauthorized", 401, "A valid token is needed"),
    _row("forbidden", 403, "This is not allowed"),
    _row("not_found", 404, "There is no such thing"),
    _row("method_not_allowed", 405, "This resource does not know that method"),
    _row("conflict", 409, "A condition does not hold"),
    _row("stale_epoch", 409, "The space has moved to another epoch"),
    _row("update_in_progress", 409, "An update of this space is open"),
    _row("idempotency_conflict", 409, "Another request was made under this key"),
    _row("pinned", 409, "The snapshot is pinned"),
    _row("gone", 410, "This is no longer kept"),
    _row("outside_window", 410, "The LVC is outside the undo window"),
    _row("precondition_failed", 412, "If-Match does not hold"),
    _row("too_large", 413, "The request is over a limit"),
    _row("unsupported_media_type", 415, "This media type is not understood"),
    _row("range_not_satisfiable", 416, "The range lies outside the bytes"),
    _row("rate_limited", 429, "Too much at once", True),
    _row("internal", 500, "Internal error", False, False),
    _row("no_leader", 503, "No leader is known", True),
    _row("installing", 503, "This node is installing a checkpoint", True),
    _row("unknown_outcome", 504, "The outcome is not known", True, False),
    _row("storage_full", 507, "There is no room", True),
)

CODES: Final[dict[str, ErrorCode]] = {row.code: row for row in _ROWS}
