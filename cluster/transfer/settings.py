"""What incoming transfers are told: times, sizes, whom to ask."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import msgspec

from cluster.transfer.limiter import Bucket
from cluster.transfer.protocol import WINDOW_BYTES


class TransferSettings(msgspec.Struct, frozen=True):
    """Times in milliseconds, sizes in bytes."""

    silence_ms: int = 500  # no byte for so long: drop and dial again; also the longest attempt to connect
    window_bytes: int = WINDOW_BYTES
    sync_bytes: int = 32 << 20  # what is verified becomes durable when it is so much …
    sync_ms: int = 30  # … or that old
    packed_below_bytes_per_s: int = 60_000_000  # a link slower than this gets LZ4


class PeerAddress(msgspec.Struct, frozen=True):
    """A node to pull from: its id and its bulk address."""

    id: str
    host: str
    port: int


class Link(msgspec.Struct, frozen=True):
    """What all incoming transfers of a node share. `now`: monotonic seconds."""

    cluster_id: str
    node: str
    bucket: Bucket
    now: Callable[[], float]
    settings: TransferSettings = TransferSettings()
    tls: ssl.SSLContext | None = None
