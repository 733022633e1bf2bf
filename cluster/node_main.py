"""`python -m cluster.node_main --config FILE`: runs one node in the foreground until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

import uvloop

from cluster import log
from cluster.config import ConfigError, NodeConfig, load_config
from cluster.runtime import NodeRuntime

EXIT_FATAL: Final = 70  # EX_SOFTWARE: an invariant, a failed fsync, damage that can't be worked around
EXIT_USAGE: Final = 2
GC_THRESHOLDS: Final = (20_000, 20, 50)


async def run(config: NodeConfig) -> int:
    """Until a signal or a fatal error; the exit status."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[int] = loop.create_future()

    def end(status: int) -> None:
        if not ended.done():
            ended.set_result(status)

    def fatal(error: BaseException) -> None:
        # Nothing of this process may be trusted now, and nothing must be sent: no clean stop, no second fsync.
        log.get_log("cluster.node").error("node.halts", error=error)
        sys.stderr.flush()
        os._exit(EXIT_FATAL)

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    node = NodeRuntime(config, fatal)
    await node.start()
    # What lives now lives on; the hot path makes many short-lived objects and hardly a cycle.
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    status = await ended
    await node.stop()
    return status


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status 0 after a signal, 2 for a bad configuration, 1 when the node can't start."""
    parser = argparse.ArgumentParser(prog="lastgood node", description="Runs one node in the foreground.")
    parser.add_argument("--config", metavar="FILE", help="TOML; each setting also as LASTGOOD_<NAME>")
    options = parser.parse_args(arguments)
    try:
        config = load_config(options.config, os.environ)
    except ConfigError as error:
        sys.stderr.write(f"lastgood node: {error}\n")
        return EXIT_USAGE
    log.configure(level=config.log_level, node=config.id)
    try:
        return uvloop.run(run(config))
    except Exception as error:
        log.get_log("cluster.node").error("node.not_started", error=error)
        sys.stderr.write(f"lastgood node: {error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
