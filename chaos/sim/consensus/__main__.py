import sys

from chaos.sim.consensus.run import main, pin_hashes

if __name__ == "__main__":
    pin_hashes("chaos.sim.consensus")
    sys.exit(main())
