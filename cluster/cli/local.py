"""`lastgood up` and `lastgood down`: a local cluster, one OS process a node."""

from __future__ import annotations

import json
import signal
import threading
import time
from pathlib import Path
from types import FrameType

import click

from cluster.config import ConfigError
from cluster.local import LocalCluster, LocalClusterError, NotReady, OptionsDiffer
from cluster.localfiles import BadClusterFile, note_last, read_cluster, state_folder

READY_TIMEOUT_S = 60.0
HELP = {"help_option_names": ["-h", "--help"]}
HTTP_PORT, RAFT_PORT, BULK_PORT, NODES = 7801, 7811, 7821, 3

UP_EXAMPLE = """
\b
Example:
  lastgood up --detach
  lastgood status
  lastgood down
"""


@click.command("up", epilog=UP_EXAMPLE, context_settings=HELP)
@click.option("--nodes", type=click.IntRange(1, 9), default=None, help=f"How many nodes.  [default: {NODES}]")
@click.option(
    "--data", "folder", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder of the cluster."
)
@click.option(
    "--http-port", type=click.IntRange(1, 65535), default=None, help=f"First HTTP port.  [default: {HTTP_PORT}]"
)
@click.option(
    "--raft-port", type=click.IntRange(1, 65535), default=None, help=f"First Raft port.  [default: {RAFT_PORT}]"
)
@click.option(
    "--bulk-port", type=click.IntRange(1, 65535), default=None, help=f"First bulk port.  [default: {BULK_PORT}]"
)
@click.option("--detach", is_flag=True, help="Return when the cluster is ready; the nodes go on.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def up(
    nodes: int | None,
    folder: Path | None,
    http_port: int | None,
    raft_port: int | None,
    bulk_port: int | None,
    detach: bool,
    as_json: bool,
) -> None:
    """Start a local cluster, or the nodes of it that are not running.

    Prints `ready URL,URL,URL` when a leader is known and every node is ready. Without --detach it then stays, and
    stops the nodes on Ctrl-C. LASTGOOD_* settings are passed on to the nodes.
    """
    root = (folder or state_folder()).absolute()
    stopper = _Stopper() if not detach else None
    try:
        cluster = _open_or_create(root, nodes, (http_port, raft_port, bulk_port))
    except OptionsDiffer as error:
        raise _Usage(str(error)) from None
    except (LocalClusterError, BadClusterFile, ConfigError, OSError) as error:
        raise _Refused(str(error)) from None
    started = cluster.start()
    try:
        note_last(cluster.folder)
        _wait(cluster, stopper)
    except NotReady as error:
        raise _NoAnswer(str(error)) from None
    except LocalClusterError as error:
        cluster.stop(started)
        raise _Refused(str(error)) from None
    _say_ready(cluster, as_json)
    if stopper is not None:
        _stay(cluster, stopper)


@click.command("down", epilog="\b\nExample:\n  lastgood down --data /tmp/try", context_settings=HELP)
@click.option(
    "--data", "folder", type=click.Path(file_okay=False, path_type=Path), default=None, help="Folder of the cluster."
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def down(folder: Path | None, as_json: bool) -> None:
    """Stop the local cluster of a folder; returns when all its nodes are gone. Its data stays."""
    root = (folder or state_folder()).absolute()
    try:
        cluster = LocalCluster(root)
        running = cluster.running()
        killed = cluster.stop()
    except (LocalClusterError, BadClusterFile, OSError) as error:
        raise _Refused(str(error)) from None
    if as_json:
        click.echo(json.dumps({"stopped": running, "killed": killed}))
    elif not running:
        click.echo("nothing was running")
    else:
        click.echo(f"stopped {', '.join(running)}" + (f" (had to kill {', '.join(killed)})" if killed else ""))


class _Refused(click.ClickException):
    """Ends the command with a line on stderr."""

    exit_code = 1


class _Usage(_Refused):
    exit_code = 2


class _NoAnswer(_Refused):
    exit_code = 3


class _Stopper:
    """Turns Ctrl-C, SIGTERM and a closed terminal into an event, so that they never interrupt a start half way."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self.asked.set()


def _open_or_create(root: Path, nodes: int | None, ports: tuple[int | None, int | None, int | None]) -> LocalCluster:
    if read_cluster(root) is None:
        http, raft, bulk = (
            given or usual for given, usual in zip(ports, (HTTP_PORT, RAFT_PORT, BULK_PORT), strict=True)
        )
        return LocalCluster.create(root, nodes=nodes or NODES, http_port=http, raft_port=raft, bulk_port=bulk)
    cluster = LocalCluster(root)
    first = cluster.nodes[0]
    have = {
        "--nodes": len(cluster.nodes),
        "--http-port": int(first.http.rpartition(":")[2]),
        "--raft-port": int(first.raft.rpartition(":")[2]),
        "--bulk-port": int(first.bulk.rpartition(":")[2]),
    }
    for (option, value), given in zip(have.items(), (nodes, *ports), strict=True):
        if given is not None and given != value:
            raise OptionsDiffer(f"{root} holds a cluster with {option} {value}, not {given}; use another --data")
    return cluster


def _wait(cluster: LocalCluster, stopper: _Stopper | None) -> None:
    """Waits for readiness in slices, so that Ctrl-C during the start stops the nodes at once."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while True:
        try:
            cluster.wait_ready(timeout_s=0.5)
            return
        except NotReady as late:
            if stopper is not None and stopper.asked.is_set():
                cluster.stop()
                raise click.Abort from None
            if time.monotonic() > deadline:
                raise NotReady(f"after {READY_TIMEOUT_S:g} s {late}") from None


def _say_ready(cluster: LocalCluster, as_json: bool) -> None:
    if as_json:
        rows = [
            {"id": node.id, "pid": node.pid, "http": node.http, "raft": node.raft, "bulk": node.bulk, "data": node.data}
            for node in cluster.nodes
        ]
        click.echo(json.dumps({"ready": cluster.endpoints, "folder": str(cluster.folder), "nodes": rows}))
    else:
        click.echo(f"ready {','.join(cluster.endpoints)}")


def _stay(cluster: LocalCluster, stopper: _Stopper) -> None:
    """Until Ctrl-C, or until every node has ended (`lastgood down` from elsewhere). Restarts nothing."""
    running = cluster.running()
    while running and not stopper.asked.wait(0.5):
        for node_id in [node_id for node_id in running if cluster.pid_of(node_id) is None]:
            running.remove(node_id)
            click.echo(f"node {node_id} has ended; `lastgood up` starts it again", err=True)
    cluster.stop()
