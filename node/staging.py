"""Staged parts: the pieces of a transaction that is too large for one command, invisible until its commit."""

from __future__ import annotations

from node.results import Refused
from node.settings import Limits

Writes = list[tuple[int, memoryview]]


class Stage:
    """The parts under one id. `due_ms`: replicated time at which they are forgotten, counted from the newest part."""

    __slots__ = ("due_ms", "nbytes", "parts")

    def __init__(self) -> None:
        self.parts: dict[int, list[tuple[int, bytes]]] = {}  # never changed once in here: checkpoints refer to them
        self.nbytes = 0
        self.due_ms = 0


class StageBook:
    """All stages, bounded in bytes together."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.stages: dict[str, Stage] = {}
        self.nbytes = 0
        self._changed: set[str] = set()  # since the last freeze

    def add(self, name: str, part: int, writes: Writes, now_ms: int) -> Refused | int:
        """Keeps a part (again: the same part may come twice). Returns when the stage is due."""
        nbytes = sum(len(block) for _, block in writes) + 64 * len(writes)
        stage = self.stages.get(name)
        old = stage.parts.get(part) if stage is not None else None
        old_bytes = sum(len(block) for _, block in old) + 64 * len(old) if old is not None else 0
        if self.nbytes + nbytes - old_bytes > self.limits.stage_bytes_max:
            return Refused("rate_limited", f"{self.nbytes} bytes are staged, at most {self.limits.stage_bytes_max}")
        if stage is None:
            stage = self.stages[name] = Stage()
        # Copies: the views would keep the whole Raft entry in memory.
        stage.parts[part] = [(offset, bytes(block)) for offset, block in writes]
        stage.nbytes += nbytes - old_bytes
        self.nbytes += nbytes - old_bytes
        stage.due_ms = now_ms + self.limits.stage_ttl_ms
        self._changed.add(name)
        return stage.due_ms

    def take_changed(self) -> set[str]:
        """Names of stages that changed or went since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def collect(self, name: str, parts: int) -> Writes | Refused:
        """The writes of parts 0 … parts - 1 in order; the stage stays until `drop`."""
        stage = self.stages.get(name)
        present = stage.parts if stage is not None else {}
        missing = next((part for part in range(min(parts, len(present) + 1)) if part not in present), None)
        if missing is not None:
            return Refused("gone", f"part {missing} of {parts} staged under {name!r} is not kept")
        return [(offset, memoryview(block)) for part in range(parts) for offset, block in present[part]]

    def drop(self, name: str) -> None:
        stage = self.stages.pop(name, None)
        if stage is not None:
            self.nbytes -= stage.nbytes
            self._changed.add(name)

    def expire(self, name: str, now_ms: int) -> int | None:
        """Drops the stage if it is due; else when to look again."""
        stage = self.stages.get(name)
        if stage is None:
            return None
        if stage.due_ms > now_ms:
            return stage.due_ms
        self.drop(name)
        return None
