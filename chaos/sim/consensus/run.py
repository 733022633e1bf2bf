"""Runs seeds and prints one line per mode; the command behind `make sim`.

python -m chaos.sim.consensus --seeds 0:500 --mode power --nodes 3 [--jobs 2] [--plant NAME]
python -m chaos.sim.consensus --trace 17 --mode power --nodes 3
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from chaos.sim.consensus.cluster import Cluster, Verdict
from chaos.sim.consensus.plants import PLANTS
from chaos.sim.consensus.scenario import MODES, draw

SHOWN = ("acknowledged", "reads", "elections", "crashes", "stops", "checkpoints", "installs")


class Job(NamedTuple):
    """One seed to run."""

    seed: int
    mode: str
    nodes: int
    plant: str | None = None

    @property
    def command(self) -> str:
        """What to type to see this run again."""
        plant = f" --plant {self.plant}" if self.plant else ""
        return f"python -m chaos.sim.consensus --trace {self.seed} --mode {self.mode} --nodes {self.nodes}{plant}"


def run_one(job: Job, *, loud: bool = False) -> Verdict:
    """One seed, from nothing to its verdict."""
    scenario = draw(job.mode, job.nodes, random.Random(f"scenario/{job.seed}/{job.mode}"), job.plant)
    cluster = Cluster(job.seed, scenario, loud=loud)
    try:
        return cluster.run()
    except Exception as error:  # a fault of the simulator counts too: it must never look like a pass
        if loud:
            raise
        cluster.checker.bad("simulator", repr(error))
        return Verdict(job.seed, cluster.checker.violations, dict(cluster.checker.counts), 0.0, 0)


def run_all(jobs: list[Job], processes: int) -> Iterator[tuple[Job, Verdict]]:
    """Runs them one after the other, or in `processes` processes, in order."""
    if processes <= 1:
        for job in jobs:
            yield job, run_one(job)
        return
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=250) as pool:
        yield from zip(jobs, pool.imap(run_one, jobs, chunksize=2), strict=True)


def run_seeds(mode: str, nodes: int, seeds: range, *, processes: int = 1, plant: str | None = None) -> bool:
    """Runs a range of seeds and prints its line; True when none broke a rule. A planted bug ends at its first find."""
    began_s = time.monotonic()
    counts: Counter[str] = Counter()
    kinds: Counter[str] = Counter()
    bad: list[int] = []
    done = 0
    for job, verdict in run_all([Job(seed, mode, nodes, plant) for seed in seeds], processes):
        done += 1
        counts.update(verdict.counts)
        if verdict.violations:
            bad.append(job.seed)
            kinds.update(list(verdict.violations))
            if len(bad) <= 5:
                for kind, (at_s, text) in verdict.violations.items():
                    print(f"  seed {job.seed}: {kind} at {at_s} s: {text}")
                print(f"  again: {job.command}", flush=True)
            if plant is not None:
                break
    took_s = time.monotonic() - began_s
    shown = " ".join(f"{name}={counts[name]}" for name in SHOWN)
    found = "".join(f" {kind}={count}" for kind, count in kinds.items())
    print(f"{mode} nodes={nodes} seeds={done} violations={len(bad)}{found} {shown} seconds={took_s:.1f}", flush=True)
    return not bad


def seed_range(text: str) -> range:
    """`A:B` is A up to, not including, B; `A` alone is that one seed."""
    start, _, stop = text.partition(":")
    return range(int(start), int(stop) if stop else int(start) + 1)


def pin_hashes(module: str) -> None:
    """Starts Python anew with a fixed hash seed: PySyncObj walks over sets, so the order of hashes is part of a run."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]])


def main(argv: list[str] | None = None, *, sizes: Sequence[int] = (3,), jobs: int = 1) -> int:
    """The command line; `sizes` and `jobs` are defaults. Exit 1 when any run broke a rule."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.sim.consensus", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=seed_range, default=range(20), metavar="A:B")
    parser.add_argument("--mode", choices=MODES, action="append", help="may be given more than once; default: all")
    parser.add_argument("--nodes", type=int, choices=(1, 3, 5), action="append", help=f"default: {sizes}")
    parser.add_argument("--jobs", type=int, default=jobs, help="processes to use, default: %(default)s")
    parser.add_argument("--trace", type=int, metavar="SEED", help="one seed, with all that happened")
    parser.add_argument("--plant", choices=sorted(PLANTS), help="run with a planted bug, stop when it is found")
    arguments = parser.parse_args(argv)
    modes, sizes = arguments.mode or list(MODES), arguments.nodes or sizes
    if arguments.trace is not None:
        verdict = run_one(Job(arguments.trace, modes[0], sizes[0], arguments.plant), loud=True)
        print(
            f"violations: {verdict.violations or 'none'}; {verdict.counts}; "
            f"{verdict.virtual_s} s, {verdict.events} events"
        )
        return 1 if verdict.violations else 0
    held = [
        run_seeds(mode, nodes, arguments.seeds, processes=arguments.jobs, plant=arguments.plant)
        for nodes in sizes
        for mode in modes
    ]
    return 0 if all(held) else 1
