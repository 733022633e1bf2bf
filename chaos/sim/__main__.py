"""`python -m chaos.sim --seeds A:B`: every simulation there is, each mode and size, over a range of seeds.

So far that is the one of the consensus adapter, with its options.
"""

import os
import sys

from chaos.sim.consensus.run import main, pin_hashes

if __name__ == "__main__":
    pin_hashes("chaos.sim")
    sys.exit(main(sizes=(3, 5), jobs=os.cpu_count() or 1))
