"""Local clusters with a stand-in for the node: files, ports, locks, signals. The real ones are in tests/cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cluster.config import load_config
from cluster.datalock import DataLock, FolderBusy, holder
from cluster.local import LocalCluster, LocalClusterError, NotReady, choose_ports, free_ports
from cluster.localfiles import BadClusterFile, last_endpoints, note_last, read_cluster
from cluster.probe import cluster_view, says_installing

DUMMY = (sys.executable, str(Path(__file__).with_name("dummy_node.py")))
HOLD = """
import sys
from cluster.datalock import DataLock
lock = DataLock.take(sys.argv[1])
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def cluster(tmp_path):
    made = LocalCluster.create(tmp_path / "c", command=DUMMY)
    yield made
    made.stop(grace_s=0.2)


def test_lock_names_the_process_that_holds_it_and_dies_with_it(tmp_path):
    assert holder(tmp_path) is None
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        child.stdout.readline()
        assert holder(tmp_path) == child.pid
        with pytest.raises(FolderBusy) as caught:
            DataLock.take(tmp_path)
        assert caught.value.pid == child.pid
        child.kill()
        child.wait()
    assert holder(tmp_path) is None


def test_asking_does_not_drop_the_own_lock(tmp_path):
    lock = DataLock.take(tmp_path)
    assert holder(tmp_path) == os.getpid()
    ask = "import sys; from cluster.datalock import holder; print(holder(sys.argv[1]))"
    for _ in range(2):
        seen = subprocess.run([sys.executable, "-c", ask, tmp_path], capture_output=True, text=True, check=True)
        assert int(seen.stdout) == os.getpid()
    with pytest.raises(FolderBusy):
        DataLock.take(tmp_path)
    lock.release()
    assert holder(tmp_path) is None


def test_create_writes_files_that_nodes_and_people_can_read(cluster):
    raw = json.loads((cluster.folder / "cluster.json").read_text())
    assert [row["id"] for row in raw["nodes"]] == ["n1", "n2", "n3"]
    assert set(raw["nodes"][0]) == {"id", "pid", "http", "raft", "bulk", "data"}
    assert raw["nodes"][0]["http"].startswith("http://127.0.0.1:")
    config = load_config(str(cluster.folder / "n2" / "node.toml"), {})
    assert (config.id, config.data) == ("n2", cluster.node("n2").data)
    assert [peer.id for peer in config.others] == ["n1", "n3"]
    with pytest.raises(LocalClusterError, match="already holds"):
        LocalCluster.create(cluster.folder)


def test_start_kill_restart_stop(cluster):
    assert cluster.start() == ["n1", "n2", "n3"]
    cluster.wait_ready(timeout_s=20)
    assert cluster.start() == []
    assert cluster.leader() == "n1"
    pids = [cluster.pid_of(node_id) for node_id in cluster.ids]
    assert pids == [holder(node.data) for node in cluster.nodes]
    assert [node.pid for node in read_cluster(cluster.folder).nodes] == pids
    cluster.kill("n2")
    assert cluster.running() == ["n1", "n3"]
    other = LocalCluster(cluster.folder, command=DUMMY)
    assert other.start() == ["n2"]
    other.wait_ready(timeout_s=20)
    assert other.stop() == []
    assert cluster.running() == []


def test_a_paused_node_is_stopped_too(cluster):
    cluster.start()
    cluster.wait_ready(timeout_s=20)
    cluster.pause("n3")
    assert cluster_view(cluster.node("n3").http, timeout_s=0.2) is None
    assert cluster.stop(grace_s=10) == []


def test_a_node_that_ignores_sigterm_is_killed(tmp_path):
    cluster = LocalCluster.create(tmp_path, nodes=1, command=DUMMY, env={"DUMMY_STUBBORN": "1"})
    cluster.start()
    cluster.wait_ready(timeout_s=20)
    assert cluster.stop(grace_s=0.2) == ["n1"]
    assert cluster.running() == []


def test_a_node_that_ends_is_reported_with_its_log(tmp_path):
    cluster = LocalCluster.create(tmp_path, nodes=2, command=DUMMY, env={"DUMMY_FAILS": "n2"})
    cluster.start()
    try:
        with pytest.raises(LocalClusterError, match="n2 has ended with status 1") as caught:
            cluster.wait_ready(timeout_s=20)
        assert "does not want to start" in str(caught.value)
    finally:
        cluster.stop()


def test_an_installing_node_is_not_waited_for_but_a_missing_one_is(tmp_path):
    cluster = LocalCluster.create(tmp_path, nodes=2, command=DUMMY, env={"DUMMY_INSTALLS": "n2"})
    cluster.start()
    try:
        cluster.wait_ready(timeout_s=20)
        cluster.pause("n2")
        with pytest.raises(NotReady, match="n2"):
            cluster.wait_ready(timeout_s=0.1)
    finally:
        cluster.stop()


def test_settings_of_single_nodes_never_leak_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("LASTGOOD_ID", "evil")
    monkeypatch.setenv("LASTGOOD_ENV", "staging")
    env_check = "import os, time; print(os.environ.get('LASTGOOD_ID'), os.environ['LASTGOOD_ENV'], flush=True)"
    cluster = LocalCluster.create(tmp_path, nodes=1, command=(sys.executable, "-c", env_check))
    cluster.start()
    with pytest.raises(LocalClusterError, match="None staging"):
        for _ in range(100):
            cluster.wait_ready(timeout_s=1)
    cluster.stop()


def test_ports():
    assert choose_ports(2, (20001, 20011, 20021)) == [(20001, 20011, 20021), (20002, 20012, 20022)]
    with pytest.raises(LocalClusterError, match="overlap"):
        choose_ports(3, (20001, 20002, 20021))
    with pytest.raises(LocalClusterError, match="65535"):
        choose_ports(3, (65534, 20002, 20021))
    assert len(set(free_ports(30))) == 30


def test_the_last_cluster_is_remembered(cluster, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    assert last_endpoints() == []
    note_last(cluster.folder)
    assert last_endpoints() == cluster.endpoints


def test_a_damaged_cluster_file_is_refused(tmp_path):
    (tmp_path / "cluster.json").write_text('{"nodes": 3}')
    with pytest.raises(BadClusterFile, match=r"cluster\.json"):
        LocalCluster(tmp_path)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ([{"name": "installing", "ok": False}], True),
        ({"checks": [{"name": "not_installing", "ok": False}]}, True),
        ([{"name": "installing", "ok": True}], False),
        ([{"name": "leader", "ok": False}], False),
        (None, False),
    ],
)
def test_says_installing(body, expected):
    assert says_installing(body) is expected


def test_detached_nodes_outlive_the_one_who_started_them(tmp_path):
    script = (
        "import sys; from cluster.local import LocalCluster\n"
        "c = LocalCluster.create(sys.argv[1], nodes=1, command=sys.argv[2:]); c.start(); c.wait_ready(timeout_s=20)\n"
        "print(c.pid_of('n1'))"
    )
    # The pipe's end comes only when nobody holds it: the node must not have inherited it.
    done = subprocess.run(
        [sys.executable, "-c", script, tmp_path, *DUMMY], capture_output=True, text=True, timeout=60, check=True
    )
    cluster = LocalCluster(tmp_path, command=DUMMY)
    assert cluster.running() == ["n1"]
    assert int(done.stdout) == cluster.pid_of("n1")
    os.kill(cluster.pid_of("n1"), signal.SIGTERM)
    deadline = time.monotonic() + 10
    while cluster.running() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert cluster.running() == []
