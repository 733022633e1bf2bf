"""`lastgood verify`: a complete check of what a stopped node has stored."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click

from cluster.cli.client import REFUSED, Failed, json_option
from cluster.cli.output import Cell, Output, json_text, size_text
from cluster.datalock import DataLock, FolderBusy
from cluster.localfiles import BadClusterFile, read_cluster
from node.verify import VerifyReport
from node.verify import verify as verify_folder
from wal.checks import Corrupt
from wal.disk import RealDisk

_MARKS: Final = ("identity", "journal")  # what only a node's data folder holds


@click.command(
    epilog="\b\nExample:\n  lastgood verify /var/lib/lastgood\n  lastgood verify ~/.local/state/lastgood --json"
)
@click.argument("folder", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@json_option
def verify(folder: Path, as_json: bool) -> None:
    """Read everything that a stopped node has stored and name every damage. Changes nothing.

    DIR is a node's data folder, or the folder of a local cluster: then all its nodes are checked. Exits 0 only when
    everything is whole.
    """
    out = Output(as_json=as_json)
    documents: list[dict[str, Any]] = []
    for data in _data_folders(folder):
        report = _check(data, out)
        documents.append(_document(data, report))
        if not as_json:
            _show(out, data, report)
    whole = all(one["whole"] for one in documents)
    if as_json:
        click.echo(json_text({"whole": whole, "nodes": documents}))
    if not whole:
        raise SystemExit(REFUSED)


def _data_folders(folder: Path) -> list[Path]:
    """The data folders that DIR means. Raises UsageError."""
    try:
        cluster = read_cluster(folder)
    except BadClusterFile as error:
        raise click.UsageError(str(error)) from None
    if cluster is not None:
        return [Path(node.data) for node in cluster.nodes]
    for data in (folder, folder / "data"):
        if any((data / mark).exists() for mark in _MARKS):
            return [data]
    raise click.UsageError(f"{folder} is neither a node's data folder nor the folder of a local cluster")


def _check(data: Path, out: Output) -> VerifyReport:
    """Holds the folder's lock meanwhile, so that no node starts on it. Raises Failed while one runs."""
    try:
        lock = DataLock.take(data)
    except FolderBusy as error:
        raise _failed(f"{error}: stop the node first", out) from None
    except OSError as error:
        raise _failed(f"{data} can't be checked: {error}", out) from None
    try:
        with _progress(out, data) as progress:
            return verify_folder(RealDisk(), str(data), progress=progress)
    except Corrupt as error:  # so much is damaged that the rest can't be read
        return VerifyReport(damages=[error])
    except OSError as error:
        raise _failed(f"{data} can't be read: {error}", out) from None
    finally:
        lock.release()


def _failed(text: str, out: Output) -> Failed:
    return Failed(text, exit_code=REFUSED, document={"detail": text, "code": None} if out.as_json else None)


@contextmanager
def _progress(out: Output, data: Path) -> Iterator[Callable[[VerifyReport], None] | None]:
    if not out.terminal:
        yield None
        return
    from rich.console import Console

    with Console(stderr=True).status(f"verifying {data}") as status:
        yield lambda report: status.update(f"verifying {data}: {report.pages} pages, {report.journal_frames} frames")


def _facts(report: VerifyReport) -> list[tuple[str, Cell]]:
    return [
        ("checkpoint_index", report.checkpoint_index),
        ("journal_segments", report.journal_segments),
        ("journal_frames", report.journal_frames),
        ("journal_bytes", report.journal_bytes),
        ("undo_records", report.undo_records),
        ("undo_bytes", report.undo_bytes),
        ("rows", report.rows),
        ("spaces", report.spaces),
        ("snapshots", report.snapshots),
        ("roots", report.roots),
        ("leaves", report.leaves),
        ("pages", report.pages),
        ("page_bytes", report.page_bytes),
    ]


def _document(data: Path, report: VerifyReport) -> dict[str, Any]:
    torn = report.torn
    return {
        "folder": str(data),
        "whole": not report.damages,
        **dict(_facts(report)),
        "torn_tail": None if torn is None else {"path": torn.path, "offset": torn.offset, "bytes": torn.nbytes},
        "damages": [
            {
                "path": str(one.path),
                "offset": one.offset,
                "expected": str(one.expected),
                "found": str(one.found),
            }
            for one in report.damages
        ],
    }


def _show(out: Output, data: Path, report: VerifyReport) -> None:
    read = size_text(report.journal_bytes + report.undo_bytes + report.page_bytes)
    verdict = "whole" if not report.damages else f"{len(report.damages)} damages"
    out.say(f"{data}: {verdict}; {read} read")
    out.facts([(name.replace("_", " "), value) for name, value in _facts(report)])
    if report.torn is not None:
        out.say(f"torn tail, never acknowledged: {report.torn.nbytes} bytes at {report.torn.path}:{report.torn.offset}")
    for damage in report.damages:
        out.say(f"DAMAGED {damage}")
