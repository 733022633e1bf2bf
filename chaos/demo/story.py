"""The order of the demo, its cluster, and its end."""

from __future__ import annotations

import asyncio
import json
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import click
import lastgood

from chaos.arena import Arena
from chaos.demo import faults, steps
from chaos.demo.stage import Shown, Stage, table
from chaos.door import Door
from chaos.fabric import Fabric
from chaos.workload import Workload
from cluster.local import LocalCluster, LocalClusterError

# So small that checkpoints, compaction and an install happen while one watches.
SETTINGS: Final[dict[str, Any]] = {
    "journal_bytes_max": 8 << 20,
    "checkpoint_bytes": 2 << 20,
    "checkpoint_interval_ms": 2_000,
    "ballast_bytes": 4 << 20,
    "heap_step_bytes": 8 << 20,
}


def tell(original: Path | None, *, keep: bool, as_json: bool) -> bool:
    """Plays the demo; True when every check held. The temporary folder goes, unless `keep` or something failed."""
    folder = Path(tempfile.mkdtemp(prefix="lastgood-demo-"))
    started = time.monotonic()
    say = (lambda text: None) if as_json else click.echo
    fabric = Fabric()
    cluster = LocalCluster.create(folder / "cluster", settings=SETTINGS, peers_of=fabric.peers_of)
    played: list[Shown] = []
    holds = kept = False
    try:
        fabric.start()
        holds = asyncio.run(_play(folder, fabric, cluster, original, say, played))
        if keep:
            fabric.close()
            _leave_running(cluster)
            kept = True
    except LocalClusterError as error:
        say(f"FAIL  {error}")
    finally:
        if not kept:
            cluster.stop(grace_s=5.0)
        fabric.close()
        if holds and not kept:
            shutil.rmtree(folder, ignore_errors=True)
    _end(say, played, holds, kept, folder, cluster, time.monotonic() - started)
    if as_json:
        click.echo(
            json.dumps(_document(played, holds, cluster if kept else None, folder if kept or not holds else None))
        )
    return holds


async def _play(
    folder: Path, fabric: Fabric, cluster: LocalCluster, original: Path | None, say: Any, played: list[Shown]
) -> bool:
    urls = {node.id: node.http for node in cluster.nodes}
    async with Door(urls) as door, lastgood.connect(cluster.endpoints) as store:
        idle = Workload(door, seed=steps.SEED)
        arena = Arena(cluster, fabric, idle, door=door, seconds=0, seed=steps.SEED, out=lambda text: None)
        stage = Stage(folder, fabric, cluster, store, arena, say, steps=played)
        say("A cluster of three processes on this machine looks after a file. Every claim below is checked.")
        for title, act in (
            ("start", _start),
            ("file", steps.make_source(original)),
            ("import", steps.import_file),
            ("baseline", steps.baseline),
            ("work", steps.work),
            ("hot update", steps.hot_update),
            ("rollback", steps.roll_back),
            ("partition", faults.lagging_follower),
            ("killed leader", faults.killed_leader),
            ("equal nodes", faults.equal_roots),
        ):
            shown = await stage.step(title, act)
            if not shown.holds:
                break  # what follows would only repeat the failure in other words
        return stage.holds


async def _start(stage: Stage, shown: Shown) -> None:
    """Three nodes, each pair of them linked through a proxy that can be cut."""
    await asyncio.to_thread(stage.cluster.start)
    await asyncio.to_thread(stage.cluster.wait_ready)
    leader = await stage.arena.leader()
    shown.said = f"{', '.join(stage.cluster.ids)} are ready, {leader} leads; journals of 8 MiB, checkpoints every 2 MiB"
    shown.checks.append(("there is a leader", leader in stage.cluster.ids))


def _leave_running(cluster: LocalCluster) -> None:
    """The proxies end with this process, so the nodes get each other's own addresses and start again with them."""
    cluster.stop(grace_s=5.0)
    cluster.rewire()
    cluster.start()
    cluster.wait_ready()


def _end(
    say: Any, played: list[Shown], holds: bool, kept: bool, folder: Path, cluster: LocalCluster, seconds: float
) -> None:
    say("")
    if played:
        for line in table(played):
            say(line)
    say(f"{'every check held' if holds else 'NOT every check held'}, {seconds:.1f} s in all")
    if kept:
        endpoints = ",".join(cluster.endpoints)
        say(f"\nThe cluster goes on. Look at it, then stop it:\n  lastgood status --endpoints {endpoints}")
        say(f"  lastgood snapshot list {steps.SPACE} --endpoints {endpoints}\n  lastgood down --data {cluster.folder}")
    elif not holds:
        say(f"the nodes' logs are in {folder}")


def _document(played: list[Shown], holds: bool, cluster: LocalCluster | None, folder: Path | None) -> dict[str, Any]:
    return {
        "holds": holds,
        "steps": [
            {
                "title": shown.title,
                "said": shown.said,
                "seconds": round(shown.seconds, 3),
                "checks": [{"text": text, "holds": held} for text, held in shown.checks],
            }
            for shown in played
        ],
        "endpoints": cluster.endpoints if cluster is not None else None,
        "folder": str(folder) if folder is not None else None,
    }
