"""Structured logs: one JSON object a line, an event name with facts. No secrets, no free text.

`log = get_log("cluster.api")`, then `log.info("transfer.resumed", peer=peer, done_bytes=n)`. `configure` once at start.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

LEVELS: Final[dict[str, int]] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
SECRET_WORDS: Final = ("token", "secret", "password", "authorization", "cookie", "private_key", "credential")
REDACTED: Final = "[redacted]"
VALUE_CHARS_MAX: Final = 8_192


class _Sink:
    """Where all logs of the process go. Kept apart from `Log` so that loggers made before `configure` follow it."""

    def __init__(self) -> None:
        self.stream: TextIO | None = None
        self.threshold = LEVELS["info"]
        self.facts: dict[str, object] = {}
        self.wall_s: Callable[[], float] = time.time


_sink: Final = _Sink()


def configure(
    *,
    stream: TextIO | None = None,
    level: str = "info",
    wall_s: Callable[[], float] = time.time,
    bridge_stdlib: bool = True,
    **facts: object,
) -> None:
    """Sets stream (default stderr), lowest level, and facts that every line carries (`node="n1"`).

    `bridge_stdlib` sends what libraries write to `logging` through here. Raises ValueError for an unknown level.
    """
    if level not in LEVELS:
        raise ValueError(f"log level {level!r}: one of {', '.join(LEVELS)}")
    _sink.stream = stream
    _sink.threshold = LEVELS[level]
    _sink.facts = dict(facts)
    _sink.wall_s = wall_s
    if bridge_stdlib:
        root = logging.getLogger()
        root.handlers[:] = [_Bridge()]
        root.setLevel(max(LEVELS[level], logging.WARNING))


class Log:
    """Logs of one part of the program. Lines below the threshold cost one comparison."""

    __slots__ = ("_facts", "name")

    def __init__(self, name: str, facts: dict[str, object] | None = None) -> None:
        self.name = name
        self._facts = facts or {}

    def bind(self, **facts: object) -> Log:
        """A log whose lines also carry these facts."""
        return Log(self.name, {**self._facts, **facts})

    def debug(self, event: str, **facts: object) -> None:
        if _sink.threshold <= 10:
            self._write("debug", event, facts)

    def info(self, event: str, **facts: object) -> None:
        if _sink.threshold <= 20:
            self._write("info", event, facts)

    def warning(self, event: str, **facts: object) -> None:
        if _sink.threshold <= 30:
            self._write("warning", event, facts)

    def error(self, event: str, **facts: object) -> None:
        self._write("error", event, facts)

    def _write(self, level: str, event: str, facts: dict[str, object]) -> None:
        line: dict[str, object] = {
            "at": datetime.fromtimestamp(_sink.wall_s(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": level,
            "log": self.name,
            "event": event,
            **_sink.facts,
        }
        for key, value in {**self._facts, **facts}.items():
            line[key] = clean(key, value)
        stream = _sink.stream if _sink.stream is not None else sys.stderr
        try:
            stream.write(msgspec.json.encode(line).decode() + "\n")
            stream.flush()
        except (OSError, ValueError):
            # A full disk or a closed pipe under the log must not stop the node: tests/unit/cluster/test_log.py
            return


def get_log(name: str, **facts: object) -> Log:
    """The log called `name`, a dotted path as of modules."""
    return Log(name, dict(facts))


def clean(key: str, value: object) -> object:
    """The value as it may stand in a log: secrets by name of the fact redacted, exceptions spelt out, long text cut."""
    lowered = key.lower()
    if any(word in lowered for word in SECRET_WORDS):
        return REDACTED
    if isinstance(value, BaseException):
        lines = traceback.format_exception(value)
        return {
            "type": type(value).__name__,
            "text": str(value)[:VALUE_CHARS_MAX],
            "trace": "".join(lines)[-VALUE_CHARS_MAX:],
        }
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()[:VALUE_CHARS_MAX]
    if isinstance(value, bytes | bytearray | memoryview):
        return bytes(value[:64]).hex()
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {str(name): clean(str(name), entry) for name, entry in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [clean("", entry) for entry in value]
    return str(value)[:VALUE_CHARS_MAX]


class _Bridge(logging.Handler):
    """Records of the standard library's logging as our lines."""

    def emit(self, record: logging.LogRecord) -> None:
        facts: dict[str, Any] = {"text": record.getMessage()}
        if record.exc_info and record.exc_info[1] is not None:
            facts["error"] = record.exc_info[1]
        level = "error" if record.levelno >= 40 else "warning" if record.levelno >= 30 else "info"
        if LEVELS[level] >= _sink.threshold:
            Log(record.name)._write(level, "library.message", facts)
