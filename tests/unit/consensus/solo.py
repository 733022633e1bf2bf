"""One hardened core whose peers are played by the test: messages by hand, a clock by hand, a disk by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any

from chaos.sim.disk import SimDisk
from cluster.consensus.core import ConsensusCore
from cluster.consensus.seams import Base, Message
from cluster.consensus.settings import ALL_FEATURES, CoreSettings, Feature
from node.commands import InitCluster, Tick, encode_command
from tests.unit.consensus.little_cluster import SMALL, ListMachine, over_the_wire
from wal.journal import RaftJournal

NOTHING = Feature(0)


class Solo:
    """Core `me` with peers that are connected. `without` removes guards. Nothing is durable before `sync()`."""

    def __init__(
        self, me: str = "a", peers: tuple[str, ...] = ("b", "c"), without: Feature = NOTHING, **settings: Any
    ) -> None:
        self.time, self.rng, self.disk = 10.0, Random(7), SimDisk(seed=3)
        self.sent: list[tuple[str, Message]] = []
        self.fetches: list[tuple[Base, str, Callable[[Base], None]]] = []
        self.machine = ListMachine()
        self.settings = CoreSettings(
            node_id=me, peers=peers, incarnation=f"{me}-1", features=ALL_FEATURES & ~without, **settings
        )
        self.seq = 0
        self.boot()

    def boot(self) -> None:
        """Start on what the disk has. Connections are new."""
        self.log = RaftJournal.open(self.disk, "/journal", SMALL)
        self.core = ConsensusCore(self.settings, self.log, self.machine, self)
        for number, peer in enumerate(self.settings.peers):
            self.core.on_connect(peer, number + 1, f"{peer}-1", None)
        self.cids = {peer: number + 1 for number, peer in enumerate(self.settings.peers)}

    def restart(self, *, power: bool = False) -> None:
        if power:
            self.disk.power_cut()
            self.disk.restart()
        else:
            self.log.sync_now()
        self.boot()

    # CoreIO
    def now(self) -> float:
        return self.time

    def random(self) -> float:
        return self.rng.random()

    def send(self, peer: str, cid: int, message: Message) -> None:
        self.sent.append((peer, over_the_wire(message)))

    def fetch(self, base: Base, source: str, done: Callable[[Base], None]) -> None:
        self.fetches.append((base, source, done))

    def init_command(self, incarnations: Mapping[str, str]) -> bytes:
        return encode_command([InitCluster("test", dict(incarnations))], stamp_ms=0, wall_ms=0)

    def open_command(self) -> bytes:
        return encode_command([Tick()], stamp_ms=0, wall_ms=0)

    # the test's hands
    def sync(self) -> None:
        self.log.sync_now()
        self.core.on_durable()

    def tick(self, after: float = 0.0) -> None:
        self.time += after
        self.core.tick()

    def take(self, kind: str, to: str | None = None) -> list[Message]:
        sent, self.sent = self.sent, []
        return [message for peer, message in sent if message["type"] == kind and to in (None, peer)]

    def receive(self, peer: str, **message: Any) -> None:
        self.core.on_raw(peer, self.cids[peer], message)

    def append(self, peer: str, term: int, prev: tuple[int, int], entries: list[Any], commit: int) -> None:
        self.seq += 1
        index, prev_term = prev
        self.receive(
            peer,
            type="append_entries",
            term=term,
            seq=self.seq,
            prevLogIdx=index,
            prevLogTerm=prev_term,
            entries=entries,
            commit_index=commit,
        )

    def install(self, peer: str, term: int, base: Base, commit: int = 0) -> None:
        self.seq += 1
        self.receive(peer, type="install", term=term, seq=self.seq, base=base.as_list(), commit_index=commit)

    def vote(self, peer: str, term: int | None = None) -> None:
        term = self.core.term if term is None else term
        self.receive(peer, type="response_vote", term=term, inc=f"{peer}-1")

    def acknowledge(self, peer: str, index: int, *, echo: int = 1_000, term: int | None = None, inc: str = "") -> None:
        self.receive(
            peer,
            type="next_node_idx",
            term=self.core.term if term is None else term,
            echo=echo,
            next_node_idx=index + 1,
            success=True,
            reset=False,
            inc=inc or f"{peer}-1",
        )

    def reject(self, peer: str, hint: int, *, echo: int) -> None:
        self.receive(
            peer,
            type="next_node_idx",
            term=self.core.term,
            echo=echo,
            next_node_idx=hint,
            success=False,
            reset=True,
            inc=f"{peer}-1",
        )

    def stand(self) -> None:
        """Become a candidate: the timer fires, the peers grant the question before the election."""
        self.tick(after=2)
        for message, peer in [(message, peer) for peer, message in self.sent if message["type"] == "prevote"]:
            answer = {"type": "prevote_answer", "round": message["round"], "term": message["term"], "granted": True}
            self.receive(peer, **answer)
        self.tick()
        self.sync()

    def lead(self, *voters: str) -> None:
        self.stand()
        for peer in voters:
            self.vote(peer)
        self.tick()

    @property
    def indices(self) -> list[tuple[int, int]]:
        entries = self.log.entries(self.log.first_index, self.log.last_index + 1)
        return [(index, term) for _, index, term in entries]


def puts(start: int, stop: int, term: int = 1) -> list[tuple[bytes, int, int]]:
    return [(b"v%d" % index, index, term) for index in range(start, stop)]
