"""`python -m benchmarks [NAME …]`: runs benchmarks one after the other."""

from __future__ import annotations

import argparse
import sys

from benchmarks import etcd, install, nodes, rollback, snapshots, writes
from benchmarks.harness import Report, machine

SUITES = {
    "writes": writes.run,
    "snapshots": snapshots.run,
    "rollback": rollback.run,
    "nodes": nodes.run,
    "install": install.run,
    "etcd": etcd.run,
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Figures of this machine.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SUITES)}; default: all")
    parser.add_argument("--seconds", type=float, default=3.0, help="for each measure (default 3)")
    parser.add_argument("--runs", type=int, default=3, help="the median of so many is printed (default 3)")
    parser.add_argument("--full", action="store_true", help="spaces of 1 GiB instead of 128 MiB")
    parser.add_argument("--folder", default=None, help="where the clusters' data goes; a disk, for honest figures")
    given = parser.parse_args()
    unknown = [name for name in given.names if name not in SUITES]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}; choose from {', '.join(SUITES)}")
    report = Report(seconds=given.seconds, runs=given.runs)
    machine(report)
    for name in given.names or SUITES:
        report.note(name)
        SUITES[name](report, given.folder, full=given.full)
    return 0


if __name__ == "__main__":
    sys.exit(main())
