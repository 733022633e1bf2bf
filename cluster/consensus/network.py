"""Connections to the other members: who dials whom, hellos, epochs, redialling. One connection for each pair."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from cluster.consensus.frames import PROTOCOL_VERSION, EntryEncoder, Hello, encode_hello
from cluster.consensus.link import Link
from cluster.consensus.seams import Message
from cluster.log import get_log

log = get_log("cluster.consensus")

CONNECT_S: Final = 1.0  # for a connection and its hello
REDIAL_S: Final = 0.2  # at most, between two attempts
STEADY_S: Final = 1.0  # a connection that lasted this long is worth a quick second one
WATCH_S: Final = 0.05
OPENING_MAX: Final = 64  # connections without a hello; further ones are closed at once

Address = tuple[str, int]


class NetworkEvents(Protocol):
    """What the replica hears of its connections."""

    def on_connect(self, peer: str, cid: int, incarnation: str, members: Mapping[str, str] | None) -> None: ...
    def on_disconnect(self, peer: str, cid: int) -> None: ...
    def on_message(self, peer: str, cid: int, message: Message) -> None: ...
    def on_life(self, peer: str, in_message: bool) -> None: ...


@dataclass(frozen=True)
class NetworkConfig:
    """Who we are and where the others are. `run` differs in every process. Without TLS contexts the link is plain."""

    node_id: str
    cluster_id: str
    incarnation: str
    run: str
    listen: Address
    peers: Mapping[str, Address]
    server_tls: ssl.SSLContext | None = None
    client_tls: ssl.SSLContext | None = None


class Network:
    """The member with the greater id dials. Everything runs on one event loop."""

    def __init__(
        self,
        config: NetworkConfig,
        events: NetworkEvents,
        *,
        now: Callable[[], float],
        random: Callable[[], float],
        members: Callable[[], Mapping[str, str] | None],
    ) -> None:
        self._config, self._events = config, events
        self._now, self._random, self._members = now, random, members
        self._encoder = EntryEncoder()
        self._links: dict[str, Link] = {}  # peer -> the present link, hello done
        self._opening: set[Link] = set()
        self._heard: dict[str, tuple[str, int]] = {}  # peer -> (run, epoch) of its newest connection
        self._cid = 0
        self._epoch = 0
        self._server: asyncio.Server | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._lost_events: dict[str, asyncio.Event] = {}
        self._complained: dict[str, str] = {}
        self._closing = False

    # ---------------------------------------------------------------- life
    async def start(self) -> None:
        """Listen and begin to dial. Raises OSError when the address can't be bound."""
        loop = asyncio.get_running_loop()
        host, port = self._config.listen
        self._server = await loop.create_server(
            lambda: Link(self, self._encoder, self._now, None), host, port, ssl=self._config.server_tls
        )
        for peer, address in self._config.peers.items():
            if self._config.node_id > peer:
                self._lost_events[peer] = asyncio.Event()
                self._tasks.append(loop.create_task(self._keep_dialling(peer, address)))
        self._tasks.append(loop.create_task(self._watch()))

    async def stop(self) -> None:
        """Close everything; the events of closing links are still delivered."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._server is not None:
            self._server.close()
        for link in [*self._links.values(), *self._opening]:
            link.close("this node stops")
        await asyncio.sleep(0)
        if self._server is not None:
            await self._server.wait_closed()

    @property
    def port(self) -> int:
        """The port that is really bound."""
        if self._server is None:
            return self._config.listen[1]
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    # ---------------------------------------------------------------- use
    def send(self, peer: str, cid: int, message: Message) -> None:
        """Put `message` on connection `cid`, if that is still the one."""
        link = self._links.get(peer)
        if link is not None and link.cid == cid:
            link.send(message)

    def heard_at(self, peer: str) -> float | None:
        """When the last byte of this peer came, None without a connection."""
        link = self._links.get(peer)
        return None if link is None else link.heard_at

    def complaint(self, peer: str) -> str | None:
        """Why there is no connection, as far as it is known."""
        return None if peer in self._links else self._complained.get(peer)

    # ---------------------------------------------------------------- dialling
    async def _keep_dialling(self, peer: str, address: Address) -> None:
        loop, lost = asyncio.get_running_loop(), self._lost_events[peer]
        while True:
            lost.clear()
            started, pause_s = self._now(), REDIAL_S
            try:
                async with asyncio.timeout(CONNECT_S):
                    await loop.create_connection(
                        lambda: Link(self, self._encoder, self._now, peer), *address, ssl=self._config.client_tls
                    )
            except (OSError, TimeoutError) as error:
                self._complain(peer, str(error) or type(error).__name__)
            else:
                await lost.wait()
                if self._now() - started > STEADY_S:
                    pause_s = REDIAL_S / 10  # it was good for a while, so try again at once
            await asyncio.sleep(pause_s * (0.25 + 0.75 * self._random()))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(WATCH_S)
            now = self._now()
            for link in list(self._links.values()):
                link.watch(now)
            for link in list(self._opening):
                if now - link.opened_at > CONNECT_S:
                    link.close("no hello")

    # ---------------------------------------------------------------- links
    def on_open(self, link: Link) -> None:
        if len(self._opening) >= OPENING_MAX and link.dialled is None:
            link.close("too many connections without a hello")
            return
        self._opening.add(link)
        if link.dialled is not None:
            self._epoch += 1
            link.send_raw(encode_hello(self._hello(link.dialled)))

    def _hello(self, to: str) -> Hello:
        config = self._config
        members = self._members()
        return Hello(
            PROTOCOL_VERSION,
            config.cluster_id,
            config.node_id,
            to,
            config.incarnation,
            config.run,
            self._epoch,
            dict(members) if members is not None else None,
        )

    def on_hello(self, link: Link, hello: Hello) -> None:
        reason = self._why_not(link, hello)
        if reason is not None:
            link.refuse(reason)
            return
        peer = hello.node_id
        old = self._links.pop(peer, None)
        if old is not None:
            self._gone(old, "a newer connection")
            old.close("a newer connection")
        self._opening.discard(link)
        self._cid += 1
        link.peer, link.cid = peer, self._cid
        self._heard[peer] = (hello.run, hello.epoch)
        self._links[peer] = link
        self._complained.pop(peer, None)
        if link.dialled is None:
            link.send_raw(encode_hello(self._hello(peer)))
        log.info("raft.connected", peer=peer, cid=link.cid, incarnation=hello.incarnation)
        self._events.on_connect(peer, link.cid, hello.incarnation, hello.members)

    def _why_not(self, link: Link, hello: Hello) -> str | None:
        """Reason to refuse this hello, None if it is right."""
        config, peer = self._config, hello.node_id
        if hello.version != PROTOCOL_VERSION:
            return f"protocol version {hello.version}, this node speaks {PROTOCOL_VERSION}"
        if hello.cluster_id != config.cluster_id:
            return f"this is cluster {config.cluster_id}, not {hello.cluster_id}"
        if hello.to != config.node_id:
            return f"this is node {config.node_id}, not {hello.to}"
        if peer not in config.peers or (link.dialled is not None and link.dialled != peer):
            return f"node {peer} is not expected here"
        if link.dialled is None and peer < config.node_id:
            return f"node {config.node_id} dials {peer}, not the other way round"
        run, epoch = self._heard.get(peer, ("", 0))
        if link.dialled is None and run == hello.run and hello.epoch <= epoch:
            return "an older connection"
        certificate = link.certificate_names()
        if certificate is not None and peer not in certificate:
            return f"the certificate names {', '.join(sorted(certificate)) or 'nobody'}, not {peer}"
        return None

    def on_message(self, link: Link, message: Message) -> None:
        if link.peer is not None and self._links.get(link.peer) is link:
            self._events.on_message(link.peer, link.cid, message)

    def on_life(self, link: Link, in_message: bool) -> None:
        if link.peer is not None and self._links.get(link.peer) is link:
            self._events.on_life(link.peer, in_message)

    def on_lost(self, link: Link, reason: str) -> None:
        self._opening.discard(link)
        if link.peer is not None and self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._gone(link, reason)
        peer = link.peer or link.dialled
        if peer is not None:
            self._complain(peer, reason)
        if link.dialled is not None:
            self._lost_events[link.dialled].set()

    def _gone(self, link: Link, reason: str) -> None:
        if link.peer is not None:
            log.info("raft.disconnected", peer=link.peer, cid=link.cid, reason=reason)
            self._events.on_disconnect(link.peer, link.cid)

    def _complain(self, peer: str, reason: str) -> None:
        if self._complained.get(peer) != reason and not self._closing:
            self._complained[peer] = reason
            log.warning("raft.no_connection", peer=peer, reason=reason)
