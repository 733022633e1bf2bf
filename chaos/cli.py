"""`lastgood chaos run` and `lastgood demo`: commands that the server's command line finds by entry point."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import click

from chaos.run import Report, run_scenario
from chaos.scenarios import SCENARIOS

CHAOS_EXAMPLE = "\b\nExample:\n  lastgood chaos run partition-leader --seconds 20 --seed 7"
HELP = {"help_option_names": ["-h", "--help"]}
DEMO_EXAMPLE = "\b\nExample:\n  lastgood demo\n  lastgood demo --input save.db --keep"


@click.group("chaos", epilog=CHAOS_EXAMPLE, context_settings=HELP)
def chaos() -> None:
    """Hurt a cluster and judge what it did."""


@chaos.command("run", epilog=CHAOS_EXAMPLE, context_settings=HELP)
@click.argument("scenario", type=click.Choice(sorted(SCENARIOS)))
@click.option("--seconds", type=click.FloatRange(1, 86_400), default=20.0, show_default=True, help="How long it hurts.")
@click.option("--seed", type=click.IntRange(0), default=1, show_default=True, help="Chance of clients and faults.")
@click.option("--nodes", type=click.IntRange(3, 9), default=3, show_default=True, help="How many nodes.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def run(scenario: str, seconds: float, seed: int, nodes: int, as_json: bool) -> None:
    """Run one fault scenario on a temporary local cluster. Needs no root.

    Prints what happened and a verdict; exits 0 only when everything holds.
    """
    _end_on_sigterm()
    report = run_scenario(
        SCENARIOS[scenario],
        seconds=seconds,
        seed=seed,
        nodes=nodes,
        out=(lambda text: None) if as_json else click.echo,
    )
    if as_json:
        click.echo(json.dumps(_as_document(report)))
    else:
        for line in verdict_lines(report):
            click.echo(line)
    raise SystemExit(0 if report.holds else 1)


@click.command("demo", epilog=DEMO_EXAMPLE, context_settings=HELP)
@click.option(
    "--input",
    "source",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Any file, not the SQLite one.",
)
@click.option("--keep", is_flag=True, help="Leave the cluster running at the end.")
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout.")
def demo(source: Path | None, keep: bool, as_json: bool) -> None:
    """The main job from end to end on a temporary three-node cluster, in under 90 seconds."""
    from chaos.demo.story import tell

    _end_on_sigterm()
    raise SystemExit(0 if tell(source, keep=keep, as_json=as_json) else 1)


def _end_on_sigterm() -> None:
    """SIGTERM becomes an ordinary exception, so that whoever stops the run does not leave its nodes behind."""

    def leave(number: int, _frame: object) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, leave)


def verdict_lines(report: Report) -> list[str]:
    """The end of a report as people read it."""
    lines = [""]
    lines += [f"{'ok  ' if finding.holds else 'FAIL'}  {finding.name}: {finding.detail}" for finding in report.findings]
    lines += [f"      {name}: {text}" for name, text in report.notes.items()]
    verdict = "HOLDS" if report.holds else "DOES NOT HOLD"
    lines.append(f"{verdict}: {report.scenario} --seed {report.seed}, {report.seconds:.1f} s")
    if report.folder is not None:
        lines.append(f"history and logs are in {report.folder}")
    return lines


def _as_document(report: Report) -> dict[str, object]:
    return {
        "scenario": report.scenario,
        "seed": report.seed,
        "holds": report.holds,
        "seconds": round(report.seconds, 1),
        "findings": [{"name": row.name, "holds": row.holds, "detail": row.detail} for row in report.findings],
        "notes": report.notes,
        "folder": str(report.folder) if report.folder is not None else None,
    }
