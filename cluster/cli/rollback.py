"""`lastgood rollback` and `lastgood wal`: going back, and what makes it possible."""

from __future__ import annotations

import click
import lastgood
import msgspec

from cluster.cli.client import Client, client_options
from cluster.cli.output import moment, size_text
from cluster.cli.refs import NATURAL, SNAPSHOT, SPACE


@click.command(
    epilog="\b\nExample:\n  lastgood rollback room-17 @v2.3.0 --dry-run\n  lastgood rollback room-17 @v2.3.0\n  "
    "lastgood rollback room-17 --lvc 1042"
)
@click.argument("space", type=SPACE)
@click.argument("target", metavar="[ID|@LABEL]", type=SNAPSHOT, required=False)
@click.option("--lvc", type=NATURAL, default=None, help="To the state right after this LVC, instead of a snapshot.")
@click.option("--dry-run", is_flag=True, help="Only say what would change.")
@click.option("--if-lvc", type=NATURAL, default=None, help="Refuse unless the space is at this LVC.")
@click.option("--reason", default=None, help="Kept in the event.")
@client_options
def rollback(
    client: Client,
    space: str,
    target: str | None,
    lvc: int | None,
    dry_run: bool,
    if_lvc: int | None,
    reason: str | None,
) -> None:
    """Bring a space back to a snapshot, or to the state right after an LVC.

    The state that is left is kept as a snapshot, so this can be undone in the same way.
    """
    if (target is None) == (lvc is None):
        raise click.UsageError("name either a snapshot (ID or @LABEL) or --lvc N")

    async def work(store: lastgood.Store) -> lastgood.RolledBack | lastgood.DryRun:
        handle = await store.space(space)
        if dry_run:
            return await handle.rollback_dry_run(target, lvc=lvc)
        return await handle.rollback(target, lvc=lvc, if_lvc=if_lvc, reason=reason)

    done = client.run(work)

    def human() -> None:
        if isinstance(done, lastgood.DryRun):
            client.out.say(f"{done.pages_changed} pages would change")
            if done.ranges:
                client.out.table(["first page", "count"], done.ranges)
            return
        client.out.facts(
            [
                ("space", space),
                ("from lvc", done.from_lvc),
                ("to lvc", done.to_lvc),
                ("lvc", done.lvc),
                ("epoch", done.epoch),
                ("snapshot", done.snapshot),
                ("left snapshot", done.left_snapshot),
                ("pages reverted", done.pages_reverted),
                ("verified", done.verified),
                ("took ms", done.took_ms),
            ]
        )

    client.out.document(done, human)


@click.command(epilog="\b\nExample:\n  lastgood wal room-17 --limit 20\n  lastgood wal room-17 --json | head -1")
@click.argument("space", type=SPACE)
@click.option("--from-seq", type=NATURAL, default=0, help="Begin with this log_seq.")
@click.option("--limit", type=click.IntRange(1), default=None, help="At most so many.")
@client_options
def wal(client: Client, space: str, from_seq: int, limit: int | None) -> None:
    """Show the before-images of a space's undo window, oldest first; with --json a line each, with the bytes."""

    async def ask(store: lastgood.Store) -> list[lastgood.WalRecord]:
        handle = await store.space(space)
        records: list[lastgood.WalRecord] = []
        async for record in handle.wal(from_seq, limit=limit):
            if client.out.as_json:
                client.out.line(record, "")
            else:
                records.append(msgspec.structs.replace(record, before=None))
        return records

    records = client.run(ask)
    if client.out.as_json:
        return
    rows = [
        (
            one.log_seq,
            one.kind or "write",
            one.lvc,
            one.epoch,
            one.offset,
            size_text(one.length),
            one.tx_id,
            moment(one.at),
        )
        for one in records
    ]
    client.out.table(["seq", "kind", "lvc", "epoch", "offset", "length", "tx", "at"], rows)
