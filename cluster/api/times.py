"""Times and durations as the API writes and reads them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

WAIT_MS_MAX: Final = 600_000
_WAIT: Final = re.compile(r"([0-9]{1,9})(ms|s|m)")
_UNIT_MS: Final = {"ms": 1, "s": 1_000, "m": 60_000}


def rfc3339(wall_ms: int | None) -> str | None:
    """Wall milliseconds since 1970 as `2026-01-31T12:00:00.123Z`; None stays None."""
    if wall_ms is None:
        return None
    at = datetime.fromtimestamp(wall_ms // 1000, UTC)
    return f"{at:%Y-%m-%dT%H:%M:%S}.{wall_ms % 1000:03d}Z"


def parse_wait_ms(text: str) -> int:
    """Milliseconds of `500ms`, `1s` or `5m`. Raises ValueError for another form and for more than WAIT_MS_MAX."""
    match = _WAIT.fullmatch(text)
    if match is None:
        raise ValueError(f"wait is {text!r}, expected a whole number with a unit, as 500ms, 10s or 5m")
    wait_ms = int(match[1]) * _UNIT_MS[match[2]]
    if wait_ms > WAIT_MS_MAX:
        raise ValueError(f"wait is {text!r}, at most {WAIT_MS_MAX // 60_000}m")
    return wait_ms
