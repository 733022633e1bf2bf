"""`lastgood up` and `down` as users run them, with real nodes."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from cluster.local import LocalCluster, NotReady, free_ports
from cluster.localfiles import last_endpoints

pytestmark = pytest.mark.cluster


def command(name, *arguments):
    return [sys.executable, "-c", f"from cluster.cli.local import {name}; {name}()", *map(str, arguments)]


def run(name, *arguments, timeout=90):
    """A pipe's end comes only when nobody holds it: this also shows that nodes inherit no descriptor."""
    return subprocess.run(command(name, *arguments), capture_output=True, text=True, timeout=timeout, check=False)


def ports():
    base = [port for port in free_ports(400) if port % 10 == 1][:3]
    return ["--http-port", base[0], "--raft-port", base[1], "--bulk-port", base[2]]


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def folder(tmp_path, state):
    path = tmp_path / "cluster"
    yield path
    if (path / "cluster.json").exists():
        LocalCluster(path).stop(grace_s=5)


def test_up_again_and_down(folder):
    chosen = ports()
    first = run("up", "--data", folder, "--detach", *chosen)
    assert first.returncode == 0, first.stderr
    raw = json.loads((folder / "cluster.json").read_text())
    urls = [f"http://127.0.0.1:{chosen[1] + n}" for n in range(3)]
    assert first.stdout == f"ready {','.join(urls)}\n"
    assert [node["http"] for node in raw["nodes"]] == urls
    assert [node["raft"] for node in raw["nodes"]] == [f"127.0.0.1:{chosen[3] + n}" for n in range(3)]
    assert last_endpoints() == urls
    for node in raw["nodes"]:
        assert os.path.exists(f"{folder}/{node['id']}/node.log")
        os.kill(node["pid"], 0)
    put = urllib.request.Request(
        f"{urls[0]}/v1/spaces/s", data=b"{}", method="PUT", headers={"Content-Type": "application/json"}
    )
    assert urllib.request.urlopen(put, timeout=10).status == 201
    write = urllib.request.Request(f"{urls[1]}/v1/spaces/s/data?offset=0", data=b"kept", method="PUT")
    assert urllib.request.urlopen(write, timeout=10).status == 200

    os.kill(raw["nodes"][1]["pid"], signal.SIGKILL)
    cluster = LocalCluster(folder)
    again = run("up", "--data", folder, "--detach", "--json", "--nodes", 3)
    assert again.returncode == 0, again.stderr
    told = json.loads(again.stdout)
    assert told["ready"] == urls
    pids = [node["pid"] for node in raw["nodes"]]
    assert [row["pid"] == pid for row, pid in zip(told["nodes"], pids, strict=True)] == [True, False, True]

    for wrong in (["--nodes", 5], ["--http-port", 1], ["--raft-port", 2], ["--bulk-port", 3]):
        refused = run("up", "--data", folder, "--detach", *wrong)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert wrong[0] in refused.stderr

    stopped = run("down", "--data", folder)
    assert (stopped.returncode, stopped.stdout) == (0, "stopped n1, n2, n3\n")
    assert cluster.running() == []
    assert json.loads(run("down", "--data", folder, "--json").stdout) == {"stopped": [], "killed": []}

    assert run("up", "--data", folder, "--detach").returncode == 0
    with urllib.request.urlopen(f"{urls[2]}/v1/spaces/s/data", timeout=10) as answer:
        assert answer.read() == b"kept"
    # Nothing was written since the election: the leader's own first entry counts as applied, so nobody lags.
    deadline = time.monotonic() + 10
    while True:
        with urllib.request.urlopen(f"{urls[0]}/v1/cluster", timeout=10) as answer:
            view = json.load(answer)
        if view["applied_index"] == view["commit_index"] and not any(node["lag_entries"] for node in view["nodes"]):
            break
        assert time.monotonic() < deadline, view
        time.sleep(0.1)


def test_a_node_that_lost_its_disk_is_shown_as_down(folder):
    first = ports()
    cluster = LocalCluster.create(folder, nodes=3, http_port=first[1], raft_port=first[3], bulk_port=first[5])
    cluster.start()
    cluster.wait_ready()
    lost = cluster.nodes[2]
    os.kill(lost.pid, signal.SIGKILL)
    while cluster.pid_of(lost.id) is not None:
        time.sleep(0.05)
    shutil.rmtree(lost.data)
    cluster.start()
    deadline = time.monotonic() + 20
    for node in cluster.nodes[:2]:  # it knows nothing of the cluster itself
        while True:
            with urllib.request.urlopen(f"{node.http}/v1/cluster", timeout=10) as answer:
                states = {row["id"]: (row["reachable"], row["state"]) for row in json.load(answer)["nodes"]}
            if states[lost.id] == (True, "down"):
                break
            assert time.monotonic() < deadline, states
            time.sleep(0.1)
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(f"{lost.http}/readyz", timeout=10)
    assert refused.value.code == 503
    refused.value.close()
    with pytest.raises(NotReady, match="not ready: n3"):
        cluster.wait_ready(timeout_s=0.2)
    cluster.stop()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_the_foreground_a_signal_stops_the_nodes(folder, number):
    with subprocess.Popen(
        command("up", "--data", folder, "--nodes", 1, *ports()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline().startswith("ready http://")
        cluster = LocalCluster(folder)
        assert cluster.running() == ["n1"]
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, errors
    assert cluster.running() == []


def test_in_the_foreground_it_ends_when_somebody_stops_the_cluster(folder):
    with subprocess.Popen(
        command("up", "--data", folder, "--nodes", 1, *ports()),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.readline()
        assert run("down", "--data", folder).returncode == 0
        process.communicate(timeout=30)
        assert process.returncode == 0


def test_a_taken_port_is_named(folder):
    chosen = ports()
    with socket.create_server(("127.0.0.1", chosen[1] + 1)):
        refused = run("up", "--data", folder, "--detach", *chosen)
    assert refused.returncode == 1
    assert str(chosen[1] + 1) in refused.stderr
    assert not (folder / "cluster.json").exists()


def test_down_without_a_cluster(folder):
    refused = run("down", "--data", folder)
    assert refused.returncode == 1
    assert "holds no cluster" in refused.stderr


def test_a_node_that_does_not_start_is_an_error_with_its_reason(folder, monkeypatch):
    monkeypatch.setenv("LASTGOOD_HEARTBEAT_MS", "5000")
    started = time.monotonic()
    refused = run("up", "--data", folder, "--detach", "--nodes", 1, *ports())
    assert refused.returncode == 1
    assert "heartbeat_ms" in refused.stderr
    assert time.monotonic() - started < 30
