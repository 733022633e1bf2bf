"""Workload and judge end to end, against a store in memory: a correct one holds, each bug is found."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from aiohttp.test_utils import TestServer

from chaos.door import Door
from chaos.judge import Judge
from chaos.workload import Shape, Workload
from tests.unit.chaos.fake_store import FakeStore

SMALL = Shape(clients=9, spaces=3, registers=3, think_s=0.001, op_deadline_s=0.5)


@asynccontextmanager
async def doors(store):
    servers = [TestServer(store.app(node)) for node in range(3)]
    for server in servers:
        await server.start_server()
    urls = {f"n{i + 1}": str(server.make_url("")).rstrip("/") for i, server in enumerate(servers)}
    try:
        async with Door(urls) as door:
            yield door
    finally:
        for server in servers:
            await server.close()


async def run(store, seed=1, operations=600):
    async with doors(store) as door:
        workload = Workload(door, seed=seed, shape=SMALL)
        await workload.prepare()
        running = asyncio.create_task(workload.run())
        while len(workload.history.ops) < operations:
            await asyncio.sleep(0.005)
        workload.stop()
        await running
        assert await workload.read_everywhere(within_s=5) == []
        return workload, {
            finding.name: finding for finding in await Judge(door, workload.history, workload.spaces).findings()
        }


def broken(findings):
    return {name for name, finding in findings.items() if not finding.holds}


async def test_a_correct_store_holds():
    workload, findings = await run(FakeStore())
    assert broken(findings) == set(), findings
    assert {op.kind for op in workload.history.ops} == {"write", "read", "snapshot", "snapread", "rollback"}
    assert workload.history.count("fail") > 10, "conditions must fail now and then"


async def test_a_correct_store_whose_answers_get_lost_holds():
    workload, findings = await run(FakeStore(silence=0.1))
    assert broken(findings) == set(), findings
    assert workload.history.count("info") > 5
    assert any(op.attempts > 1 and op.outcome == "ok" for op in workload.history.ops)
    used = [op.process for op in workload.history.ops if op.outcome == "info"]
    assert len(used) == len(set(used)), "a process id goes on after an unknown outcome"


@pytest.mark.parametrize(
    ("bug", "silence", "name"),
    [
        ("stale_read", 0, "linearizable"),
        ("lost", 0, "acknowledged writes are there"),
        ("retry_twice", 0.2, "exactly once"),
        ("differs", 0, "nodes are equal"),
        ("moving", 0, "snapshots are unchanged"),
    ],
)
async def test_each_bug_is_found(bug, silence, name):
    _, findings = await run(FakeStore(bug, silence=silence))
    assert name in broken(findings), findings


async def test_a_node_that_does_not_come_back_is_named():
    async with doors(FakeStore()) as door:
        workload = Workload(door, seed=1, shape=SMALL)
        await workload.prepare()
        door.urls["n3"] = "http://127.0.0.1:1"
        assert await workload.read_everywhere(within_s=0.2) == ["n3"]


async def test_nobody_there_is_a_definite_refusal_and_silence_is_not():
    async def swallow(reader, writer):
        await reader.read(10)
        writer.close()

    mute = await asyncio.start_server(swallow, "127.0.0.1", 0)
    port = mute.sockets[0].getsockname()[1]
    async with Door({"gone": "http://127.0.0.1:1", "mute": f"http://127.0.0.1:{port}"}) as door:
        assert (await door.post("gone", "/x", {})).outcome == "refused"
        assert (await door.post("mute", "/x", {})).outcome == "unknown"
    mute.close()
    await mute.wait_closed()
