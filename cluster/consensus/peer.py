"""What the core knows of another member: its connection, what waits for our disk, what is on its way to it."""

from __future__ import annotations

import zlib
from collections import deque
from typing import Any

from pysyncobj.node import Node

from cluster.consensus.seams import Message


class PeerNode(Node):  # type: ignore[misc]  # the library has no types
    """The engine's name for a member, with a cached hash: it is a key in every dictionary of the hot path.

    The hash is the same in every process, so that the engine's sets iterate alike in every run of a seed.
    """

    def __init__(self, id: str) -> None:
        super().__init__(id)
        self._hash = zlib.crc32(id.encode())

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, Node) and bool(self.id == other.id))


class Peer:
    """One member and the present connection to it (`cid`, None when there is none). Sizes in bytes of commands."""

    __slots__ = (
        "asked_install_at",
        "beat_at",
        "cid",
        "commit_sent",
        "echo",
        "floor",
        "hi",
        "id",
        "incarnation",
        "inflight",
        "inflight_bytes",
        "node",
        "out",
        "ping_at",
        "probing",
        "progress_at",
        "seq",
    )

    def __init__(self, peer_id: str) -> None:
        self.id = peer_id
        self.node = PeerNode(peer_id)
        self.cid: int | None = None
        self.incarnation: str | None = None
        self.out: deque[tuple[int, Message]] = deque()  # (lsn that must be durable first, message)
        self.restart_progress()
        self.seq = 0

    def connected(self, cid: int, incarnation: str | None) -> None:
        self.cid, self.incarnation = cid, incarnation
        self.out.clear()
        self.seq = 0
        self.restart_progress()

    def disconnected(self) -> None:
        self.cid = None
        self.out.clear()

    def restart_progress(self) -> None:
        """Forget what is on its way: a new connection or a new term."""
        self.floor = 0  # rejections of what was sent up to this sequence are old news
        self.hi: int | None = None  # highest entry sent on this connection in this term
        self.echo = 0  # highest sequence answered
        self.inflight: deque[tuple[int, int]] = deque()  # (seq, bytes) of appends without an answer
        self.inflight_bytes = 0
        self.progress_at = -1e9  # when something was sent with nothing before it on the way, or an answer came
        self.probing = True  # where the logs meet is not known: one append at a time
        self.commit_sent = 0
        self.beat_at = -1e9
        self.asked_install_at = -1e9
        self.ping_at = -1e9

    def next_seq(self) -> int:
        self.seq += 1
        return self.seq

    def on_its_way(self, seq: int, entries: list[Any], now: float) -> None:
        if not self.inflight_bytes:
            self.progress_at = now
        size = sum(len(entry[0]) for entry in entries)
        self.inflight.append((seq, size))
        self.inflight_bytes += size

    def answered(self, seq: int, now: float) -> None:
        """Everything up to `seq` has an answer: the connection is first in, first out."""
        self.progress_at = now
        self.echo = max(self.echo, seq)
        while self.inflight and self.inflight[0][0] <= seq:
            self.inflight_bytes -= self.inflight.popleft()[1]

    def step_back(self) -> None:
        """A rejection that counts: what was sent so far is void, one probe is next."""
        self.floor = self.seq
        self.hi = None
        self.inflight.clear()
        self.inflight_bytes = 0
        self.probing = True

    def is_full(self, window_bytes: int) -> bool:
        return self.inflight_bytes >= window_bytes or (self.probing and bool(self.inflight))
