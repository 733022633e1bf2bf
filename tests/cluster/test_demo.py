"""`lastgood demo` as users run it: on any file, and while somebody kills nodes under it."""

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from cluster.local import LocalCluster

pytestmark = pytest.mark.cluster
DEMO = [sys.executable, "-c", "from chaos.cli import demo; demo()"]


@pytest.fixture
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    yield tmp_path
    for folder in tmp_path.glob("lastgood-demo-*/cluster"):
        LocalCluster(folder).stop(grace_s=5)


def test_any_file_will_do_and_json_says_what_was_checked(scratch):
    given = scratch / "save.bin"
    given.write_bytes(random.Random(1).randbytes(1_234_567))
    call = [*DEMO, "--input", str(given), "--json", "--keep"]
    done = subprocess.run(call, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert document["holds"] is True
    titles = [step["title"] for step in document["steps"]]
    assert titles[0] == "start"
    assert titles[-3:] == ["partition", "killed leader", "equal nodes"]
    assert all(check["holds"] for step in document["steps"] for check in step["checks"])
    # --keep: the cluster goes on without the demo's proxies.
    cluster = LocalCluster(Path(document["folder"]) / "cluster")
    assert cluster.running() == ["n1", "n2", "n3"]
    assert cluster.leader() in cluster.ids
    assert "".join(cluster.endpoints) == "".join(document["endpoints"])


def test_nodes_that_are_killed_while_it_works_cost_nothing_that_was_acknowledged(scratch):
    """One node after the other is killed and started again from the import to the rollback."""
    stop, killed = threading.Event(), []

    def killer(cluster):
        rng = random.Random(7)
        while not stop.wait(rng.uniform(0.1, 0.7)):
            victim = rng.choice(cluster.ids)
            cluster.kill(victim)
            killed.append(victim)
            stop.wait(rng.uniform(0.0, 0.5))
            cluster.restart(victim)
            # The next one dies only when this one is back: the demo promises to survive a minority.
            cluster.wait_ready(timeout_s=60)

    process = subprocess.Popen(
        DEMO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
    )
    lines, thread = [], None
    with process:
        for line in process.stdout:
            lines.append(line)
            if " file: " in line:
                cluster = LocalCluster(next(scratch.glob("lastgood-demo-*/cluster")))
                thread = threading.Thread(target=killer, args=(cluster,))
                thread.start()
            elif " rollback: " in line:
                stop.set()
        stop.set()
        if thread is not None:
            thread.join(timeout=90)
            for node_id in cluster.ids:  # the demo has stopped them
                cluster.reap(node_id)
    assert process.returncode == 0, "".join(lines)
    assert killed, "nothing was killed, so nothing was shown"
