"""Problem documents (RFC 9457): the one form of every error, on HTTP and on the stream."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from lastgood.codes import CODES

from cluster.api.answer import Answer

MEDIA_TYPE: Final = "application/problem+json"
RETRY_AFTER_S: Final = 1


def problem(code: str, detail: str, **extra: object) -> Answer:
    """The refusal `code` (a key of CODES) with a `detail` that names the value and the limit.

    `extra` are further members. A `retry_after_s` among them also sets the `Retry-After` of 429 and 503.
    """
    row = CODES[code]
    body: dict[str, object] = {
        "type": f"urn:lastgood:{code}",
        "title": row.title,
        "status": row.status,
        "detail": detail,
        "code": code,
        "retryable": row.retryable,
    }
    if extra:
        body.update(extra)
    headers = None
    if row.status in (429, 503):
        headers = {"Retry-After": str(extra.get("retry_after_s", RETRY_AFTER_S))}
    return Answer(row.status, body, headers)


def is_problem(body: object) -> bool:
    """True for a body that `problem` made (a list of failing checks under 503 is none)."""
    return isinstance(body, Mapping) and "code" in body and "retryable" in body


class ProblemError(Exception):
    """Carries a refusal up to where it is rendered. For code of the API only; a service answers, it does not raise."""

    def __init__(self, code: str, detail: str, *, headers: dict[str, str] | None = None, **extra: Any) -> None:
        super().__init__(f"{code}: {detail}")
        self.answer = problem(code, detail, **extra)
        if headers:
            self.answer.headers = {**(self.answer.headers or {}), **headers}
