"""The SDK and the command line as users run them, against three real node processes, also while nodes die."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import lastgood
import pytest
from click.testing import CliRunner

from cluster.cli.main import cli
from cluster.local import LocalCluster

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    made = LocalCluster.create(tmp_path_factory.mktemp("sdk"), settings={"journal_bytes_max": 16 << 20})
    made.start()
    try:
        made.wait_ready()
        yield made
    finally:
        made.stop()


@pytest.fixture
def whole(running: LocalCluster) -> Iterator[LocalCluster]:
    """All nodes run before and after each test."""
    yield running
    for node_id in running.ids:
        running.resume(node_id)
    running.start()
    running.wait_ready()


@pytest.fixture
async def store(whole: LocalCluster) -> AsyncIterator[lastgood.Store]:
    async with lastgood.connect(whole.endpoints) as store:
        yield store


@pytest.fixture
async def room(store: lastgood.Store, request: pytest.FixtureRequest) -> lastgood.Space:
    return await store.space(f"{request.node.originalname}-{time.monotonic_ns()}"[-100:], create=True)


async def test_the_main_job(store: lastgood.Store, room: lastgood.Space, tmp_path: Path) -> None:
    content = os.urandom((3 << 20) + 77)
    (tmp_path / "in").write_bytes(content)
    imported = await room.import_file(tmp_path / "in")
    good = await room.snapshot("good")
    await room.tx([(0, b"bad"), (2 << 20, b"update")], if_lvc=imported.lvc)
    assert (await room.diff(good)).pages_changed == 2
    assert (await room.rollback_dry_run(good)).pages_changed == 2
    done = await room.rollback("good")
    assert (done.pages_reverted, done.verified, done.snapshot) == (2, True, good.id)
    await room.export_file(tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == content
    assert (await room.read(0, 6, snapshot=done.left_snapshot))[:3] == b"bad"
    assert await room.read(1, 6, at_lvc=imported.lvc) == content[1:7]
    records = [record async for record in room.wal(limit=10_000)]
    assert [record.log_seq for record in records] == sorted(record.log_seq for record in records)
    assert records[-1].kind == "rollback"
    assert records[-2].before == content[2 << 20 :][:6]
    fork = await store.space(f"{room.name}-fork", create=True, fork=good)
    assert await fork.read() == content


async def test_large_transactions_and_reads_go_by_http(room: lastgood.Space) -> None:
    piece = os.urandom(6 << 20)
    done = await room.write(5, piece)
    assert done.lvc == 1
    got = await room.read_version(5, len(piece))
    assert (got.data == piece, got.lvc, got.epoch) == (True, 1, room.epoch)
    with pytest.raises(lastgood.StaleEpoch):
        await (await room.store.space(room.name)).rollback(lvc=0)
        await room.write(5, piece)


async def test_refusals_have_their_types(store: lastgood.Store, room: lastgood.Space) -> None:
    await room.write(0, b"x")
    with pytest.raises(lastgood.Conflict):
        await room.tx([(0, b"y")], if_lvc=9)
    with pytest.raises(lastgood.RangeNotSatisfiable):
        await room.read(2, 1)
    with pytest.raises(lastgood.BadRequest):
        await room.write(-1, b"x")
    with pytest.raises(lastgood.NotFound):
        await room.get_snapshot("nothing")
    with pytest.raises(lastgood.OutsideWindow) as refused:
        await room.rollback(lvc=99)
    assert refused.value.newest_lvc == 1
    with pytest.raises(lastgood.NotFound):
        await store.space("never-made")


async def test_events_come_and_resume(store: lastgood.Store, room: lastgood.Space) -> None:
    snapshot = await room.snapshot()
    await room.rollback(snapshot)
    seen: list[lastgood.Event] = []
    async with asyncio.timeout(20):
        async for event in store.events(space=room.name, after=0):
            seen.append(event)
            if event.type == "rollback.confirmed":
                break
        resumed = store.events(space=room.name, after=seen[0].seq)
        assert (await anext(resumed)).seq == seen[1].seq
        await resumed.aclose()  # type: ignore[attr-defined]
    assert [event.type for event in seen] == ["snapshot.created", "snapshot.created", "rollback.confirmed"]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
async def test_every_write_happens_once_while_the_leader_goes(
    whole: LocalCluster, room: lastgood.Space, how: signal.Signals
) -> None:
    """No write fails, and the LVC counts each exactly once."""
    acknowledged = 0
    gone = asyncio.Event()

    async def write(worker: int) -> None:
        nonlocal acknowledged
        after = 0
        while after < 20:
            await room.write(worker * 4096, b"%d" % acknowledged)
            acknowledged += 1
            after += gone.is_set()

    writers = [asyncio.ensure_future(write(worker)) for worker in range(32)]
    while acknowledged < 500:
        await asyncio.wait(writers, timeout=0.02)
    leader = await asyncio.to_thread(whole.leader)
    assert leader is not None
    whole.signal(leader, how)
    gone.set()
    await asyncio.wait_for(asyncio.gather(*writers), 40)
    assert (await room.info()).lvc == acknowledged


async def test_without_a_majority_nothing_is_said_to_have_happened(whole: LocalCluster) -> None:
    async with lastgood.connect(whole.endpoints, timeout_s=4.0) as store:
        room = await store.space("minority", create=True)
        await room.write(0, b"x")
        leader = await asyncio.to_thread(whole.leader)
        for node_id in whole.ids:
            if node_id != leader:
                whole.pause(node_id)
        with pytest.raises((lastgood.UnknownOutcome, lastgood.NoLeader, lastgood.Unavailable)):
            await room.write(0, b"y")
        for node_id in whole.ids:
            whole.resume(node_id)
        await room.resync()
        assert (await room.info()).lvc in (1, 2)


def command(endpoints: list[str], *args: object, stdin: bytes | None = None) -> tuple[int, bytes, str]:
    """In this process: starting one for each command would take most of the test's time."""
    environ = {"LASTGOOD_ENDPOINTS": ",".join(endpoints)}
    done = CliRunner().invoke(cli, [str(arg) for arg in args], input=stdin, env=environ)
    return done.exit_code, done.stdout_bytes, done.stderr


def process(endpoints: list[str], *args: str) -> tuple[int, bytes, str]:
    """As users run it."""
    environ = dict(os.environ, LASTGOOD_ENDPOINTS=",".join(endpoints))
    command = [sys.executable, "-m", "cluster.cli.main", *args]
    done = subprocess.run(command, capture_output=True, env=environ, cwd=ROOT, timeout=60)
    return done.returncode, done.stdout, done.stderr.decode()


def test_the_command_line(whole: LocalCluster, tmp_path: Path) -> None:
    def lastgood_json(*args: object, stdin: bytes | None = None) -> Any:
        code, out, err = command(whole.endpoints, *args, "--json", stdin=stdin)
        assert code == 0, err
        return json.loads(out)

    assert len(lastgood_json("status")["nodes"]) == 3
    lastgood_json("space", "create", "cli")
    assert lastgood_json("write", "cli", "--offset", 0, "-", stdin=b"good")["lvc"] == 1
    lastgood_json("snapshot", "create", "cli", "--label", "v1")
    lastgood_json("write", "cli", "--offset", 0, "-", stdin=b"bad!")
    assert lastgood_json("rollback", "cli", "@v1", "--dry-run")["pages_changed"] == 1
    assert lastgood_json("rollback", "cli", "@v1")["to_lvc"] == 1
    assert process(whole.endpoints, "read", "cli") == (0, b"good", "")
    assert command(whole.endpoints, "export", "cli@v1", tmp_path / "out")[0] == 0
    assert (tmp_path / "out").read_bytes() == b"good"
    assert lastgood_json("transfers") == []
    code, out, err = command(whole.endpoints, "rollback", "cli", "@nothing")
    assert (code, out) == (1, b"") and "not_found" in err
    code, _, err = process(["127.0.0.1:1"], "status", "--timeout", "0.5")
    assert code == 3, err
