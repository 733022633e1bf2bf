"""Who a data folder is: cluster, node and incarnation, made at the first start and never changed afterwards."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import Final
from zlib import crc32

import msgspec

from wal.checks import Corrupt
from wal.disk import Disk

NAME: Final = "identity"
INCARNATION_BYTES: Final = 16


class WrongFolder(Exception):
    """The folder belongs to another node or cluster; the text names both."""


@dataclass(frozen=True)
class Identity:
    """`incarnation` is drawn when the folder is made: a new disk under an old id has another one."""

    cluster_id: str
    node_id: str
    incarnation: str


def load_or_create(disk: Disk, folder: str, *, cluster_id: str, node_id: str) -> Identity:
    """The identity in `folder`, made durable first if it is new. Raises WrongFolder or Corrupt."""
    path = posixpath.join(folder, NAME)
    disk.makedirs(folder)
    try:
        file = disk.open(path)
    except FileNotFoundError:
        return _create(disk, folder, path, Identity(cluster_id, node_id, disk.entropy(INCARNATION_BYTES).hex()))
    try:
        raw = file.pread(file.size(), 0)
    finally:
        file.close()
    found = _parse(path, raw)
    if (found.cluster_id, found.node_id) != (cluster_id, node_id):
        raise WrongFolder(
            f"{folder} belongs to node {found.node_id} of cluster {found.cluster_id}, "
            f"this is node {node_id} of cluster {cluster_id}"
        )
    return found


def _create(disk: Disk, folder: str, path: str, identity: Identity) -> Identity:
    body = msgspec.json.encode(identity)
    staged = path + ".new"
    file = disk.open(staged, create=True)
    try:
        file.truncate(0)
        file.pwrite(body + b"\n%08x\n" % crc32(body), 0)
        file.fdatasync()
    finally:
        file.close()
    disk.rename(staged, path)
    disk.fsync_dir(folder)
    return identity


def _parse(path: str, raw: bytes) -> Identity:
    body, _, rest = raw.partition(b"\n")
    expected = b"%08x" % crc32(body)
    if rest.strip() != expected:
        raise Corrupt(path, len(body) + 1, expected.decode(), rest.strip().decode(errors="replace"))
    try:
        return msgspec.json.decode(body, type=Identity)
    except msgspec.MsgspecError as error:
        raise Corrupt(path, 0, "an identity", str(error)) from error
