"""What only this node suffers: damaged bytes. Never an answer of apply: the host repairs, or takes the node out."""

from __future__ import annotations


class LocalCorruption(Exception):
    """Bytes of this node are not what the log made them. Apply can't go on; the others are not affected."""


class RottenPage(Exception):
    """The stored bytes of a page are not those of its digest. Raised by reads; the API answers 500 naming it."""

    def __init__(self, space: str, page: int, detail: str) -> None:
        self.space = space
        self.page = page
        self.detail = detail
        super().__init__(f"page {page} of space {space!r} is rotten: {detail}")
