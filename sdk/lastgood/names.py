"""Names that a user chooses, and what they may look like (HTTP conventions of `interfaces`, checked at every door)."""

from __future__ import annotations

import re
from typing import Final

SPACE_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")
LABEL_CHARS_MAX: Final = 128
IDEMPOTENCY_KEY: Final = re.compile(r"[\x21-\x7e]{1,128}\Z")
HOLDER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\Z")


def is_space_name(name: str) -> bool:
    """True for `[A-Za-z0-9][A-Za-z0-9._-]{0,127}`."""
    return SPACE_NAME.match(name) is not None


def is_label(label: str) -> bool:
    """True for 1 to 128 characters without a leading `@`, not all digits, printable."""
    return 0 < len(label) <= LABEL_CHARS_MAX and label[0] != "@" and not label.isdigit() and label.isprintable()
