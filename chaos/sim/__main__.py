"""`python -m chaos.sim --seeds A:B`: every simulation there is, each mode and size, over a range of seeds."""

import argparse
import os
import sys

from chaos.sim.consensus.run import pin_hashes, run_seeds, seed_range
from chaos.sim.consensus.scenario import MODES

SIZES = (3, 5)


def main() -> int:
    """Exit 1 when any run broke a rule."""
    parser = argparse.ArgumentParser(prog="python -m chaos.sim", description=__doc__)
    parser.add_argument("--seeds", type=seed_range, default=range(20), metavar="A:B")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    arguments = parser.parse_args()
    held = [run_seeds(mode, nodes, arguments.seeds, processes=arguments.jobs) for nodes in SIZES for mode in MODES]
    return 0 if all(held) else 1


if __name__ == "__main__":
    pin_hashes("chaos.sim")
    sys.exit(main())
