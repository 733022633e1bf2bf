"""Logs: one JSON object a line, facts, levels, no secrets, and never a reason to stop."""

import io
import json
import logging

import pytest

from cluster import log as logs
from cluster.log import get_log


@pytest.fixture
def lines():
    before = logging.getLogger().handlers[:], logging.getLogger().level
    stream = io.StringIO()
    logs.configure(stream=stream, level="info", wall_s=lambda: 1_700_000_000.007, node="n1")
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logs.configure(bridge_stdlib=False)
    logging.getLogger().handlers[:], _ = before
    logging.getLogger().setLevel(before[1])


def test_a_line_is_an_event_with_facts(lines):
    get_log("cluster.transfer").info("transfer.resumed", peer="n2", done_bytes=7)
    assert lines() == [
        {
            "at": "2023-11-14T22:13:20.007Z",
            "level": "info",
            "log": "cluster.transfer",
            "event": "transfer.resumed",
            "node": "n1",
            "peer": "n2",
            "done_bytes": 7,
        }
    ]


def test_levels(lines):
    log = get_log("x")
    log.debug("a")
    log.info("b")
    log.warning("c")
    log.error("d")
    assert [line["event"] for line in lines()] == ["b", "c", "d"]
    with pytest.raises(ValueError, match="log level"):
        logs.configure(level="loud")


def test_loggers_made_before_follow_the_configuration(lines):
    log = get_log("x", space="a").bind(lvc=3)
    log.info("e")
    assert (lines()[0]["space"], lines()[0]["lvc"]) == ("a", 3)


@pytest.mark.parametrize("name", ["token", "Authorization", "tls_private_key", "db_password", "session_cookie"])
def test_secrets_do_not_appear(lines, name):
    get_log("x").info("e", **{name: "hunter2"}, nested={name: "hunter2", "rest": 1})
    assert "hunter2" not in json.dumps(lines())
    assert lines()[0]["nested"]["rest"] == 1


def test_whatever_a_fact_is_the_line_is_json(lines):
    error = ValueError("bad")
    get_log("x").info(
        "e",
        error=error,
        raw=b"\x00\xff",
        text="a\ud800\n",
        nan=float("nan"),
        many={1, 2},
        odd=object(),
        long="x" * 99999,
    )
    (line,) = lines()
    assert line["error"]["type"] == "ValueError"
    assert line["raw"] == "00ff"
    assert line["nan"] == "nan"
    assert sorted(line["many"]) == [1, 2]
    assert len(line["long"]) == 8192


def test_libraries_that_log_come_through(lines):
    logging.getLogger("aiohttp.server").error("broke %s", 7)
    (line,) = lines()
    assert (line["log"], line["event"], line["text"], line["level"]) == (
        "aiohttp.server",
        "library.message",
        "broke 7",
        "error",
    )


def test_a_broken_stream_does_not_stop_anybody(lines):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "no space")

    logs.configure(stream=Full(), bridge_stdlib=False)
    get_log("x").error("e")
    closed = io.StringIO()
    closed.close()
    logs.configure(stream=closed, bridge_stdlib=False)
    get_log("x").error("e")
