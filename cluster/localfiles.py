"""The files of a local cluster: `cluster.json`, one `node.toml` a node, and the note of which cluster started last.

DIR/cluster.json      which nodes there are and where; written atomically
DIR/<id>/node.toml    what `lastgood node --config` reads
DIR/<id>/node.log     stdout and stderr of the node
DIR/<id>/data/        the node's data folder, with its lock
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Final

import msgspec

CLUSTER_FILE: Final = "cluster.json"
LAST_FILE: Final = "last"
FORMAT: Final = 1


class LocalNode(msgspec.Struct, frozen=True):
    """One node of a local cluster. `http` is a URL, `raft` and `bulk` are `host:port`, `data` an absolute folder."""

    id: str
    pid: int | None
    http: str
    raft: str
    bulk: str
    data: str


class ClusterFile(msgspec.Struct, frozen=True):
    """What `cluster.json` holds; `nodes` in order of id. Holds no secrets."""

    cluster_id: str
    nodes: list[LocalNode]
    format: int = FORMAT


class BadClusterFile(Exception):
    """`cluster.json` is there but can't be understood."""


def state_folder() -> Path:
    """Default `DIR`: `${XDG_STATE_HOME:-~/.local/state}/lastgood`."""
    base = os.environ.get("XDG_STATE_HOME") or ""
    # The XDG specification says to ignore relative paths.
    root = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return root / "lastgood"


def write_atomically(path: Path, text: str) -> None:
    """Stage, fsync, rename, fsync the folder: readers see the old file or the new one, after a power cut too."""
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(staged, path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def write_cluster(folder: Path, cluster: ClusterFile) -> None:
    write_atomically(folder / CLUSTER_FILE, json.dumps(msgspec.to_builtins(cluster), indent=2) + "\n")


def read_cluster(folder: Path) -> ClusterFile | None:
    """The cluster of that folder, None if it holds none. Raises BadClusterFile."""
    path = folder / CLUSTER_FILE
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        cluster = msgspec.json.decode(raw, type=ClusterFile)
    except msgspec.DecodeError as error:
        raise BadClusterFile(f"{path}: {error}") from None
    if cluster.format != FORMAT or not cluster.nodes:
        raise BadClusterFile(
            f"{path}: format {cluster.format} with {len(cluster.nodes)} nodes, known is format {FORMAT}"
        )
    return cluster


def note_last(folder: Path) -> None:
    """Remembers the folder as that of the cluster that `lastgood up` started last."""
    state = state_folder()
    state.mkdir(parents=True, exist_ok=True)
    write_atomically(state / LAST_FILE, f"{folder}\n")


def last_cluster() -> ClusterFile | None:
    """The cluster that `lastgood up` started last, whether it runs or not; None when nothing usable is noted."""
    try:
        folder = Path((state_folder() / LAST_FILE).read_text(encoding="utf-8").strip())
    except FileNotFoundError:
        return None
    try:
        return read_cluster(folder)
    except BadClusterFile:
        return None


def last_endpoints() -> list[str]:
    """URLs of the cluster that `lastgood up` started last; empty when there is none."""
    cluster = last_cluster()
    return [node.http for node in cluster.nodes] if cluster is not None else []
