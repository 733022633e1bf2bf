"""`lastgood node`: one node in the foreground, as a container or a unit file starts it."""

from __future__ import annotations

import sys

import click

EXAMPLE = """
\b
Example (node.toml; every setting can also be given as LASTGOOD_<NAME>):
  id = "n1"
  data = "/var/lib/lastgood"
  http_listen = "127.0.0.1:7801"
  raft_listen = "127.0.0.1:7811"
  bulk_listen = "127.0.0.1:7821"
  [[peers]]
  id = "n2"
  raft = "127.0.0.1:7812"
  bulk = "127.0.0.1:7822"
  http = "http://127.0.0.1:7802"

\b
  lastgood node --config node.toml
"""


@click.command("node", epilog=EXAMPLE)
@click.option("--config", "path", metavar="FILE", default=None, help="TOML file with the settings of this node.")
@click.option("--json", "as_json", is_flag=True, help="Accepted everywhere; the log of a node is JSON lines anyway.")
def node(path: str | None, as_json: bool) -> None:
    """Run one node in the foreground until SIGTERM or Ctrl-C.

    Exits 2 for settings that can't be used, 1 when it can't start, 70 when it halted itself because going on could
    lie (a failed fsync, damaged bytes that it needs); its log says why.
    """
    from cluster.node_main import main

    sys.exit(main(["--config", path] if path is not None else []))
