"""One fault run from start to verdict: a cluster behind proxies, clients, a scenario, the heal, the judgement."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from chaos.arena import Arena, NoLeader
from chaos.door import Door
from chaos.fabric import Fabric, FabricError
from chaos.judge import Finding, Judge
from chaos.scenarios.base import Scenario
from chaos.workload import Workload
from cluster.local import LocalCluster, LocalClusterError

CALM_START_S = 1.0
RECOVERY_S_MAX = 15.0
CALM_END_S = 1.0
CATCH_UP_S_MAX = 30.0


@dataclass
class Report:
    """What a run found. `holds` only when every finding does."""

    scenario: str
    seed: int
    findings: list[Finding] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    folder: Path | None = None  # kept when the run did not hold

    @property
    def holds(self) -> bool:
        return bool(self.findings) and all(finding.holds for finding in self.findings)


def run_scenario(
    scenario: Scenario,
    *,
    seconds: float,
    seed: int,
    nodes: int = 3,
    out: Callable[[str], None],
    env: Mapping[str, str] | None = None,
    folder: Path | None = None,
) -> Report:
    """Runs it on a temporary cluster. The folder stays, with history and logs, when something did not hold."""
    root = Path(tempfile.mkdtemp(prefix="lastgood-chaos-")) if folder is None else folder
    report = Report(scenario.name, seed)
    started = time.monotonic()
    try:
        with Fabric() as fabric:
            cluster = LocalCluster.create(
                root, nodes=nodes, settings=dict(scenario.settings), env=env, peers_of=fabric.peers_of
            )
            fabric.start()
            try:
                cluster.start()
                cluster.wait_ready()
                asyncio.run(_hurt_and_judge(scenario, cluster, fabric, seconds, report, out))
            finally:
                _record_logs(cluster, report, out)
                cluster.stop(grace_s=5.0)
    except (LocalClusterError, FabricError, NoLeader, RuntimeError) as error:
        report.findings.append(Finding("the run itself", False, str(error)))
    report.seconds = time.monotonic() - started
    if report.holds:
        shutil.rmtree(root, ignore_errors=True)
    else:
        report.folder = root
    return report


async def _hurt_and_judge(
    scenario: Scenario,
    cluster: LocalCluster,
    fabric: Fabric,
    seconds: float,
    report: Report,
    out: Callable[[str], None],
) -> None:
    urls = {node.id: node.http for node in cluster.nodes}
    async with Door(urls) as door:
        workload = Workload(door, seed=report.seed, shape=scenario.shape)
        await workload.prepare()
        arena = Arena(cluster, fabric, workload, door=door, seconds=seconds, seed=report.seed, out=out)
        arena.say(f"{scenario.name}: {scenario.about}; seed {report.seed}, {len(urls)} nodes")
        clients = asyncio.create_task(workload.run())
        try:
            await asyncio.sleep(CALM_START_S)
            began = time.monotonic()
            await scenario.run(arena)
            ended = time.monotonic()
            await _recover(arena, report)
            await asyncio.sleep(CALM_END_S)
        finally:
            workload.stop()
            await clients
            workload.history.save(cluster.folder / "history.jsonl")
        await asyncio.to_thread(cluster.wait_ready, timeout_s=30.0)
        silent = await workload.read_everywhere(within_s=CATCH_UP_S_MAX)
        detail = (
            f"no answer from {', '.join(silent)}" if silent else f"{len(urls)} of {len(urls)} answer linearizable reads"
        )
        report.findings.append(Finding("every node comes back", not silent, detail))
        arena.say("clients stopped; judging")
        _progress(scenario, arena, report, began, ended)
        report.notes |= await _seen(arena)
        report.findings += await Judge(door, workload.history, workload.spaces).findings()
        report.notes |= arena.notes
        report.findings += [Finding("the scenario's own checks", False, text) for text in arena.failures]


async def _recover(arena: Arena, report: Report) -> None:
    """Ends the faults and measures how long it takes until writes are acknowledged again."""
    healed = time.monotonic()
    await arena.make_whole()
    wait = await arena.acknowledged_within(RECOVERY_S_MAX)
    took = time.monotonic() - healed
    arena.say(f"every fault ended; writes acknowledged {'after ' + format(took, '.2f') + ' s' if wait else 'NEVER'}")
    detail = f"a write was acknowledged {took:.2f} s after the last heal"
    report.findings.append(Finding("recovers by itself", wait is not None, detail if wait else "no write acknowledged"))


def _progress(scenario: Scenario, arena: Arena, report: Report, began: float, ended: float) -> None:
    history = arena.workload.history
    kinds = {kind: history.count("ok", [kind]) for kind in ("write", "read", "snapshot", "snapread", "rollback")}
    counts = ", ".join(f"{count} {kind}s" for kind, count in kinds.items())
    enough = all(kinds.values()) and (arena.faults > 0 or not scenario.hurts)
    unclear = f"{history.count('fail')} refused, {history.count('info')} of unknown outcome"
    report.findings.append(Finding("something happened", enough, f"{arena.faults} faults; {counts}; {unclear}"))
    if scenario.gap_s_max is not None:
        gap = history.longest_gap(began, ended)
        detail = f"longest time without an acknowledged write {gap:.2f} s, at most {scenario.gap_s_max:g}"
        report.findings.append(Finding("goes on under faults", gap <= scenario.gap_s_max, detail))


async def _seen(arena: Arena) -> dict[str, str]:
    """What else the run met, for people who wonder whether it met anything."""
    codes = Counter(op.result.get("code", "") for op in arena.workload.history.ops if op.outcome == "fail")
    notes = {"refused with": ", ".join(f"{code or 'nothing'} {count}" for code, count in codes.most_common())}
    rows = [row for node_id in arena.ids for row in await arena.transfers(node_id) if row["direction"] == "in"]
    if rows:
        total, resumes = sum(row["total_bytes"] for row in rows), sum(row["resumes"] for row in rows)
        notes["transfers since the nodes' last start"] = f"{len(rows)}, {total:,} bytes, {resumes} resumes"
    return notes


def _record_logs(cluster: LocalCluster, report: Report, out: Callable[[str], None]) -> None:
    """A node that ended by itself is a failure, whatever the clients saw."""
    for node_id in cluster.ids:
        if cluster.pid_of(node_id) is None:
            report.findings.append(Finding("nodes stay up", False, f"{node_id} ended by itself"))
            out(f"node {node_id} has ended by itself; the end of its log:\n{cluster.log_tail(node_id)}")
