"""Configuration of one node: one frozen value, read from TOML and `LASTGOOD_<NAME>`, checked as a whole.

Relations between fields are checked here, before anything opens. Times in milliseconds, sizes in bytes.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

MIB: Final = 1 << 20
ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z")
PLANTS: Final = ("no_barrier", "stale_read", "retry_twice", "truncate_on_match")


class ConfigError(Exception):
    """The configuration can't be used. The text names the field, the value and what would be right."""


@dataclass(frozen=True)
class Peer:
    """Where this node reaches another one: `raft` and `bulk` as host:port, `http` as a URL."""

    id: str
    raft: str
    bulk: str
    http: str


@dataclass(frozen=True)
class NodeConfig:
    """Everything that one node is told. `peers` may name the node itself: those are then its advertised addresses."""

    id: str
    data: str
    cluster_id: str = "lastgood"
    http_listen: str = "127.0.0.1:7801"
    raft_listen: str = "127.0.0.1:7811"
    bulk_listen: str = "127.0.0.1:7821"
    peers: tuple[Peer, ...] = ()
    token_file: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None
    tls_ca: str | None = None
    insecure: bool = False
    allowed_hosts: tuple[str, ...] = ()
    env: str = "dev"
    cluster: str = "local"
    log_level: str = "info"
    # sizes
    journal_bytes_max: int = 64 * MIB
    segment_bytes: int = 64 * MIB
    checkpoint_bytes: int = 16 * MIB  # a checkpoint is due when the journal has grown by this since the last one
    checkpoint_interval_ms: int = 30_000  # or when something changed and this much time has passed
    ballast_bytes: int = 32 * MIB
    heap_step_bytes: int = 16 * MIB
    transfer_bytes_per_s_max: int = 0  # 0 = no limit
    transfer_frame_bytes: int = 256 * 1024
    # replicated limits: they count when the cluster is made, and come from the log afterwards
    undo_bytes_total: int = 256 * MIB
    undo_records_max: int = 65_536
    events_kept: int = 10_000
    # batching
    batch_bytes_max: int = MIB
    batch_operations_max: int = 1024
    batches_in_flight_max: int = 2
    queue_bytes_max: int = 64 * MIB
    queue_operations_max: int = 65_536
    # consensus
    heartbeat_ms: int = 50
    election_ms_min: int = 400
    election_ms_max: int = 800
    leader_fallback_ms: int = 1400
    request_timeout_ms: int = 10_000
    plant: str | None = None  # a planted bug, so that the fault suite can show that it finds it

    def __post_init__(self) -> None:
        _check_names(self)
        _check_sizes(self)
        _check_security(self)

    @property
    def others(self) -> tuple[Peer, ...]:
        """The peers without this node."""
        return tuple(peer for peer in self.peers if peer.id != self.id)

    @property
    def advertised(self) -> Peer:
        """The addresses under which others see this node, as far as it was told; else where it listens."""
        for peer in self.peers:
            if peer.id == self.id:
                return peer
        return Peer(self.id, self.raft_listen, self.bulk_listen, f"http://{self.http_listen}")

    def journal_segment_bytes(self) -> int:
        """At most a quarter of the journal, so that compaction by whole segments keeps the bound."""
        return max(64 * 1024, min(self.segment_bytes, self.journal_bytes_max // 4))


def split_address(text: str, *, name: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port` as a pair. Raises ConfigError that names the field."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535 or not host:
        raise ConfigError(f"{name}: {text!r} is not host:port")
    return host.strip("[]"), int(port)


def is_loopback(host: str) -> bool:
    """True for `localhost` and loopback addresses; a name that would have to be looked up is not one."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_names(config: NodeConfig) -> None:
    for name in ("id", "cluster_id"):
        value = getattr(config, name)
        if not ID.match(value):
            raise ConfigError(f"{name}: {value!r} is not [A-Za-z0-9][A-Za-z0-9._-]{{0,63}}")
    ids = [peer.id for peer in config.peers]
    if len(set(ids)) != len(ids):
        raise ConfigError(f"peers: an id is there twice in {ids}")
    for peer in config.peers:
        if not ID.match(peer.id):
            raise ConfigError(f"peers: {peer.id!r} is not an id")
        split_address(peer.raft, name=f"peers.{peer.id}.raft")
        split_address(peer.bulk, name=f"peers.{peer.id}.bulk")
        if not peer.http.startswith(("http://", "https://")):
            raise ConfigError(f"peers.{peer.id}.http: {peer.http!r} is not a URL")
    if config.log_level not in ("debug", "info", "warning", "error"):
        raise ConfigError(f"log_level: {config.log_level!r} is none of debug, info, warning, error")
    if config.plant is not None and config.plant not in PLANTS:
        raise ConfigError(f"plant: {config.plant!r} is none of {', '.join(PLANTS)}")


def _check_sizes(config: NodeConfig) -> None:
    for name, least in (
        ("journal_bytes_max", 256 * 1024),
        ("segment_bytes", 64 * 1024),
        ("checkpoint_bytes", 64 * 1024),
        ("checkpoint_interval_ms", 100),
        ("ballast_bytes", 0),
        ("heap_step_bytes", 64 * 1024),
        ("transfer_bytes_per_s_max", 0),
        ("transfer_frame_bytes", 4096),
        ("undo_bytes_total", 0),
        ("undo_records_max", 1),
        ("events_kept", 1),
        ("batch_bytes_max", 1024),
        ("batch_operations_max", 1),
        ("batches_in_flight_max", 1),
        ("queue_bytes_max", MIB),
        ("queue_operations_max", 1),
        ("heartbeat_ms", 5),
        ("request_timeout_ms", 100),
    ):
        if getattr(config, name) < least:
            raise ConfigError(f"{name}: {getattr(config, name)} is less than {least}")
    if config.batch_bytes_max > MIB or config.batch_operations_max > 4096:
        raise ConfigError("batch_bytes_max is at most 1 MiB and batch_operations_max at most 4096")
    if not 3 * config.heartbeat_ms < config.election_ms_min < config.election_ms_max:
        raise ConfigError(
            f"need 3 * heartbeat_ms < election_ms_min < election_ms_max, have {config.heartbeat_ms}, "
            f"{config.election_ms_min}, {config.election_ms_max}"
        )


def _check_security(config: NodeConfig) -> None:
    for name in ("http_listen", "raft_listen", "bulk_listen"):
        host, _ = split_address(getattr(config, name), name=name)
        if not is_loopback(host) and not config.insecure:
            raise ConfigError(
                f"{name}: {host} is reachable from other machines, and tokens and certificates are not supported yet; "
                "set insecure = true if everybody on that network may read and write"
            )
    for name in ("token_file", "tls_cert", "tls_key", "tls_ca"):
        if getattr(config, name):
            raise ConfigError(f"{name}: not supported yet; a file that is named but not used would be a false promise")


def load_config(path: str | None, environ: Mapping[str, str], overrides: Mapping[str, Any] | None = None) -> NodeConfig:
    """Reads TOML at `path`, then `LASTGOOD_<NAME>`, then `overrides`; the later wins. Raises ConfigError."""
    values: dict[str, Any] = {}
    if path is not None:
        try:
            with open(path, "rb") as file:
                values.update(tomllib.load(file))
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}") from error
        except tomllib.TOMLDecodeError as error:
            raise ConfigError(f"{path}: {error}") from error
    fields = {item.name: item for item in dataclasses.fields(NodeConfig)}
    for name, item in fields.items():
        text = environ.get(f"LASTGOOD_{name.upper()}")
        if text is not None and name != "peers":
            values[name] = _from_text(name, str(item.type), text)
    values.update(overrides or {})
    unknown = sorted(set(values) - set(fields))
    if unknown:
        raise ConfigError(f"unknown setting {', '.join(unknown)}; known are {', '.join(sorted(fields))}")
    missing = [name for name in ("id", "data") if name not in values]
    if missing:
        raise ConfigError(f"{' and '.join(missing)} must be given")
    return NodeConfig(**{name: _typed(name, str(fields[name].type), value) for name, value in values.items()})


def _from_text(name: str, kind: str, text: str) -> Any:
    if kind.startswith("int"):
        if not re.fullmatch(r"-?[0-9]+", text):
            raise ConfigError(f"LASTGOOD_{name.upper()}: {text!r} is not a whole number")
        return int(text)
    if kind.startswith("bool"):
        if text.lower() not in ("0", "1", "true", "false"):
            raise ConfigError(f"LASTGOOD_{name.upper()}: {text!r} is none of 0, 1, true, false")
        return text.lower() in ("1", "true")
    if kind.startswith("tuple"):
        return [part for part in text.split(",") if part]
    return text


def _typed(name: str, kind: str, value: Any) -> Any:
    if name == "peers":
        try:
            return tuple(peer if isinstance(peer, Peer) else Peer(**peer) for peer in value)
        except TypeError as error:
            raise ConfigError(f"peers: each needs id, raft, bulk and http ({error})") from error
    if kind.startswith("tuple"):
        return tuple(value)
    wanted = {"int": int, "bool": bool, "str": str}[kind.split(" ")[0]]
    if value is None and "None" in kind:
        return None
    if not isinstance(value, wanted) or (wanted is int and isinstance(value, bool)):
        raise ConfigError(f"{name}: {value!r} is not {'a whole number' if wanted is int else 'a ' + wanted.__name__}")
    return value


def config_to_toml(config: NodeConfig, **changed: Any) -> str:
    """TOML that `load_config` reads back; only what differs from the defaults, plus `changed`."""
    values = {item.name: getattr(config, item.name) for item in field_values(config)}
    values.update(changed)
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if name != "peers" and value is not None]
    for peer in values["peers"]:
        lines += ["", "[[peers]]"] + [f"{key} = {_toml(value)}" for key, value in dataclasses.asdict(peer).items()]
    return "\n".join(lines) + "\n"


def field_values(config: NodeConfig) -> list[dataclasses.Field[Any]]:
    """Fields of `config` that differ from their default, and those that have none."""
    return [
        item
        for item in dataclasses.fields(config)
        if item.default is dataclasses.MISSING or getattr(config, item.name) != item.default or item.name == "peers"
    ]


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return '"' + str(value).replace("\\", "\\\\").replace('"', '\\"') + '"'
