"""How spaces and snapshots are named on the command line. Wrong names are wrong usage (exit 2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import click
from lastgood.names import is_label, is_space_name

LVC_MAX: Final = 2**63 - 1

# Generic for the type checker only, so that older minor versions of click run it too.
if TYPE_CHECKING:
    _Param = click.ParamType[Any]
else:
    _Param = click.ParamType


class SpaceName(_Param):
    """The name of a space."""

    name = "space"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_space_name(str(value)):
            self.fail(f"{value!r} is no name of a space: letters, digits, '.', '_', '-', at most 128", param, ctx)
        return str(value)


class SnapshotRef(_Param):
    """`ID` or `@LABEL`."""

    name = "snapshot"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        text = str(value)
        if not is_snapshot_ref(text):
            self.fail(f"{text!r} names no snapshot: write its number or @LABEL", param, ctx)
        return text


class Label(_Param):
    """A snapshot's label."""

    name = "label"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if not is_label(str(value)):
            self.fail(f"{value!r} is no label: at most 128 characters, no leading @, not all digits", param, ctx)
        return str(value)


class SpaceAt(_Param):
    """`SPACE` or `SPACE@SNAPSHOT`: the part after the first @ is an id or a label."""

    name = "space[@snapshot]"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str | None]:
        if isinstance(value, tuple):
            return value
        name, at, rest = str(value).partition("@")
        ref = None
        if at:
            ref = rest if rest.isascii() and rest.isdigit() else f"@{rest}"
        if not is_space_name(name) or (ref is not None and not is_snapshot_ref(ref)):
            self.fail(f"{value!r} is neither SPACE nor SPACE@SNAPSHOT", param, ctx)
        return name, ref


def is_snapshot_ref(text: str) -> bool:
    """True for an id (1 …) or `@label`."""
    if text.startswith("@"):
        return is_label(text[1:])
    return text.isascii() and text.isdigit() and 0 < int(text) <= LVC_MAX


SPACE: Final = SpaceName()
SNAPSHOT: Final = SnapshotRef()
LABEL: Final = Label()
SPACE_AT: Final = SpaceAt()
NATURAL: Final = click.IntRange(0, LVC_MAX)
