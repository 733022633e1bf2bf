"""Makes `docs/errors.md` from the table of codes: `python -m cluster.api.errorsdoc > docs/errors.md`."""

from __future__ import annotations

import sys
from typing import Final

from lastgood.codes import CODES

from cluster.api.operations import ALWAYS, OPERATIONS

ADVICE: Final[dict[str, str]] = {
    "bad_request": "Correct the request; `detail` names the member and what was expected.",
    "unauthorized": "Send a valid token as `Authorization: Bearer`.",
    "forbidden": "Use an allowed `Host` and `Origin` (see `allowed_hosts`), or a token with the role that is needed.",
    "not_found": "Check the name; a snapshot may have expired or left its ring.",
    "method_not_allowed": "Use one of the methods in `Allow`.",
    "conflict": "Read the present state and decide anew: a condition in `if` failed, or the thing exists otherwise.",
    "stale_epoch": "The space was rolled back since. Read it, resynchronise on purpose, then write with the new epoch.",
    "update_in_progress": "Confirm or abort the open update first.",
    "idempotency_conflict": "Use a fresh key: this one stands for another request.",
    "pinned": "Unpin the snapshot by every holder in `pins` first.",
    "gone": "Start again from the present: what was asked for is no longer kept, or the session has ended.",
    "outside_window": "Choose an LVC from `oldest_lvc` to `newest_lvc`, or a snapshot.",
    "precondition_failed": "Read again for the present `ETag`.",
    "too_large": "Send or ask for less at once; `detail` names the limit.",
    "unsupported_media_type": "Send `application/json`, uncompressed; a transaction may be `application/msgpack`.",
    "range_not_satisfiable": "Ask within the size, which `Content-Range` tells.",
    "rate_limited": "Wait as `Retry-After` says, then send again with fewer requests open.",
    "internal": "Look into the node's log; read the state before you repeat a change.",
    "no_leader": "Wait as `Retry-After` says, or ask another node.",
    "installing": "Wait as `Retry-After` says, or ask another node.",
    "unknown_outcome": "Repeat with the same `Idempotency-Key` or session seat: it is applied once at most.",
    "storage_full": "Make room: delete spaces or snapshots, unpin, or enlarge the disk.",
}

HEAD: Final = """# Errors

Made from `sdk/lastgood/codes.py` by `python -m cluster.api.errorsdoc`; do not edit.

Every status from 400 on is `application/problem+json` (RFC 9457) with the members `type` (`urn:lastgood:<code>`),
`title`, `status`, `detail`, `code` and `retryable`. The stream sends the same object. *Retry* means that the same
request may succeed later. *Outcome* is known when nothing happened; when it is open, the request may have been applied.

| code | status | meaning | retry | outcome | what to do |
| --- | --- | --- | --- | --- | --- |
"""


def render() -> str:
    """The whole page."""
    rows = [
        f"| `{row.code}` | {row.status} | {row.title} | {'yes' if row.retryable else 'no'} "
        f"| {'nothing happened' if row.outcome_known else 'open'} | {ADVICE[row.code]} |\n"
        for row in CODES.values()
    ]
    always = ", ".join(f"`{code}`" for code in ALWAYS)
    tail = [
        f"\n## By operation\n\nAny operation may also answer {always}.\n\n",
        "| operation | request | codes |\n| --- | --- | --- |\n",
    ]
    for operation in OPERATIONS:
        codes = ", ".join(f"`{code}`" for code in operation.errors) or "none further"
        tail.append(f"| `{operation.id}` | `{operation.method} {operation.path}` | {codes} |\n")
    return HEAD + "".join(rows) + "".join(tail)


if __name__ == "__main__":
    sys.stdout.write(render())
