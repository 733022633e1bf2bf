"""`lastgood space …`."""

from __future__ import annotations

import click
import lastgood

from cluster.cli.client import Client, client_options
from cluster.cli.output import Output, size_text
from cluster.cli.refs import SPACE, SPACE_AT


@click.group(epilog="\b\nExample:\n  lastgood space create room-17 --page-size 8192")
def space() -> None:
    """Create, list, show and delete spaces."""


def _policy_options(function: click.decorators.FC) -> click.decorators.FC:
    options = [
        click.option("--dirty-ratio", type=click.FloatRange(0, 1, min_open=True), help="Hybrid snapshot from here on."),
        click.option("--dirty-pages-min", type=click.IntRange(0), help="… but not below so many dirty pages."),
        click.option("--lvc-delta", type=click.IntRange(1), help="Hybrid snapshot after so many transactions."),
        click.option("--interval-s", type=click.FloatRange(0), help="Snapshot every so many seconds; 0 = off."),
        click.option("--ring", type=click.IntRange(1, 65536), help="How many snapshots of each sort are kept."),
        click.option("--ttl-s", type=click.FloatRange(1), help="How long snapshots live, in seconds."),
        click.option("--undo-bytes", type=click.IntRange(0), help="How many bytes of before-images are kept."),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@space.command(
    "create",
    epilog="\b\nExample:\n  lastgood space create room-17 --ring 32\n  lastgood space create copy --from room-17@good",
)
@click.argument("name", type=SPACE)
@click.option("--page-size", type=click.IntRange(4096, 65536), help="A power of two.  [default: 4096]")
@click.option("--max-pages", type=click.IntRange(1), help="The space can't grow beyond so many pages.")
@click.option("--from", "source", type=SPACE_AT, help="Start as this snapshot: SPACE@SNAPSHOT.")
@_policy_options
@client_options
def create(
    client: Client,
    name: str,
    page_size: int | None,
    max_pages: int | None,
    source: tuple[str, str | None] | None,
    **policy: float | None,
) -> None:
    """Create a space. One that exists with the same settings is fine."""
    if page_size is not None and page_size & (page_size - 1):
        raise click.BadParameter(f"{page_size} is not a power of two", param_hint="--page-size")
    fork: tuple[str, str] | None = None
    if source is not None:
        if source[1] is None:
            raise click.BadParameter("write SPACE@SNAPSHOT", param_hint="--from")
        fork = (source[0], source[1])
    given = {key: value for key, value in policy.items() if value is not None}

    async def make(store: lastgood.Store) -> lastgood.SpaceInfo:
        handle = await store.space(
            name,
            create=True,
            page_size=page_size,
            max_pages=max_pages,
            policy=lastgood.Policy(**given) if given else None,  # type: ignore[arg-type]
            fork=fork,
        )
        return await handle.info()

    made = client.run(make)
    client.out.document(made, lambda: _show(client.out, made))


@space.command("list", epilog="\b\nExample:\n  lastgood space list --prefix room-")
@click.option("--prefix", default=None, help="Only names that start so.")
@client_options
def list_(client: Client, prefix: str | None) -> None:
    """List spaces."""

    async def ask(store: lastgood.Store) -> list[lastgood.SpaceInfo]:
        return [found async for found in store.spaces(prefix)]

    found = client.run(ask)
    rows = [
        (one.name, size_text(one.size), one.pages, one.lvc, one.epoch, one.state, one.dirty_pages, one.last_snapshot)
        for one in found
    ]
    columns = ["space", "size", "pages", "lvc", "epoch", "state", "dirty", "snapshot"]
    client.out.document(found, lambda: client.out.table(columns, rows))


@space.command("show", epilog="\b\nExample:\n  lastgood space show room-17")
@click.argument("name", type=SPACE)
@client_options
def show(client: Client, name: str) -> None:
    """Show one space."""

    async def ask(store: lastgood.Store) -> lastgood.SpaceInfo:
        return await store.space_info(name)

    found = client.run(ask)
    client.out.document(found, lambda: _show(client.out, found))


@space.command("delete", epilog="\b\nExample:\n  lastgood space delete room-17")
@click.argument("name", type=SPACE)
@client_options
def delete(client: Client, name: str) -> None:
    """Delete a space with its snapshots and its undo window. There is no way back."""

    async def drop(store: lastgood.Store) -> None:
        handle = await store.space(name)
        await handle.delete()

    client.run(drop)
    client.out.document({"deleted": name}, lambda: client.out.say(f"deleted {name}"))


def _show(out: Output, found: lastgood.SpaceInfo) -> None:
    policy = found.policy
    out.facts(
        [
            ("space", found.name),
            ("uid", found.uid),
            ("state", found.state),
            ("size", found.size),
            ("page size", found.page_size),
            ("pages", found.pages),
            ("lvc", found.lvc),
            ("epoch", found.epoch),
            ("dirty pages", found.dirty_pages),
            ("dirty ratio", found.dirty_ratio),
            ("baseline", found.baseline),
            ("last snapshot", found.last_snapshot),
            ("undo from lvc", found.undo_from_lvc),
            ("created", found.created),
            (
                "policy",
                f"dirty_ratio={policy.dirty_ratio} dirty_pages_min={policy.dirty_pages_min} "
                f"lvc_delta={policy.lvc_delta} interval_s={policy.interval_s} ring={policy.ring} "
                f"ttl_s={policy.ttl_s} undo_bytes={policy.undo_bytes}",
            ),
        ]
    )
