"""A slice of the consensus simulation: some seeds of each mode and size pass, and planted bugs are found.

`make sim SEEDS=a:b` runs the rest; docs/simulation.md says what is checked and how many seeds each planted bug takes.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from chaos.sim.consensus.plants import PLANTS
from chaos.sim.consensus.run import pin_hashes, seed_range
from chaos.sim.consensus.scenario import MODES

SLICE = {1: "0:3", 3: "0:8", 5: "0:3"}  # nodes -> seeds of each mode
SOON = [name for name, plant in PLANTS.items() if plant.seeds is not None]


def simulate(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command as a user calls it, in its own process because the hash seed is pinned there."""
    command = [sys.executable, "-m", "chaos.sim.consensus", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONHASHSEED": "0"}
    )


@pytest.mark.parametrize("nodes", SLICE)
def test_no_seed_of_the_slice_breaks_a_rule(nodes: int) -> None:
    run = simulate("--nodes", str(nodes), "--seeds", SLICE[nodes])
    assert run.returncode == 0, run.stdout + run.stderr
    lines = run.stdout.splitlines()
    assert [line.split()[0] for line in lines] == list(MODES)
    for line in lines:
        assert "violations=0" in line
        assert int(re.search(r"acknowledged=(\d+)", line)[1]) > 100, "a run in which nothing happens proves nothing"


@pytest.mark.parametrize("name", SOON)
def test_a_planted_bug_is_found(name: str) -> None:
    plant = PLANTS[name]
    run = simulate("--plant", name, "--mode", plant.mode, "--nodes", str(plant.nodes), "--seeds", plant.seeds)
    assert run.returncode == 1, f"{plant.text}: not found in seeds {plant.seeds}\n{run.stdout}{run.stderr}"
    assert "simulator" not in run.stdout, run.stdout
    assert re.search(rf"again: python -m chaos.sim.consensus --trace \d+ .*--plant {name}", run.stdout)


def test_one_seed_is_one_run() -> None:
    """Equal seeds give equal traces, so that a violation can be looked at again."""
    arguments = ("--mode", "power", "--nodes", "3", "--trace", "3")
    first, second = simulate(*arguments), simulate(*arguments)
    assert first.stdout == second.stdout
    assert len(first.stdout.splitlines()) > 20


def test_a_seed_does_not_depend_on_what_ran_before_it() -> None:
    alone = simulate("--mode", "kill", "--seeds", "2:3").stdout
    behind = simulate("--mode", "kill", "--seeds", "1:3").stdout
    before = simulate("--mode", "kill", "--seeds", "1:2").stdout

    def acknowledged(text: str) -> int:
        return int(re.search(r"acknowledged=(\d+)", text)[1])

    assert acknowledged(behind) == acknowledged(before) + acknowledged(alone)


def test_ranges_of_seeds() -> None:
    assert list(seed_range("3:6")) == [3, 4, 5]
    assert list(seed_range("7")) == [7]


def test_hashes_are_pinned_by_starting_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda _path, command: calls.append(command))
    monkeypatch.setenv("PYTHONHASHSEED", "random")
    monkeypatch.setattr(sys, "argv", ["ignored", "--seeds", "0:1"])
    pin_hashes("chaos.sim")
    assert calls == [[sys.executable, "-m", "chaos.sim", "--seeds", "0:1"]]
    assert os.environ["PYTHONHASHSEED"] == "0"
    pin_hashes("chaos.sim")
    assert len(calls) == 1, "once is enough"
