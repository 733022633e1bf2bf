"""A cluster under faults for the length of one run: nodes, proxies, time, chance and a voice.

Scenarios call these methods from the event loop; what blocks (signals, the proxy's control pipe, starting processes)
runs in a thread, so that the clients' clock never stands still.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Any

from chaos.door import Door
from chaos.fabric import LISTENERS, Fabric
from chaos.workload import Workload
from cluster.local import LocalCluster
from cluster.probe import ask, cluster_view

LEADER_WAIT_S = 15.0
FILL_SPACE = "chaos-fill"
FILL_CHUNK = 256 * 1024
FILL_SLOTS = 96  # 24 MiB, then from the start again


class NoLeader(Exception):
    """Nobody led for longer than any scenario may wait."""


class Arena:
    """`say` prints a line with the time since the start; `notes` are measurements for the end of the report."""

    def __init__(
        self,
        cluster: LocalCluster,
        fabric: Fabric,
        workload: Workload,
        *,
        door: Door,
        seconds: float,
        seed: int,
        out: Callable[[str], None],
    ) -> None:
        self.cluster, self.fabric, self.workload = cluster, fabric, workload
        self._door = door
        self.rng = random.Random(f"nemesis/{seed}")
        self.notes: dict[str, str] = {}
        self.failures: list[str] = []
        self.faults = 0
        self._out = out
        self._started = time.monotonic()
        self._deadline = self._started + seconds

    # ------------------------------------------------------------------ time and voice

    def say(self, text: str) -> None:
        self._out(f"{time.monotonic() - self._started:7.2f} s  {text}")

    def fail(self, text: str) -> None:
        """Something that had to hold did not; the run will not pass."""
        self.failures.append(text)
        self.say(f"FAILED: {text}")

    def time_left(self) -> float:
        return self._deadline - time.monotonic()

    async def pause_between(self, low_s: float, high_s: float) -> float:
        """Sleeps a random while, less when the run is over. Returns the seconds."""
        wanted = max(0.0, min(self.rng.uniform(low_s, high_s), self.time_left()))
        await asyncio.sleep(wanted)
        return wanted

    # ------------------------------------------------------------------ nodes

    @property
    def ids(self) -> list[str]:
        return self.cluster.ids

    async def leader(self) -> str:
        """The leader of the highest term. Raises NoLeader after `LEADER_WAIT_S`."""
        found = await self.new_leader(besides=())
        if found is None:
            raise NoLeader(f"no leader for {LEADER_WAIT_S:g} s")
        return found

    async def new_leader(self, *, besides: tuple[str, ...]) -> str | None:
        """Waits for a leader other than those, asking only nodes other than those."""
        asked = [self.cluster.node(node_id).http for node_id in self.ids if node_id not in besides]
        deadline = time.monotonic() + LEADER_WAIT_S
        while time.monotonic() < deadline:
            views = await asyncio.gather(*(asyncio.to_thread(cluster_view, url, timeout_s=0.5) for url in asked))
            known = [view for view in views if view and view.get("leader") and view["leader"] not in besides]
            if known:
                return str(max(known, key=lambda view: view.get("term") or 0)["leader"])
            await asyncio.sleep(0.02)
        return None

    async def followers(self) -> list[str]:
        leader = await self.leader()
        return [node_id for node_id in self.ids if node_id != leader]

    async def kill(self, node_id: str) -> None:
        await asyncio.to_thread(self.cluster.kill, node_id)

    async def restart(self, node_id: str) -> None:
        await asyncio.to_thread(self.cluster.restart, node_id)

    async def pause(self, node_id: str) -> None:
        await asyncio.to_thread(self.cluster.pause, node_id)

    async def resume(self, node_id: str) -> None:
        await asyncio.to_thread(self.cluster.resume, node_id)

    async def view(self, node_id: str) -> dict[str, Any] | None:
        return await asyncio.to_thread(cluster_view, self.cluster.node(node_id).http, timeout_s=1.0)

    async def transfers(self, node_id: str) -> list[dict[str, Any]]:
        """`GET /v1/transfers` of this node; empty when it does not answer."""
        rows = await self.ask(node_id, "/v1/transfers")
        return list(rows) if isinstance(rows, list) else []

    async def ask(self, node_id: str, path: str) -> Any:
        """The JSON that exactly this node answers to a GET, None when it answers none."""
        answer = await asyncio.to_thread(ask, self.cluster.node(node_id).http, path, timeout_s=2.0)
        return answer[1] if answer is not None and answer[0] == 200 else None

    # ------------------------------------------------------------------ network

    async def isolate(self, node_id: str) -> None:
        await asyncio.to_thread(self.fabric.isolate, node_id)

    async def cut(self, src: str, dst: str) -> None:
        await asyncio.to_thread(self.fabric.cut, src, dst)

    async def heal(self) -> None:
        await asyncio.to_thread(self.fabric.heal)

    async def shape(self, src: str, dst: str, *, rate: int = 0, delay_ms: float = 0, listener: str = "bulk") -> None:
        kinds = LISTENERS if listener == "all" else (listener,)
        await asyncio.to_thread(lambda: self.fabric.shape(src, dst, rate=rate, delay_ms=delay_ms, listeners=kinds))

    # ------------------------------------------------------------------ progress

    async def acknowledged_within(self, seconds: float) -> float | None:
        """Seconds until the next acknowledged write, None if there is none in time."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            if self.workload.acknowledged_at > started:
                return self.workload.acknowledged_at - started
            await asyncio.sleep(0.01)
        return None

    async def fill(self, count_bytes: int) -> None:
        """Writes this many random bytes to a space that no client uses, so that logs grow and are cut."""
        await self._settled("PUT", f"/v1/spaces/{FILL_SPACE}", {})
        for number in range(-(-count_bytes // FILL_CHUNK)):
            chunk = self.rng.randbytes(FILL_CHUNK)
            body = {"writes": [{"offset": (number % FILL_SLOTS) * FILL_CHUNK, "data": chunk}]}
            await self._settled("POST", f"/v1/spaces/{FILL_SPACE}/tx", body)

    async def _settled(self, method: str, path: str, body: Any) -> None:
        """Asks one node after the other until one says that it is done. Raises NoLeader."""
        key = f"fill-{self.rng.getrandbits(64):x}"
        deadline = time.monotonic() + LEADER_WAIT_S
        while time.monotonic() < deadline:
            for node_id in self.ids:
                if method == "POST":
                    reply = await self._door.post(node_id, path, body, key=key, timeout_s=5)
                else:
                    reply = await self._door.put(node_id, path, body)
                if reply.outcome == "ok":
                    return
        raise NoLeader(f"{method} {path} was not done in {LEADER_WAIT_S:g} s: {reply.status} {reply.code}")

    async def make_whole(self) -> None:
        """Ends every fault: heals, wakes, starts what was killed."""
        await asyncio.to_thread(self.fabric.clear)
        for node_id in self.ids:
            await self.resume(node_id)
        await asyncio.to_thread(self.cluster.start)
