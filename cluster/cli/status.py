"""`lastgood status`, `watch`, `transfers`: looking at the cluster."""

from __future__ import annotations

import asyncio
from typing import Any

import click
import lastgood
import msgspec

from cluster.cli.client import Client, client_options, failure
from cluster.cli.output import json_text, size_text
from cluster.cli.refs import NATURAL, SPACE


@click.command(epilog="\b\nExample:\n  lastgood status --endpoints 127.0.0.1:7801,127.0.0.1:7802")
@client_options
def status(client: Client) -> None:
    """Show the cluster: who leads, and how far each node is."""

    async def ask(store: lastgood.Store) -> lastgood.ClusterStatus:
        return await store.cluster()

    cluster = client.run(ask)

    def human() -> None:
        client.out.facts(
            [
                ("cluster", cluster.cluster_id),
                ("leader", cluster.leader),
                ("term", cluster.term),
                ("committed", cluster.commit_index),
                ("applied", cluster.applied_index),
            ]
        )
        rows = [
            (node.id, node.role, node.state, node.reachable, node.match_index, node.lag_entries, node.http)
            for node in cluster.nodes
        ]
        client.out.table(["node", "role", "state", "reachable", "match", "lag", "http"], rows)

    client.out.document(cluster, human)


@click.command(
    epilog="\b\nExample:\n  lastgood watch --space room-17 --types rollback.confirmed,snapshot.created --json"
)
@click.option("--space", type=SPACE, default=None, help="Only events of this space.")
@click.option("--types", default=None, metavar="TYPE,…", help="Only events of these types.")
@click.option("--after", type=NATURAL, default=None, help="Begin after this event; 0 = with the oldest kept.")
@click.option("--count", type=click.IntRange(1), default=None, help="End after so many events.")
@client_options
def watch(client: Client, space: str | None, types: str | None, after: int | None, count: int | None) -> None:
    """Print events as they come, until Ctrl-C."""
    wanted = [name.strip() for name in types.split(",") if name.strip()] if types else None

    async def follow(store: lastgood.Store) -> None:
        left = count
        async for event in store.events(space=space, types=wanted, after=after):
            client.out.line(_event_document(event), _event_text(event))
            if left is not None:
                left -= 1
                if left == 0:
                    return

    try:
        client.run(follow)
    except KeyboardInterrupt:
        return


def _event_document(event: lastgood.Event) -> dict[str, Any]:
    named = {"seq": event.seq, "index": event.index, "type": event.type, "space": event.space, "at": event.at}
    return named | event.facts


def _event_text(event: lastgood.Event) -> str:
    facts = " ".join(
        f"{name}={value if isinstance(value, str) else json_text(value)}"
        for name, value in event.facts.items()
        if value is not None
    )
    number = "-" if event.seq is None else str(event.seq)
    return f"{event.at or '-'}  {number:>6}  {event.type:<19} {event.space or '-'}  {facts}".rstrip()


@click.command(epilog="\b\nExample:\n  lastgood transfers --json")
@client_options
def transfers(client: Client) -> None:
    """Show running and lately finished transfers of every named node."""

    async def ask_one(url: str) -> list[lastgood.Transfer] | lastgood.LastgoodError:
        try:
            async with client.connect([url]) as store:
                return await store.transfers()
        except lastgood.LastgoodError as error:
            return error

    async def ask_all() -> list[list[lastgood.Transfer] | lastgood.LastgoodError]:
        return await asyncio.gather(*(ask_one(url) for url in client.endpoints))

    answers = dict(zip(client.endpoints, asyncio.run(ask_all()), strict=True))
    failures = [answer for answer in answers.values() if isinstance(answer, lastgood.LastgoodError)]
    if len(failures) == len(answers):
        raise failure(failures[0], as_json=client.out.as_json)
    found = [(url, one) for url, answer in answers.items() if isinstance(answer, list) for one in answer]
    documents = [{"endpoint": url, **msgspec.to_builtins(one)} for url, one in found]

    def human() -> None:
        rows = [
            (
                url,
                one.direction,
                one.peer,
                one.purpose,
                one.state,
                size_text(one.done_bytes),
                size_text(one.total_bytes),
                size_text(one.resent_bytes),
                one.resumes,
                one.eta_s,
            )
            for url, one in found
        ]
        columns = ["endpoint", "dir", "peer", "purpose", "state", "done", "total", "resent", "resumes", "eta s"]
        client.out.table(columns, rows)

    client.out.document(documents, human)
