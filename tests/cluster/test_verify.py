"""`lastgood verify` on what real nodes left on the disk: whole, in use, damaged."""

from __future__ import annotations

import json
import os
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import lastgood
import pytest
from click.testing import CliRunner, Result

from cluster.cli.main import cli
from cluster.local import LocalCluster
from cluster.probe import wait_until

pytestmark = pytest.mark.cluster


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[LocalCluster]:
    """One node that ran, took 40 pages of random bytes and a snapshot, and was stopped."""
    made = LocalCluster.create(tmp_path / "cluster", nodes=1, settings={"checkpoint_interval_ms": 100})
    try:
        made.start()
        made.wait_ready()
        assert verify(made.node("n1").data).exit_code == 1  # in use
        with lastgood.sync.connect(made.endpoints) as store:
            room = store.space("room", create=True)
            room.write(0, os.urandom(40 * 4096))
            index = room.snapshot().index

        def checkpointed() -> bool:
            return checkpoint_index(made.endpoints[0]) >= index

        assert wait_until(checkpointed, timeout_s=20, clock=time.monotonic, sleep=time.sleep)
    finally:
        made.stop()
    yield made


def checkpoint_index(url: str) -> int:
    with urllib.request.urlopen(f"{url}/metrics", timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("lastgood_checkpoint_index "):
                return int(float(line.split()[1]))
    raise AssertionError("no lastgood_checkpoint_index in /metrics")


def verify(folder: object, *args: str) -> Result:
    return CliRunner().invoke(cli, ["verify", str(folder), *args])


def flip(path: Path, offset: int) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))


def test_a_whole_node_a_rotten_page_a_damaged_journal(stopped: LocalCluster, tmp_path: Path) -> None:
    whole = verify(stopped.folder, "--json")
    assert whole.exit_code == 0
    (report,) = json.loads(whole.stdout)["nodes"]
    assert (report["whole"], report["spaces"], report["snapshots"], report["pages"]) == (True, 1, 1, 40)
    assert "whole" in verify(stopped.node("n1").data).stdout

    data = Path(stopped.node("n1").data)
    flip(data / "heap" / "pages-4096", 10 * 4096 + 7)  # slot 10
    rotten = verify(data, "--json")
    assert rotten.exit_code == 1
    (damage,) = json.loads(rotten.stdout)["nodes"][0]["damages"]
    assert damage["path"].endswith("heap/pages-4096") and damage["offset"] == 10 * 4096
    assert "DAMAGED" in verify(data).stdout
    flip(data / "heap" / "pages-4096", 10 * 4096 + 7)
    assert verify(data).exit_code == 0

    (segment,) = (path for path in (data / "journal").iterdir() if path.suffix == ".seg")
    flip(segment, 200)
    damaged = verify(data, "--json")
    assert damaged.exit_code == 1
    assert str(segment) in damaged.stdout


def test_what_is_no_node_is_wrong_usage(tmp_path: Path) -> None:
    done = verify(tmp_path)
    assert done.exit_code == 2
    assert "neither" in done.stderr
