"""`lastgood snapshot …`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import click
import lastgood

from cluster.cli.client import Client, client_options
from cluster.cli.output import Output, moment, size_text
from cluster.cli.refs import LABEL, SNAPSHOT, SPACE

T = TypeVar("T")


@click.group(epilog="\b\nExample:\n  lastgood snapshot create room-17 --label v2.3.0")
def snapshot() -> None:
    """Create, list, show, compare, pin and delete snapshots."""


@snapshot.command(
    "create",
    epilog="\b\nExample:\n  lastgood snapshot create room-17 --label v2.3.0\n  "
    "lastgood snapshot create room-1 room-2 --label release",
)
@click.argument("spaces", type=SPACE, nargs=-1)
@click.option("--prefix", default=None, help="All spaces whose name starts so, instead of naming them.")
@click.option("--label", type=LABEL, default=None, help="A name; the newest living one under it is meant by @LABEL.")
@click.option("--kind", type=click.Choice(["auto", "incremental", "full"]), default="auto", show_default=True)
@click.option("--ttl-s", type=click.FloatRange(1), default=None, help="How long it lives, in seconds.")
@click.option("--pin", is_flag=True, help="Keep it until it is unpinned.")
@client_options
def create(
    client: Client,
    spaces: tuple[str, ...],
    prefix: str | None,
    label: str | None,
    kind: str,
    ttl_s: float | None,
    pin: bool,
) -> None:
    """Take a snapshot of a space; of several spaces at one moment when more are named."""
    if bool(spaces) == (prefix is not None):
        raise click.UsageError("name spaces, or give --prefix")
    many = prefix is not None or len(spaces) > 1
    if many and kind != "auto":
        raise click.UsageError("--kind goes with one space")

    async def take(store: lastgood.Store) -> lastgood.Snapshot | lastgood.Cut:
        if many:
            names = None if prefix is not None else spaces
            return await store.snapshot_many(names, prefix=prefix, label=label, ttl_s=ttl_s, pin=pin)
        handle = await store.space(spaces[0])
        return await handle.snapshot(label, kind=kind, ttl_s=ttl_s, pin=pin)

    made = client.run(take)

    def human() -> None:
        if isinstance(made, lastgood.Cut):
            _table(client.out, made.snapshots, with_space=True)
        else:
            _show(client.out, made)

    client.out.document(made, human)


@snapshot.command("list", epilog="\b\nExample:\n  lastgood snapshot list room-17")
@click.argument("space", type=SPACE)
@click.option("--limit", type=click.IntRange(1), default=None, help="Only the newest so many.")
@client_options
def list_(client: Client, space: str, limit: int | None) -> None:
    """List a space's living snapshots, newest first."""

    async def ask(store: lastgood.Store) -> list[lastgood.Snapshot]:
        handle = await store.space(space)
        found: list[lastgood.Snapshot] = []
        async for one in handle.snapshots():
            found.append(one)
            if len(found) == limit:
                break
        return found

    found = client.run(ask)
    client.out.document(found, lambda: _table(client.out, found, with_space=False))


@snapshot.command("show", epilog="\b\nExample:\n  lastgood snapshot show room-17 @v2.3.0")
@click.argument("space", type=SPACE)
@click.argument("ref", metavar="ID|@LABEL", type=SNAPSHOT)
@client_options
def show(client: Client, space: str, ref: str) -> None:
    """Show one snapshot."""
    found = _on_space(client, space, lambda handle: handle.get_snapshot(ref))
    client.out.document(found, lambda: _show(client.out, found))


@snapshot.command("diff", epilog="\b\nExample:\n  lastgood snapshot diff room-17 @v2.3.0 live")
@click.argument("space", type=SPACE)
@click.argument("a", metavar="ID|@LABEL", type=SNAPSHOT)
@click.argument("b", metavar="[ID|@LABEL|live]", default="live")
@client_options
def diff(client: Client, space: str, a: str, b: str) -> None:
    """Show which pages differ between two snapshots, or between one and the live space."""
    other = None if b == "live" else str(SNAPSHOT.convert(b, None, None))
    found = _on_space(client, space, lambda handle: handle.diff(a, other))

    def human() -> None:
        client.out.say(f"{found.pages_changed} pages changed ({size_text(found.bytes_changed)})")
        if found.ranges:
            client.out.table(["first page", "count"], found.ranges)

    client.out.document(found, human)


@snapshot.command("pin", epilog="\b\nExample:\n  lastgood snapshot pin room-17 @v2.3.0 --holder release-notes")
@click.argument("space", type=SPACE)
@click.argument("ref", metavar="ID|@LABEL", type=SNAPSHOT)
@click.option("--holder", default="default", show_default=True, help="In whose name.")
@client_options
def pin(client: Client, space: str, ref: str, holder: str) -> None:
    """Keep a snapshot until it is unpinned."""
    found = _on_space(client, space, lambda handle: handle.pin(ref, holder))
    client.out.document(found, lambda: client.out.say(f"snapshot {found.id} is pinned by {', '.join(found.pins)}"))


@snapshot.command("unpin", epilog="\b\nExample:\n  lastgood snapshot unpin room-17 @v2.3.0 --holder release-notes")
@click.argument("space", type=SPACE)
@click.argument("ref", metavar="ID|@LABEL", type=SNAPSHOT)
@click.option("--holder", default="default", show_default=True, help="In whose name.")
@client_options
def unpin(client: Client, space: str, ref: str, holder: str) -> None:
    """Take a pin off."""
    found = _on_space(client, space, lambda handle: handle.unpin(ref, holder))
    held = f"is still pinned by {', '.join(found.pins)}" if found.pins else "is not pinned any more"
    client.out.document(found, lambda: client.out.say(f"snapshot {found.id} {held}"))


@snapshot.command("delete", epilog="\b\nExample:\n  lastgood snapshot delete room-17 12")
@click.argument("space", type=SPACE)
@click.argument("ref", metavar="ID|@LABEL", type=SNAPSHOT)
@client_options
def delete(client: Client, space: str, ref: str) -> None:
    """Delete a snapshot."""
    _on_space(client, space, lambda handle: handle.delete_snapshot(ref))
    document = {"space": space, "deleted": ref}
    client.out.document(document, lambda: client.out.say(f"deleted snapshot {ref} of {space}"))


def _on_space(client: Client, space: str, ask: Callable[[lastgood.Space], Awaitable[T]]) -> T:
    async def work(store: lastgood.Store) -> T:
        return await ask(await store.space(space))

    return client.run(work)


def _show(out: Output, one: lastgood.Snapshot) -> None:
    out.facts(
        [
            ("snapshot", one.id),
            ("label", one.label),
            ("space", one.space),
            ("kind", f"{one.kind} ({one.reason})"),
            ("base", one.base),
            ("lvc", one.lvc),
            ("epoch", one.epoch),
            ("root", one.root),
            ("size", one.size),
            ("pages", one.pages),
            ("dirty pages", one.dirty_pages),
            ("bytes", one.bytes),
            ("index", one.index),
            ("created", one.created),
            ("expires", one.expires),
            ("pins", ", ".join(one.pins) or None),
        ]
    )


def _table(out: Output, found: list[lastgood.Snapshot], *, with_space: bool) -> None:
    columns = ["space", "id", "label", "kind", "reason", "lvc", "size", "dirty", "created", "pins"]
    rows = [
        (
            one.space,
            one.id,
            one.label,
            one.kind,
            one.reason,
            one.lvc,
            size_text(one.size),
            one.dirty_pages,
            moment(one.created),
            ",".join(one.pins) or None,
        )
        for one in found
    ]
    first = 0 if with_space else 1
    out.table(columns[first:], [row[first:] for row in rows])
