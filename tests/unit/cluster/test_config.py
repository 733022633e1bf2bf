"""A node's configuration: what is refused, what wins, and that a written file reads back the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from cluster.config import ConfigError, NodeConfig, Peer, config_to_toml, load_config

PEER = {"id": "n2", "raft": "127.0.0.1:1", "bulk": "127.0.0.1:2", "http": "http://127.0.0.1:3"}


def test_file_then_environment_then_arguments(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text('id = "n1"\ndata = "/d"\njournal_bytes_max = 1000000\nlog_level = "warning"\n')
    environ = {"LASTGOOD_JOURNAL_BYTES_MAX": "2000000", "LASTGOOD_INSECURE": "true"}
    config = load_config(str(path), environ, {"log_level": "error"})
    assert (config.journal_bytes_max, config.log_level, config.insecure) == (2_000_000, "error", True)


def test_round_trip(tmp_path: Path) -> None:
    config = NodeConfig(
        id="n1", data='/a "quoted" folder', peers=(Peer(**PEER),), allowed_hosts=("a", "b"), insecure=True
    )
    path = tmp_path / "node.toml"
    path.write_text(config_to_toml(config))
    assert load_config(str(path), {}) == config


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"id": "no/slash"}, "id"),
        ({"http_listen": "127.0.0.1"}, "http_listen"),
        ({"http_listen": "0.0.0.0:1"}, "insecure"),
        ({"bulk_listen": "example.org:1"}, "insecure"),
        ({"journal_bytes_max": 5}, "journal_bytes_max"),
        ({"heartbeat_ms": 200}, "heartbeat_ms"),
        ({"election_ms_max": 400}, "election_ms_m"),
        ({"batch_bytes_max": 1 << 21}, "batch_bytes_max"),
        ({"log_level": "loud"}, "log_level"),
        ({"token_file": "/t"}, "token_file"),
        ({"plant": "roses"}, "plant"),
        ({"colour": "red"}, "colour"),
        ({"journal_bytes_max": "many"}, "journal_bytes_max"),
        ({"insecure": 1}, "insecure"),
        ({"peers": [{"id": "n2"}]}, "peers"),
        ({"peers": [PEER, PEER]}, "twice"),
        ({"peers": [{**PEER, "http": "ftp://x"}]}, "http"),
    ],
)
def test_what_is_refused_is_named(changed: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        load_config(None, {}, {"id": "n1", "data": "/d", **changed})


def test_a_number_in_the_environment_is_a_whole_one() -> None:
    with pytest.raises(ConfigError, match="1_000"):
        load_config(None, {"LASTGOOD_JOURNAL_BYTES_MAX": "1_000"}, {"id": "n1", "data": "/d"})


def test_missing_values_are_named() -> None:
    with pytest.raises(ConfigError, match="id and data"):
        load_config(None, {})


def test_a_journal_segment_is_at_most_a_quarter_of_the_journal() -> None:
    config = NodeConfig(id="n1", data="/d", journal_bytes_max=1 << 20)
    assert config.journal_segment_bytes() == 1 << 18


def test_peers_may_name_the_node_itself() -> None:
    me = Peer("n1", "a:1", "a:2", "http://a:3")
    config = NodeConfig(id="n1", data="/d", peers=(me, Peer(**PEER)))
    assert config.advertised == me
    assert [peer.id for peer in config.others] == ["n2"]
