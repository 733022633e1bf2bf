"""A local cluster: one OS process a node on this machine. `lastgood up` and `down`, the demo, chaos and tests use it.

Nothing here restarts a node by itself. Which nodes run is decided by the locks on their data folders, so that several
`LocalCluster` objects, in several processes, can look at one folder.
"""

from __future__ import annotations

import dataclasses
import fcntl
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from cluster.config import NodeConfig, Peer, config_to_toml, load_config
from cluster.datalock import holder
from cluster.localfiles import ClusterFile, LocalNode, read_cluster, write_atomically, write_cluster
from cluster.probe import leader_of, usable, wait_until

HOST: Final = "127.0.0.1"
NODES_MAX: Final = 9
# Below the kernel's range for outgoing connections, so that no client's port is in the way when a node comes back.
FREE_PORTS: Final = range(12_000, 24_000)
PROXY_PORTS: Final = range(24_000, 32_000)  # apart: a node binds its ports later than a proxy that was chosen after it
PER_NODE_ENV: Final = frozenset(
    f"LASTGOOD_{name}" for name in ("ID", "DATA", "CLUSTER_ID", "HTTP_LISTEN", "RAFT_LISTEN", "BULK_LISTEN", "PEERS")
)
NODE_COMMAND: Final = (sys.executable, "-m", "cluster.node_main")
STOP_GRACE_S: Final = 15.0
TAIL_BYTES: Final = 16_000
TAIL_LINES: Final = 5
TAIL_LINE: Final = 300

PeersOf = Callable[[str, Sequence[LocalNode]], Sequence[Peer]]


class LocalClusterError(Exception):
    """The cluster could not be started or found. The text says what to do."""


class OptionsDiffer(LocalClusterError):
    """The folder holds a cluster that was made with other options."""


class NotReady(LocalClusterError):
    """The nodes run, but no leader was known or a node did not answer in time."""


class LocalCluster:
    """The nodes of one folder. `env` goes to every process that this object starts; `command` is what runs a node."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        env: Mapping[str, str] | None = None,
        command: Sequence[str] = NODE_COMMAND,
    ) -> None:
        self.folder = Path(folder).absolute()
        self._env = dict(env or {})
        self._command = tuple(command)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        found = read_cluster(self.folder)
        if found is None:
            raise LocalClusterError(f"{self.folder} holds no cluster")
        self._file = found

    # ------------------------------------------------------------------ making

    @classmethod
    def create(
        cls,
        folder: str | os.PathLike[str],
        *,
        nodes: int = 3,
        http_port: int = 0,
        raft_port: int = 0,
        bulk_port: int = 0,
        settings: Mapping[str, Any] | None = None,
        env: Mapping[str, str] | None = None,
        peers_of: PeersOf | None = None,
        command: Sequence[str] = NODE_COMMAND,
    ) -> LocalCluster:
        """Writes the files of a new cluster; starts nothing. Ports are consecutive from those given; 0 = free ones.

        `peers_of(id, nodes)` gives the addresses that node `id` dials (proxies), else the nodes' own.
        Raises LocalClusterError if the folder holds a cluster or a port is taken, ConfigError on bad settings.
        """
        if not 1 <= nodes <= NODES_MAX:
            raise LocalClusterError(f"{nodes} nodes: a local cluster has 1 to {NODES_MAX}")
        root = Path(folder).absolute()
        root.mkdir(parents=True, exist_ok=True)
        with folder_lock(root):
            if read_cluster(root) is not None:
                raise LocalClusterError(f"{root} already holds a cluster")
            ports = choose_ports(nodes, (http_port, raft_port, bulk_port))
            rows = [_row(root, index, ports) for index in range(nodes)]
            cluster_id = f"local-{random.SystemRandom().getrandbits(48):012x}"
            for row in rows:
                _write_node(root, row, rows, cluster_id, dict(settings or {}), peers_of)
            write_cluster(root, ClusterFile(cluster_id, rows))
        return cls(root, env=env, command=command)

    def rewire(self, peers_of: PeersOf | None = None) -> None:
        """Changes the addresses that the nodes dial; counts from their next start. Without `peers_of`: their own."""
        for row in self._file.nodes:
            path = self.folder / row.id / "node.toml"
            config = load_config(str(path), {})
            own = [Peer(other.id, other.raft, other.bulk, other.http) for other in self._file.nodes]
            peers = tuple(peers_of(row.id, self._file.nodes) if peers_of is not None else own)
            write_atomically(path, config_to_toml(dataclasses.replace(config, peers=peers)))

    # ------------------------------------------------------------------ looking

    @property
    def cluster_id(self) -> str:
        return self._file.cluster_id

    @property
    def nodes(self) -> list[LocalNode]:
        """In order of id. `pid` is that of the last start; `pid_of` says what runs now."""
        return list(self._file.nodes)

    @property
    def ids(self) -> list[str]:
        return [node.id for node in self._file.nodes]

    @property
    def endpoints(self) -> list[str]:
        """URL of every node, in order of id, running or not."""
        return [node.http for node in self._file.nodes]

    def node(self, node_id: str) -> LocalNode:
        """Raises LocalClusterError for an id that is not there."""
        for node in self._file.nodes:
            if node.id == node_id:
                return node
        raise LocalClusterError(f"no node {node_id!r} in {self.folder}; there are {', '.join(self.ids)}")

    def pid_of(self, node_id: str) -> int | None:
        """Pid of the process that runs this node, None when none does. A child that was just started counts."""
        child = self._children.get(node_id)
        if child is not None and child.poll() is None:
            return child.pid
        return holder(self.node(node_id).data)

    def running(self) -> list[str]:
        return [node_id for node_id in self.ids if self.pid_of(node_id) is not None]

    def leader(self, *, timeout_s: float = 1.0) -> str | None:
        """Id of the leader that the nodes know of, None if none does."""
        return leader_of([self.node(node_id).http for node_id in self.running()], timeout_s=timeout_s)

    def log_tail(self, node_id: str) -> str:
        """The last lines of a node's log, each cut to a readable length, for people."""
        try:
            with open(self.folder / node_id / "node.log", "rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - TAIL_BYTES))
                lines = file.read().decode("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return ""
        return "\n".join(line if len(line) <= TAIL_LINE else f"{line[:TAIL_LINE]} …" for line in lines[-TAIL_LINES:])

    # ------------------------------------------------------------------ starting

    def start(self, node_ids: Sequence[str] | None = None) -> list[str]:
        """Starts those that are not running; returns their ids. Does not wait for readiness."""
        with folder_lock(self.folder):
            started = [node_id for node_id in node_ids or self.ids if self.pid_of(node_id) is None]
            for node_id in started:
                self._children[node_id] = self._spawn(node_id)
            self._note_pids()
        return started

    def wait_ready(self, *, timeout_s: float = 60.0, node_ids: Sequence[str] | None = None) -> None:
        """Until a leader is known and each node is ready or installs. Raises LocalClusterError when one has ended,
        NotReady when the time is over."""
        wanted = list(node_ids or self.ids)
        waiting = list(wanted)

        def check() -> bool:
            for node_id in wanted:
                self._raise_if_ended(node_id)
            while waiting and usable(self.node(waiting[0]).http):
                waiting.pop(0)
            return not waiting and leader_of([self.node(node_id).http for node_id in wanted]) is not None

        if not wait_until(check, timeout_s=timeout_s, clock=time.monotonic, sleep=time.sleep):
            who = f"not ready: {', '.join(waiting)}" if waiting else "no leader is known"
            raise NotReady(f"{who}; see {self.folder}/<id>/node.log")

    def _spawn(self, node_id: str) -> subprocess.Popen[bytes]:
        environ = {key: value for key, value in {**os.environ, **self._env}.items() if key not in PER_NODE_ENV}
        folder = self.folder / node_id
        log = os.open(folder / "node.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            # Its own session: Ctrl-C at a terminal reaches `up` only, which then stops the nodes in order.
            return subprocess.Popen(
                [*self._command, "--config", str(folder / "node.toml")],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
                close_fds=True,
                start_new_session=True,
            )
        finally:
            os.close(log)

    def _raise_if_ended(self, node_id: str) -> None:
        # A node that ended here may have been started again by somebody else: only the lock says.
        if self.pid_of(node_id) is None:
            child = self._children.get(node_id)
            status = f"with status {child.returncode}" if child is not None else "already"
            raise LocalClusterError(f"node {node_id} has ended {status}:\n{self.log_tail(node_id).rstrip()}")

    def _note_pids(self) -> None:
        rows = [
            LocalNode(row.id, self.pid_of(row.id) or row.pid, row.http, row.raft, row.bulk, row.data)
            for row in self._file.nodes
        ]
        if rows != self._file.nodes:
            self._file = ClusterFile(self._file.cluster_id, rows)
            write_cluster(self.folder, self._file)

    # ------------------------------------------------------------------ stopping and hurting

    def stop(self, node_ids: Sequence[str] | None = None, *, grace_s: float = STOP_GRACE_S) -> list[str]:
        """SIGTERM, and SIGKILL for those that are still there after `grace_s`; returns when all are gone.
        Returns the ids that had to be killed."""
        with folder_lock(self.folder):
            wanted = [node_id for node_id in node_ids or self.ids if self.pid_of(node_id) is not None]
            for node_id in wanted:
                self.signal(node_id, signal.SIGTERM)
                self.signal(node_id, signal.SIGCONT)  # a paused process would keep the SIGTERM for later

            def gone() -> bool:
                return all(self.pid_of(node_id) is None for node_id in wanted)

            wait_until(gone, timeout_s=grace_s, clock=time.monotonic, sleep=time.sleep)
            killed = [node_id for node_id in wanted if self.pid_of(node_id) is not None]
            for node_id in killed:
                self.kill(node_id)
        for node_id in node_ids or self.ids:
            self.reap(node_id)
        return killed

    def kill(self, node_id: str) -> None:
        """SIGKILL; returns when the process is gone."""
        self.signal(node_id, signal.SIGKILL)
        wait_until(lambda: self.pid_of(node_id) is None, timeout_s=STOP_GRACE_S, clock=time.monotonic, sleep=time.sleep)
        self.reap(node_id)

    def pause(self, node_id: str) -> None:
        self.signal(node_id, signal.SIGSTOP)

    def resume(self, node_id: str) -> None:
        self.signal(node_id, signal.SIGCONT)

    def restart(self, node_id: str) -> None:
        """Starts a node that was killed or stopped; does not wait for readiness."""
        self.start([node_id])

    def signal(self, node_id: str, number: int) -> None:
        """Sends a signal to the node's process; nothing happens when none runs."""
        pid = self.pid_of(node_id)
        # A holder in another pid namespace shows as 0, which kill() would take for our own process group.
        if pid is not None and pid > 0:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def reap(self, node_id: str) -> None:
        """Waits for the end of a process that this object started and that somebody has stopped."""
        child = self._children.pop(node_id, None)
        if child is not None:
            child.wait(timeout=STOP_GRACE_S)


@contextmanager
def folder_lock(root: Path) -> Iterator[None]:
    """One start or stop at a time for each folder; waits for its turn."""
    fd = os.open(root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def choose_ports(nodes: int, first: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """Ports for HTTP, Raft and bulk of each node: consecutive from `first`, free ones where that is 0.
    Raises LocalClusterError if a port is taken or two listeners would share one."""
    rows: list[list[int]] = []
    free = free_ports(nodes * first.count(0))
    for start in first:
        if start and start + nodes > 65_536:
            raise LocalClusterError(f"{nodes} ports from {start} on: the last port is 65535")
        rows.append(list(range(start, start + nodes)) if start else [free.pop() for _ in range(nodes)])
    every = [port for row in rows for port in row]
    if len(set(every)) != len(every):
        raise LocalClusterError(f"the ports of HTTP, Raft and bulk overlap: {rows[0]}, {rows[1]}, {rows[2]}")
    for port in every:
        if not _is_free(port):
            raise LocalClusterError(
                f"port {port} on {HOST} is in use; give others by --http-port, --raft-port, --bulk-port"
            )
    return list(zip(*rows, strict=True))


def free_ports(count: int, among: range = FREE_PORTS) -> list[int]:
    """Ports on which nobody listens at this moment, drawn at random so that several callers rarely meet."""
    chance = random.SystemRandom()
    found: list[int] = []
    for port in chance.sample(among, 2_000):
        if len(found) == count:
            return found
        if _is_free(port):
            found.append(port)
    raise LocalClusterError(f"no {count} free ports between {among.start} and {among.stop}")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def _row(root: Path, index: int, ports: list[tuple[int, int, int]]) -> LocalNode:
    node_id = f"n{index + 1}"
    http, raft, bulk = ports[index]
    data = root / node_id / "data"
    return LocalNode(node_id, None, f"http://{HOST}:{http}", f"{HOST}:{raft}", f"{HOST}:{bulk}", str(data))


def _write_node(
    root: Path,
    row: LocalNode,
    rows: Sequence[LocalNode],
    cluster_id: str,
    settings: dict[str, Any],
    peers_of: PeersOf | None,
) -> None:
    own = [Peer(other.id, other.raft, other.bulk, other.http) for other in rows]
    config = NodeConfig(
        id=row.id,
        cluster_id=cluster_id,
        data=row.data,
        http_listen=row.http.removeprefix("http://"),
        raft_listen=row.raft,
        bulk_listen=row.bulk,
        peers=tuple(peers_of(row.id, rows) if peers_of is not None else own),
        **settings,
    )
    Path(row.data).mkdir(parents=True, exist_ok=True)
    write_atomically(root / row.id / "node.toml", config_to_toml(config))
