"""Exit codes and clean output of real processes."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.unit.cli.conftest import ROOT, Run
from tests.unit.sdk.fake_server import FakeCluster


def test_success_is_0_and_output_is_plain_in_a_pipe(process: Run) -> None:
    assert process("space", "create", "room").code == 0
    done = process("space", "list")
    assert done.code == 0
    assert "\x1b" not in done.text and done.err == ""
    assert process("write", "room", "--offset", 0, "-", input=b"\0\xff").code == 0
    assert process("read", "room").out == b"\0\xff"


def test_refused_is_1(process: Run) -> None:
    done = process("space", "show", "nothing")
    assert (done.code, done.out) == (1, b"")
    assert "not_found" in done.err
    done = process("space", "show", "nothing", "--json")
    assert (done.code, json.loads(done.out)["error"]["code"]) == (1, "not_found")


@pytest.mark.parametrize(
    "args",
    [
        ("nonsense",),
        ("write", "room", "-"),
        ("write", "room", "--offset", "-1", "-"),
        ("write", "room", "--offset", "1_0x", "-"),
        ("space", "create", "-bad"),
        ("space", "create", "a", "--page-size", "5000"),
        ("rollback", "room"),
        ("rollback", "room", "@a", "--lvc", "3"),
        ("rollback", "room", "label-without-at"),
        ("snapshot", "create"),
        ("snapshot", "create", "room", "--label", "@a"),
        ("read", "room", "--snapshot", "@a", "--at-lvc", "1"),
        ("status", "--endpoints", "ftp://x"),
        ("import", "room", "/nowhere/to/be/found"),
    ],
)
def test_wrong_usage_is_2(run: Run, args: tuple[str, ...]) -> None:
    done = run(*args)
    assert (done.code, done.out) == (2, b"")
    assert "Usage:" in done.err


def test_no_cluster_known_is_wrong_usage(process: Run) -> None:
    done = process("status", env={"LASTGOOD_ENDPOINTS": ""})
    assert done.code == 2
    assert "lastgood up" in done.err


def test_no_node_is_3(process: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{taken.getsockname()[1]}"  # bound, not listening: refuses
        done = process("status", "--endpoints", dead, "--timeout", "0.5", "--json")
    assert (done.code, done.json["error"]["code"]) == (3, "unavailable")


def test_unknown_outcome_is_4(process: Run, cluster: FakeCluster) -> None:
    assert process("space", "create", "room").code == 0
    cluster.drop_writes = True
    done = process("write", "room", "--offset", 0, "-", "--timeout", "1.5", "--json", input=b"x")
    assert (done.code, done.json["error"]["code"]) == (4, "unknown_outcome")


def start(url: str, *args: str) -> subprocess.Popen[bytes]:
    env = dict(os.environ, LASTGOOD_ENDPOINTS=url, PYTHONPATH=os.pathsep.join([str(ROOT / "sdk"), str(ROOT)]))
    command = [sys.executable, "-m", "cluster.cli.main", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=env)


def test_watch_ends_well_with_ctrl_c(url: str, cluster: FakeCluster) -> None:
    cluster.events = [{"seq": 1, "index": 1, "type": "t", "space": None, "at": None}]
    with start(url, "watch", "--after", "0", "--json") as process:
        assert process.stdout is not None and process.stderr is not None
        assert json.loads(process.stdout.readline())["seq"] == 1
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
        assert process.stderr.read() == b""


def test_a_reader_that_goes_early_is_no_drama(url: str, run: Run, cluster: FakeCluster) -> None:
    run("space", "create", "room")
    run("write", "room", "--offset", "0", "-", input=bytes(3 << 20))
    with start(url, "read", "room") as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(10)
        process.stdout.close()
        process.wait(20)
        assert process.stderr.read() == b""
    assert cluster.spaces["room"].snapshots == []  # the one that the read went through
