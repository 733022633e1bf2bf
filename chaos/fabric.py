"""The network between the nodes of a local cluster, in a proxy process of its own, as tests and scenarios handle it.

    fabric = Fabric()
    cluster = LocalCluster.create(folder, peers_of=fabric.peers_of)
    fabric.start()
    fabric.isolate("n1")
    fabric.heal()

Clients stand outside: they talk to the nodes' own HTTP ports and are never cut off.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from typing import Any

from cluster.config import Peer
from cluster.local import HOST, PROXY_PORTS, free_ports
from cluster.localfiles import LocalNode

LISTENERS = ("raft", "bulk", "http")


class FabricError(Exception):
    """The proxy process refused a request or is gone."""


def bound_socket() -> socket.socket:
    """Bound to a port that nobody else uses, but not listening.

    A port that the kernel chose would be given back as soon as a link stops to listen; one that was asked for stays.
    """
    while True:
        sock = socket.socket()
        try:
            sock.bind((HOST, free_ports(1, PROXY_PORTS)[0]))
        except OSError:
            sock.close()
            continue
        return sock


class Fabric:
    """Every directed pair of nodes and every listener has a proxy; rules are set by pair, listener and direction."""

    def __init__(self) -> None:
        self._links: list[dict[str, Any]] = []
        self._nodes: list[str] = []
        self._sockets: list[socket.socket] = []  # hold the ports until the proxy process has them
        self._process: subprocess.Popen[str] | None = None
        self._turn = threading.Lock()

    # ------------------------------------------------------------------ set-up

    def peers_of(self, node_id: str, nodes: Sequence[LocalNode]) -> list[Peer]:
        """For LocalCluster.create: what `node_id` is to dial, proxies for the others and its own for itself."""
        self._nodes = [node.id for node in nodes]
        peers = []
        for node in nodes:
            if node.id == node_id:
                peers.append(Peer(node.id, node.raft, node.bulk, node.http))
                continue
            raft, bulk, http = (self._link(node_id, node, listener) for listener in LISTENERS)
            peers.append(Peer(node.id, raft, bulk, f"http://{http}"))
        return peers

    def _link(self, dialer: str, node: LocalNode, listener: str) -> str:
        target = {"raft": node.raft, "bulk": node.bulk, "http": node.http.removeprefix("http://")}[listener]
        host, _, target_port = target.rpartition(":")
        sock = bound_socket()
        self._sockets.append(sock)
        self._links.append(
            {
                "dialer": dialer,
                "target": node.id,
                "listener": listener,
                "fd": sock.fileno(),
                "address": [host, int(target_port)],
            }
        )
        return f"{HOST}:{sock.getsockname()[1]}"

    def start(self) -> None:
        """Starts the proxy process, which inherits the ports."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "chaos.proxy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
            pass_fds=[sock.fileno() for sock in self._sockets],
        )
        self._release()
        self._ask({"links": self._links})

    def close(self) -> None:
        """Ends the proxy process; connections through it break."""
        self._release()
        process, self._process = self._process, None
        if process is not None and process.stdin is not None and process.stdout is not None:
            process.stdin.close()
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            process.stdout.close()

    def _release(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()

    def __enter__(self) -> Fabric:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ rules

    def cut(self, src: str, dst: str, *, listeners: Iterable[str] = LISTENERS) -> None:
        """Silence from `src` to `dst`; the other direction goes on."""
        self._rules([(src, dst)], listeners, cut=True)

    def isolate(self, node_id: str, *, listeners: Iterable[str] = LISTENERS) -> None:
        """Silence between this node and all others, both ways."""
        self.partition([node_id], [other for other in self._nodes if other != node_id], listeners=listeners)

    def partition(self, group: Iterable[str], rest: Iterable[str], *, listeners: Iterable[str] = LISTENERS) -> None:
        """Silence between two groups, both ways; inside each group all is well."""
        rest = list(rest)
        pairs = [(one, other) for one in group for other in rest]
        self._rules(pairs + [(other, one) for one, other in pairs], listeners, cut=True)

    def heal(self) -> None:
        """Ends every cut and every promised one; delays and rates stay. What was held arrives now."""
        self._rules(self._pairs(), LISTENERS, cut=False, cut_after=None)

    def shape(
        self, src: str, dst: str, *, delay_ms: float = 0, rate: int = 0, listeners: Iterable[str] = LISTENERS
    ) -> None:
        """Delay and bytes/s from `src` to `dst`; 0 = none."""
        self._rules([(src, dst)], listeners, delay_ms=delay_ms, rate=rate)

    def cut_after(self, src: str, dst: str, listener: str, count: int) -> None:
        """Cuts the pair, both ways on this listener, when exactly `count` more bytes have gone from `src` to `dst`."""
        self._rules([(src, dst)], [listener], cut_after=count)

    def clear(self) -> None:
        """No rule is left."""
        self._rules(self._pairs(), LISTENERS, cut=False, cut_after=None, delay_ms=0, rate=0)

    def reset(self, one: str, other: str, *, listeners: Iterable[str] = LISTENERS) -> None:
        """RST on every connection between the two, whoever dialled."""
        links = [[a, b, listener] for a, b in ((one, other), (other, one)) for listener in listeners]
        self._ask({"reset": links})

    # ------------------------------------------------------------------ counts

    def sent(self, src: str, dst: str, listener: str) -> int:
        """Bytes that have gone from `src` to `dst` on this listener since the start."""
        return int(self._flow(src, dst, listener)[3])

    def tripped(self, src: str, dst: str, listener: str) -> int:
        """How often `cut_after` has cut this flow."""
        return int(self._flow(src, dst, listener)[4])

    def _flow(self, src: str, dst: str, listener: str) -> list[Any]:
        for row in self._ask({"flows": True})["flows"]:
            if row[:3] == [src, dst, listener]:
                return list(row)
        raise FabricError(f"no flow {src} -> {dst} {listener}")

    def _pairs(self) -> list[tuple[str, str]]:
        return [(src, dst) for src in self._nodes for dst in self._nodes if src != dst]

    def _rules(self, pairs: Iterable[tuple[str, str]], listeners: Iterable[str], **rule: Any) -> None:
        kinds = list(listeners)
        self._ask(
            {"rules": [{"src": src, "dst": dst, "listener": kind, **rule} for src, dst in pairs for kind in kinds]}
        )

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        with self._turn:
            process = self._process
            if process is None or process.stdin is None or process.stdout is None:
                raise FabricError("the proxy process does not run")
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        answer = json.loads(line) if line else {"error": "the proxy process has ended"}
        if "error" in answer:
            raise FabricError(answer["error"])
        return dict(answer)
