"""`lastgood`: the command line. Commands are loaded when they are asked for, so that `--help` stays quick.

Packages that `cluster` must not import (chaos) register theirs in the entry-point group `lastgood.commands`.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, version
from importlib.util import find_spec
from typing import Final

import click

_GROUP: Final = "lastgood.commands"

# In the order in which `lastgood --help` shows them.
_COMMANDS: Final[dict[str, str]] = {
    "up": "cluster.cli.local:up",
    "down": "cluster.cli.local:down",
    "node": "cluster.cli.node:node",
    "status": "cluster.cli.status:status",
    "space": "cluster.cli.space:space",
    "write": "cluster.cli.content:write",
    "read": "cluster.cli.content:read",
    "import": "cluster.cli.content:import_",
    "export": "cluster.cli.content:export",
    "snapshot": "cluster.cli.snapshot:snapshot",
    "rollback": "cluster.cli.rollback:rollback",
    "wal": "cluster.cli.rollback:wal",
    "watch": "cluster.cli.status:watch",
    "transfers": "cluster.cli.status:transfers",
    "verify": "cluster.cli.verify:verify",
    "bench": "cluster.cli.bench:bench",
}

EPILOG = """
\b
Example:
  lastgood up --detach
  lastgood space create room-17
  echo hello | lastgood write room-17 --offset 0 -
  lastgood snapshot create room-17 --label good
  lastgood rollback room-17 @good
  lastgood down

\b
Exit codes: 0 success, 1 refused, 2 wrong usage, 3 no node answered, 4 outcome unknown.
"""


class Commands(click.Group):
    """A group whose commands are imported on demand."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        here = [name for name, target in _COMMANDS.items() if find_spec(target.partition(":")[0]) is not None]
        return here + sorted(name for name in _registered() if name not in _COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = _COMMANDS.get(cmd_name)
        if target is None:
            registered = _registered().get(cmd_name)
            found = registered.load() if registered is not None else None
        else:
            module, _, name = target.partition(":")
            found = getattr(import_module(module), name) if find_spec(module) is not None else None
        return found if isinstance(found, click.Command) else None


def _registered() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=_GROUP)}


def _version() -> str:
    try:
        return version("lastgood-server")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "not installed"


@click.command(cls=Commands, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(_version(), prog_name="lastgood")
def cli() -> None:
    """Keeps the state of live services on several nodes, and brings it back to the last good one."""


def main() -> None:
    """The console script."""
    cli(prog_name="lastgood")


if __name__ == "__main__":
    main()
