"""A slice of the consensus simulation: some seeds of each mode and size pass, and each planted bug is found."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from chaos.sim.consensus.plants import PLANTS
from chaos.sim.consensus.scenario import MODES

SLICE = {3: "0:12", 5: "0:5"}


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user calls it, in its own process because the hash seed is pinned there."""
    command = [sys.executable, "-m", "chaos.sim.consensus", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONHASHSEED": "0"})


@pytest.mark.parametrize("nodes", SLICE)
@pytest.mark.parametrize("mode", MODES)
def test_no_seed_of_the_slice_breaks_a_rule(mode: str, nodes: int) -> None:
    run = simulate("--mode", mode, "--nodes", str(nodes), "--seeds", SLICE[nodes])
    assert run.returncode == 0, run.stdout + run.stderr
    assert "violations=0" in run.stdout
    assert "acknowledged=0 " not in run.stdout, "a run in which nothing happens proves nothing"


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_bug_is_found(plant: str) -> None:
    bug = PLANTS[plant]
    run = simulate("--plant", plant, "--mode", bug.mode, "--nodes", str(bug.nodes), "--seeds", bug.seeds)
    assert run.returncode == 1, run.stdout + run.stderr
    assert f"--plant {plant}" in run.stdout, "the command to see it again"


def test_one_seed_is_one_run() -> None:
    """Equal seeds give equal traces, whatever ran before in the process."""
    arguments = ("--mode", "power", "--nodes", "3")
    alone = simulate(*arguments, "--trace", "3").stdout
    assert alone == simulate(*arguments, "--trace", "3").stdout
    assert len(alone.splitlines()) > 20
