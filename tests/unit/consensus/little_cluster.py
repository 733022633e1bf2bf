"""Consensus cores in one process: hand-driven clock, FIFO links that can be cut, a journal each on a disk in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from chaos.sim.disk import SimDisk
from cluster.consensus import frames
from cluster.consensus.core import ConsensusCore
from cluster.consensus.seams import Base, Message
from cluster.consensus.settings import CoreSettings
from node.commands import InitCluster, Tick, encode_command
from wal.journal import JournalConfig, RaftJournal

SMALL = JournalConfig(bytes_max=1 << 20, segment_bytes=1 << 16, cache_bytes=1 << 18)


def over_the_wire(message: Message) -> Message:
    """What the other side gets, byte for byte: whatever the core says must be a message that the wire admits."""
    return frames.decode_message(b"".join(frames.encode_message(message, frames.EntryEncoder(), compress=True)))


class ListMachine:
    """Applies by appending to a list. A command that starts with b'job' takes until `jobs_may_end`."""

    def __init__(self, base: Base | None = None, applied: list[Any] | None = None) -> None:
        self.applied: list[tuple[int, int, bytes]] = list(applied or [])
        self.base = base
        self.applied_index = base.index if base else 0
        self.named: dict[str, str] | None = None
        self.jobs_may_end = False

    def apply(self, index: int, term: int, raw: bytes) -> Any:
        if raw.startswith(b"job"):
            return SlowJob(self, (index, term, raw))
        return self.finish((index, term, raw))

    def finish(self, entry: tuple[int, int, bytes]) -> Any:
        self.applied.append(entry)
        self.applied_index = entry[0]
        return ["ok", len(self.applied)]

    def checkpoint_base(self) -> Base | None:
        return self.base

    def members(self) -> Mapping[str, str] | None:
        return self.named

    def commands(self) -> list[bytes]:
        return [raw for _, _, raw in self.applied]


class SlowJob:
    def __init__(self, machine: ListMachine, entry: tuple[int, int, bytes]) -> None:
        self.machine, self.entry = machine, entry

    def step(self, budget_ms: float) -> Any:
        return self.machine.finish(self.entry) if self.machine.jobs_may_end else None


class Member:
    """One core with its disk. Its journal becomes durable when `sync` is called (at once if `auto_sync`)."""

    def __init__(self, cluster: LittleCluster, node_id: str, **settings: Any) -> None:
        self.cluster, self.id = cluster, node_id
        self.disk = SimDisk(seed=1)
        self.settings = settings
        self.machine = ListMachine()
        self.auto_sync = True
        self.rng = Random(node_id)
        self.incarnation = f"{node_id}-1"
        self.fetches: list[tuple[Base, str, Callable[[Base], None]]] = []
        self.start()

    def start(self) -> None:
        self.up = True
        self.log = RaftJournal.open(self.disk, "/journal", SMALL)
        peers = tuple(other for other in self.cluster.ids if other != self.id)
        settings = CoreSettings(node_id=self.id, peers=peers, incarnation=self.incarnation, **self.settings)
        self.core = ConsensusCore(settings, self.log, self.machine, self)
        self.sync()

    def stop(self) -> None:
        self.up = False
        self.cluster.cut(self.id)

    def now(self) -> float:
        return self.cluster.now

    def random(self) -> float:
        return self.rng.random()

    def send(self, peer: str, cid: int, message: Message) -> None:
        self.cluster.sent.append((self.id, peer, message))
        link = self.cluster.links.get((self.id, peer))
        if link is not None and link[0] == cid:
            link[1].append(over_the_wire(message))

    def fetch(self, base: Base, source: str, done: Callable[[Base], None]) -> None:
        self.fetches.append((base, source, done))

    def init_command(self, incarnations: Mapping[str, str]) -> bytes:
        return encode_command([InitCluster("test", dict(incarnations))], stamp_ms=0, wall_ms=0)

    def open_command(self) -> bytes:
        return encode_command([Tick()], stamp_ms=0, wall_ms=0)

    def sync(self) -> None:
        self.log.sync_now()
        self.core.on_durable()


class LittleCluster:
    """`ids` members, connected. `run(seconds)` delivers everything and ticks every 10 ms of virtual time."""

    def __init__(self, *ids: str, **settings: Any) -> None:
        self.ids, self.now, self.cid = ids, 100.0, 0
        self.links: dict[tuple[str, str], tuple[int, deque[Message]]] = {}
        self.blocked: set[tuple[str, str]] = set()
        self.sent: list[tuple[str, str, Message]] = []
        self.members = {node_id: Member(self, node_id, **settings) for node_id in ids}
        for node_id in ids:
            self.connect(node_id)

    def __getitem__(self, node_id: str) -> Member:
        return self.members[node_id]

    def connect(self, node_id: str, *others: str) -> None:
        for other in others or self.ids:
            if other == node_id or (node_id, other) in self.links or not self.members[other].up:
                continue
            self.cid += 1
            for a, b in ((node_id, other), (other, node_id)):
                self.links[a, b] = (self.cid, deque())
            for a, b in ((node_id, other), (other, node_id)):
                far = self.members[b]
                self.members[a].core.on_connect(b, self.cid, far.incarnation, far.core.membership.recorded)

    def cut(self, node_id: str, *others: str) -> None:
        for other in others or self.ids:
            for a, b in ((node_id, other), (other, node_id)):
                link = self.links.pop((a, b), None)
                if link is not None and self.members[a].up:
                    self.members[a].core.on_disconnect(b, link[0])

    def step(self) -> None:
        for _ in range(200):
            busy = False
            for (a, b), (cid, queue) in sorted(self.links.items()):
                while queue and (a, b) not in self.blocked and (a, b) in self.links:
                    busy = True
                    self.members[b].core.on_raw(a, cid, queue.popleft())
            for member in self.members.values():
                if member.up:
                    member.core.tick()
                    if member.auto_sync and member.log.lsn > member.log.durable_lsn:
                        busy = True
                        member.sync()
            if not busy:
                return
        raise AssertionError("the cluster does not come to rest")

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.now < end:
            self.now += 0.01
            self.step()

    def until(self, condition: Callable[[], Any], seconds: float = 20.0) -> None:
        end = self.now + seconds
        while not condition():
            assert self.now < end, "did not happen in time"
            self.now += 0.01
            self.step()

    def leader(self) -> Member:
        self.until(lambda: self.leaders())
        return self.leaders()[-1]

    def leaders(self) -> list[Member]:
        found = [member for member in self.members.values() if member.up and member.core.role == "leader"]
        return sorted(found, key=lambda member: member.core.term)

    def propose(self, command: bytes, at: Member | None = None) -> list[Any]:
        outcome: list[Any] = []
        (at or self.leader()).core.propose(command, outcome.append)
        return outcome
