"""`lastgood write`, `read`, `import`, `export`: a space's bytes."""

from __future__ import annotations

import base64
import contextlib
import os
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path
from typing import BinaryIO, Final

import click
import lastgood
from lastgood.files import held_snapshot, stream_out
from lastgood.space import READ_BYTES_MAX, TX_BYTES_MAX

from cluster.cli.client import Client, client_options
from cluster.cli.output import size_text
from cluster.cli.refs import NATURAL, SNAPSHOT, SPACE, SPACE_AT

_JSON_BYTES_MAX: Final = 16 * 1024 * 1024


@click.command(
    epilog="\b\nExample:\n  echo hello | lastgood write room-17 --offset 0 -\n  "
    "lastgood write room-17 --offset 4096 page.bin"
)
@click.argument("space", type=SPACE)
@click.argument("file", type=click.File("rb"))
@click.option("--offset", type=NATURAL, required=True, help="Where the first byte goes.")
@click.option("--if-lvc", type=NATURAL, default=None, help="Refuse unless the space is at this LVC.")
@client_options
def write(client: Client, space: str, file: BinaryIO, offset: int, if_lvc: int | None) -> None:
    """Write a file (or - for stdin) into a space: one transaction, on disk on a majority of nodes when this returns."""
    piece = file.read(TX_BYTES_MAX + 1)
    if len(piece) > TX_BYTES_MAX:
        raise click.UsageError(f"more than {TX_BYTES_MAX} bytes do not fit one transaction; use `lastgood import`")
    if not piece:
        raise click.UsageError("there is nothing to write: the file is empty")

    async def work(store: lastgood.Store) -> lastgood.Written:
        handle = await store.space(space)
        if if_lvc is not None:
            return await handle.tx([(offset, piece)], if_lvc=if_lvc)
        return await handle.write(offset, piece)

    done = client.run(work)
    client.out.document(
        done, lambda: client.out.say(f"wrote {len(piece)} bytes at {offset}: lvc {done.lvc}, epoch {done.epoch}")
    )


@click.command(
    epilog="\b\nExample:\n  lastgood read room-17 --offset 0 --length 16 | xxd\n  "
    "lastgood read room-17 --snapshot @v2.3.0 -o old.bin"
)
@click.argument("space", type=SPACE)
@click.option("--offset", type=NATURAL, default=0, help="The first byte.")
@click.option("--length", type=NATURAL, default=None, help="How many bytes.  [default: up to the end]")
@click.option("--snapshot", "ref", type=SNAPSHOT, default=None, metavar="ID|@LABEL", help="Read this snapshot.")
@click.option("--at-lvc", type=NATURAL, default=None, help="Read the state right after this LVC.")
@click.option("-o", "--output", type=click.Path(dir_okay=False, path_type=Path), default=None, help="Write to a file.")
@client_options
def read(
    client: Client,
    space: str,
    offset: int,
    length: int | None,
    ref: str | None,
    at_lvc: int | None,
    output: Path | None,
) -> None:
    """Read bytes, to stdout or a file. They are of one moment: long reads go through a snapshot.

    With --json the bytes come as base64, unless they go to a file.
    """
    if ref is not None and at_lvc is not None:
        raise click.UsageError("--snapshot and --at-lvc exclude each other")

    async def work(store: lastgood.Store) -> dict[str, object]:
        handle = await store.space(space)
        with _sink(client, output) as sink:
            count = 0
            # Closed here, not by the garbage collector: it holds a pinned snapshot.
            async with contextlib.aclosing(_pieces(handle, offset, length, ref, at_lvc)) as pieces:
                async for piece in pieces:
                    count += len(piece)
                    if client.out.as_json and output is None and count > _JSON_BYTES_MAX:
                        raise click.UsageError(f"more than {_JSON_BYTES_MAX} bytes: use -o FILE with --json")
                    sink.add(piece)
            return {"space": space, "offset": offset, "length": count, "data": sink.base64()}

    done = client.run(work)
    if client.out.as_json:
        client.out.document(done, lambda: None)
    elif output is not None:
        click.echo(f"read {done['length']} bytes to {output}")


async def _pieces(
    handle: lastgood.Space, offset: int, length: int | None, ref: str | None, at_lvc: int | None
) -> AsyncGenerator[bytes, None]:
    """Short reads and those at an LVC at once, long ones through a snapshot."""
    if at_lvc is not None:
        yield await handle.read(offset, length, at_lvc=at_lvc)
        return
    if length is not None and length <= READ_BYTES_MAX:
        yield await handle.read(offset, length, snapshot=ref)
        return
    if ref is None and (await handle.info()).size - offset < READ_BYTES_MAX:
        piece = await handle.read(offset, READ_BYTES_MAX)
        if len(piece) < READ_BYTES_MAX:  # that was all, so it was of one moment
            yield piece
            return
    async with held_snapshot(handle, ref) as source:
        if offset > source.size:
            raise lastgood.RangeNotSatisfiable(f"offset {offset} lies outside the {source.size} bytes of {handle.name}")
        async with contextlib.aclosing(stream_out(handle, source, offset=offset, length=length)) as pieces:
            async for piece in pieces:
                yield piece


class _Sink:
    """Where read bytes go: a file, stdout, or memory for JSON."""

    def __init__(self, file: BinaryIO | None) -> None:
        self._file = file
        self._kept = bytearray()

    def add(self, piece: bytes) -> None:
        if self._file is not None:
            self._file.write(piece)
        else:
            self._kept += piece

    def base64(self) -> str | None:
        return None if self._file is not None else base64.b64encode(self._kept).decode()


@contextlib.contextmanager
def _sink(client: Client, output: Path | None) -> Iterator[_Sink]:
    if output is not None:
        with open(output, "wb") as file:
            yield _Sink(file)
    elif client.out.as_json:
        yield _Sink(None)
    else:
        yield _Sink(sys.stdout.buffer)
        sys.stdout.buffer.flush()


@click.command("import", epilog="\b\nExample:\n  lastgood space create world\n  lastgood import world world.sqlite")
@click.argument("space", type=SPACE)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@client_options
def import_(client: Client, space: str, file: Path) -> None:
    """Make a space's bytes those of a file, by a row of transactions.

    A snapshot is taken first. When the import fails half way, the message names the LVC to roll back to.
    """

    async def work(store: lastgood.Store) -> lastgood.Imported:
        handle = await store.space(space)
        with client.out.progress(f"import {file.name}") as progress:
            return await handle.import_file(file, progress=progress)

    done = client.run(work)
    text = (
        f"imported {done.bytes} bytes ({size_text(done.bytes)}) into {space}: lvc {done.lvc}; "
        f"the state before is lvc {done.rollback_lvc}, snapshot {done.snapshot}"
    )
    client.out.document(done, lambda: client.out.say(text))


@click.command(epilog="\b\nExample:\n  lastgood export world world.sqlite\n  lastgood export world@v2.3.0 old.sqlite")
@click.argument("source", metavar="SPACE[@SNAPSHOT]", type=SPACE_AT)
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@client_options
def export(client: Client, source: tuple[str, str | None], file: Path) -> None:
    """Write a space, or one of its snapshots, to a file: bytes of one moment, and the file appears when it is whole."""
    space, ref = source
    if not os.path.isdir(file.parent):
        raise click.UsageError(f"the folder {file.parent} does not exist")

    async def work(store: lastgood.Store) -> lastgood.Exported:
        handle = await store.space(space)
        with client.out.progress(f"export {space}") as progress:
            return await handle.export_file(file, snapshot=ref, progress=progress)

    done = client.run(work)
    text = f"exported {done.bytes} bytes ({size_text(done.bytes)}) of {space} at lvc {done.lvc} to {file}"
    client.out.document(done, lambda: client.out.say(text))
