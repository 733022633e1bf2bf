"""The words in which the code says what must hold, and the exceptions that mean it does not.

`invariant` is for our own mistakes: nothing may be trusted after one, so the node halts. `require` is for what comes
from outside (disk, network, user) and raises the error that fits. Neither disappears under `python -O`.
"""

from __future__ import annotations

from typing import NoReturn


def _facts(facts: dict[str, object]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in facts.items())


class InvariantViolation(Exception):
    """A rule of our own does not hold. Nobody catches it but the host, which halts the node and logs `facts`."""

    def __init__(self, text: str, **facts: object) -> None:
        self.text = text
        self.facts = facts
        super().__init__(f"{text} ({_facts(facts)})" if facts else text)


class FailStop(Exception):
    """The process must stop now: going on could lie (a failed fsync, a truncation of committed entries).

    Never handled by trying again; the host logs `facts` and exits. What is durable is safe, the rest is unknown.
    """

    def __init__(self, reason: str, **facts: object) -> None:
        self.reason = reason
        self.facts = facts
        super().__init__(f"{reason} ({_facts(facts)})" if facts else reason)


class Corrupt(Exception):
    """Stored bytes are not what was written. Names the file, the offset in bytes, what was expected and found."""

    def __init__(self, path: str, offset: int, expected: object, found: object) -> None:
        self.path = path
        self.offset = offset
        self.expected = expected
        self.found = found
        super().__init__(f"{path} at offset {offset}: expected {expected}, found {found}")


def invariant(cond: object, text: str, **facts: object) -> None:
    """Raise InvariantViolation with `facts` unless `cond` is true."""
    if not cond:
        raise InvariantViolation(text, **facts)


def unreachable(text: str, **facts: object) -> NoReturn:
    """Raise InvariantViolation: this line was thought to be unreachable."""
    raise InvariantViolation(text, **facts)


def require(cond: object, exc: type[Exception], **facts: object) -> None:
    """Raise `exc(**facts)` unless `cond` is true: `require(ok, Corrupt, path=p, offset=o, expected=e, found=f)`."""
    if not cond:
        raise exc(**facts)
