"""What can go wrong, as types. Three outcomes: an answer, a refusal (nothing happened), or unknown.

`Refused` and its subclasses mirror `codes.py` one to one. `Unavailable` says that the request never reached a node.
`UnknownOutcome` is the only one that leaves open whether the change happened.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final

from lastgood.codes import CODES

_PROBLEM_MEMBERS: Final = frozenset({"type", "title", "status", "detail", "code", "retryable"})


class LastgoodError(Exception):
    """Base of everything that this library raises on purpose."""


class Unavailable(LastgoodError):
    """No node could be reached in time; nothing was sent, so nothing happened."""


class UnknownOutcome(LastgoodError):
    """A change was sent and its fate is not known: it may have happened, or may still happen.

    `code` is `unknown_outcome`, `internal`, or None when the connection broke and nobody answered before the deadline.
    """

    def __init__(self, detail: str, *, code: str | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.code = code


class ProtocolError(LastgoodError):
    """A node answered something that this version of the library can't read."""


class Refused(LastgoodError):
    """A node decided not to do it; nothing happened.

    `extra` holds the problem document's further members, e.g. `oldest_lvc`.
    """

    default_code: ClassVar[str] = ""

    def __init__(
        self, detail: str, *, code: str | None = None, status: int | None = None, extra: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(detail)
        self.code = code or self.default_code
        row = CODES.get(self.code)
        self.status = status if status is not None else (row.status if row else 0)
        self.retryable = row.retryable if row else False
        self.detail = detail
        self.extra: dict[str, Any] = dict(extra or {})

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"


class BadRequest(Refused):
    default_code = "bad_request"


class Unauthorized(Refused):
    default_code = "unauthorized"


class Forbidden(Refused):
    default_code = "forbidden"


class NotFound(Refused):
    default_code = "not_found"


class MethodNotAllowed(Refused):
    default_code = "method_not_allowed"


class Conflict(Refused):
    """A condition in `if` does not hold, or a thing exists with other settings."""

    default_code = "conflict"


class StaleEpoch(Refused):
    """The space was rolled back (or made anew) since the handle was opened: look again, then `resync()` on purpose."""

    default_code = "stale_epoch"


class UpdateInProgress(Refused):
    default_code = "update_in_progress"


class IdempotencyConflict(Refused):
    default_code = "idempotency_conflict"


class Pinned(Refused):
    default_code = "pinned"


class Gone(Refused):
    """An event to resume after is no longer kept, or a session has ended."""

    default_code = "gone"


class OutsideWindow(Refused):
    """`oldest_lvc` and `newest_lvc` say what the undo window still reaches (None if the node did not say)."""

    default_code = "outside_window"

    @property
    def oldest_lvc(self) -> int | None:
        return self.extra.get("oldest_lvc")

    @property
    def newest_lvc(self) -> int | None:
        return self.extra.get("newest_lvc")


class PreconditionFailed(Refused):
    default_code = "precondition_failed"


class TooLarge(Refused):
    default_code = "too_large"


class UnsupportedMediaType(Refused):
    default_code = "unsupported_media_type"


class RangeNotSatisfiable(Refused):
    default_code = "range_not_satisfiable"


class RateLimited(Refused):
    """Too much at once, here or at the server; the same call may succeed later."""

    default_code = "rate_limited"


class InternalError(Refused):
    """A read met an internal error. (A change that meets one raises `UnknownOutcome`.)"""

    default_code = "internal"


class NoLeader(Refused):
    default_code = "no_leader"


class Installing(Refused):
    default_code = "installing"


class StorageFull(Refused):
    default_code = "storage_full"


class ImportFailed(LastgoodError):
    """An import stopped half way. `rollback_lvc` is the state before it; `outcome_known` is False when a write is open.

    The cause is in `__cause__`.
    """

    def __init__(self, detail: str, *, rollback_lvc: int, snapshot: int, outcome_known: bool) -> None:
        super().__init__(detail)
        self.rollback_lvc = rollback_lvc
        self.snapshot = snapshot
        self.outcome_known = outcome_known


BY_CODE: Final[dict[str, type[Refused]]] = {
    kind.default_code: kind
    for kind in (
        BadRequest,
        Unauthorized,
        Forbidden,
        NotFound,
        MethodNotAllowed,
        Conflict,
        StaleEpoch,
        UpdateInProgress,
        IdempotencyConflict,
        Pinned,
        Gone,
        OutsideWindow,
        PreconditionFailed,
        TooLarge,
        UnsupportedMediaType,
        RangeNotSatisfiable,
        RateLimited,
        InternalError,
        NoLeader,
        Installing,
        StorageFull,
    )
}


def from_problem(status: int, problem: object, *, changing: bool) -> LastgoodError:
    """The exception for an answer with `status` >= 400 and its problem document (any object will do).

    `changing`: an open outcome of a change is `UnknownOutcome`; a read has no outcome, so it is refused.
    """
    members: dict[str, Any] = problem if isinstance(problem, dict) else {}
    code = members.get("code")
    if not isinstance(code, str):
        code = "internal" if status >= 500 else "bad_request"
    detail = str(members.get("detail") or members.get("title") or f"status {status} without a problem document")
    row = CODES.get(code)
    open_outcome = (row is not None and not row.outcome_known) or (row is None and status >= 500)
    if changing and open_outcome:
        return UnknownOutcome(detail, code=code)
    kind = BY_CODE.get(code, Refused)
    extra = {str(name): value for name, value in members.items() if name not in _PROBLEM_MEMBERS}
    return kind(detail, code=code, status=status, extra=extra)
