"""Where the demo plays: the cluster behind its proxies, a client, the file, and what has been shown so far."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lastgood

from chaos.arena import Arena
from chaos.demo.source import Source
from chaos.fabric import Fabric
from cluster.local import LocalCluster
from cluster.probe import ask


@dataclass
class Shown:
    """One step of the demo: what it did, how long it took, and what had to hold."""

    title: str
    said: str = ""
    seconds: float = 0.0
    checks: list[tuple[str, bool]] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return bool(self.checks) and all(held for _, held in self.checks)


@dataclass
class Stage:
    """Shared by the steps. `good_sha256` is the digest of the last good state of the file."""

    folder: Path
    fabric: Fabric
    cluster: LocalCluster
    store: lastgood.Store
    arena: Arena
    say: Callable[[str], None]
    source: Source | None = None
    space: lastgood.Space | None = None
    baseline_lvc: int = 0
    good_sha256: str = ""
    good: lastgood.Snapshot | None = None
    steps: list[Shown] = field(default_factory=list)

    async def step(self, title: str, act: Callable[[Stage, Shown], Awaitable[None]]) -> Shown:
        """Plays one step and says its line. What it raises is its failure, and the last step's."""
        shown = Shown(title)
        self.steps.append(shown)
        started = time.monotonic()
        try:
            await act(self, shown)
        except Exception as error:
            # Whatever went wrong, the viewer gets the table and the cluster is cleaned up.
            shown.checks.append((f"{type(error).__name__}: {error}", False))
        shown.seconds = time.monotonic() - started
        mark = "ok  " if shown.holds else "FAIL"
        self.say(f"{mark} {len(self.steps):2}  {shown.seconds:6.2f} s  {title}: {shown.said}")
        for text, held in shown.checks:
            if not held:
                self.say(f"             did not hold: {text}")
        return shown

    @property
    def holds(self) -> bool:
        return bool(self.steps) and all(shown.holds for shown in self.steps)

    async def get(self, node_id: str, path: str) -> Any:
        """JSON that exactly this node answers. Raises RuntimeError when it does not."""
        answer = await asyncio.to_thread(ask, self.cluster.node(node_id).http, path, timeout_s=10.0)
        if answer is None or answer[0] != 200:
            raise RuntimeError(f"{node_id} answered {answer} to GET {path}")
        return answer[1]


def table(steps: list[Shown]) -> list[str]:
    """The end of the demo: each step with its time and the checks that held."""
    width = max(len(shown.title) for shown in steps)
    lines = [f"{'step'.ljust(width)}  {'seconds':>8}  {'checks':>7}", f"{'-' * width}  {'-' * 8}  {'-' * 7}"]
    for shown in steps:
        held = sum(1 for _, ok in shown.checks if ok)
        text = f"{held}/{len(shown.checks)}" + ("" if shown.holds else "  FAILED")
        lines.append(f"{shown.title.ljust(width)}  {shown.seconds:8.2f}  {text:>7}")
    total = sum(shown.seconds for shown in steps)
    checks = [ok for shown in steps for _, ok in shown.checks]
    lines.append(f"{'all'.ljust(width)}  {total:8.2f}  {f'{sum(checks)}/{len(checks)}':>7}")
    return lines
