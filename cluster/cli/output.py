"""What commands print: tables and colour for people on a terminal, plain columns in a pipe, JSON when asked."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import click
import msgspec

Cell = str | int | float | bool | None
Progress = Callable[[int, int], None]


def json_text(document: Any) -> str:
    """One line of JSON; structs by their field names, bytes as base64."""
    return msgspec.json.encode(document).decode()


class Output:
    """Prints a command's result once it is known. With `as_json` only `document` and `line` reach stdout."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json
        self.terminal = sys.stdout.isatty() and not as_json

    def document(self, document: Any, human: Callable[[], None]) -> None:
        """The JSON document, or what `human` prints."""
        if self.as_json:
            click.echo(json_text(document))
        else:
            human()

    def line(self, document: Any, text: str) -> None:
        """One JSON line, or one line of text; flushed, since it may be followed for long."""
        click.echo(json_text(document) if self.as_json else text)

    def say(self, text: str) -> None:
        """A line for people."""
        if not self.as_json:
            click.echo(text)

    def facts(self, rows: Sequence[tuple[str, Cell]]) -> None:
        """Named values, one a line."""
        width = max((len(name) for name, _ in rows), default=0)
        for name, value in rows:
            shown = click.style(f"{name:<{width}}", bold=True) if self.terminal else f"{name:<{width}}"
            click.echo(f"{shown}  {_text(value)}")

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Rows under headings; numbers to the right."""
        texts = [[_text(cell) for cell in row] for row in rows]
        right = [all(isinstance(row[at], int | float) for row in rows) and bool(rows) for at in range(len(columns))]
        if self.terminal:
            self._rich_table(columns, texts, right)
            return
        widths = [max([len(name), *(len(row[at]) for row in texts)]) for at, name in enumerate(columns)]
        for row in [[name.upper() for name in columns], *texts]:
            cells = [f"{cell:>{w}}" if r else f"{cell:<{w}}" for cell, w, r in zip(row, widths, right, strict=True)]
            click.echo("  ".join(cells).rstrip())

    def _rich_table(self, columns: Sequence[str], texts: list[list[str]], right: list[bool]) -> None:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0), pad_edge=False)
        for at, (name, numeric) in enumerate(zip(columns, right, strict=True)):
            width = max([len(name), *(len(row[at]) for row in texts)])
            # On a narrow terminal words are folded, numbers never cut.
            table.add_column(
                name,
                justify="right" if numeric else "left",
                no_wrap=numeric,
                min_width=width if numeric else None,
                overflow="fold",
            )
        for row in texts:
            table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
        Console().print(table)

    @contextmanager
    def progress(self, what: str) -> Iterator[Progress | None]:
        """A progress bar on a terminal, nothing elsewhere."""
        if not self.terminal or not sys.stderr.isatty():
            yield None
            return
        from rich import progress
        from rich.console import Console

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(what, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


_STYLES = {
    "leader": "bold green",
    "ready": "green",
    "active": "green",
    "down": "bold red",
    "installing": "yellow",
    "repairing": "yellow",
    "failed": "bold red",
    "retrying": "yellow",
}


def _text(value: Cell) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)


def moment(at: str | None) -> str | None:
    """An RFC 3339 time for people: to the second, in UTC."""
    return None if at is None else at[:19].replace("T", " ")


def size_text(count: int | None) -> str | None:
    """Bytes for people: 4.0 KiB, 1.2 GiB."""
    if count is None:
        return None
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return None
