"""A full disk on all nodes: writes are refused with 507, nodes live on, and a delete makes room (invariant 10)."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import lastgood
import pytest
from lastgood.errors import StorageFull

from cluster.local import LocalCluster

MIB = 1 << 20
SETTINGS = {
    "journal_bytes_max": 4 * MIB,
    "checkpoint_bytes": MIB,
    "ballast_bytes": 4 * MIB,
    "undo_bytes_total": 16 * MIB,
}
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


@pytest.fixture
def small_disks(tmp_path: Path) -> Iterator[LocalCluster]:
    if os.geteuid() != 0:
        pytest.skip("full disks are not tested: mounting a small tmpfs needs root")
    cluster = LocalCluster.create(tmp_path, settings=SETTINGS)
    mounted = []
    try:
        for node in cluster.nodes:
            os.makedirs(node.data, exist_ok=True)
            done = subprocess.run(
                ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", node.data], capture_output=True, check=False
            )
            if done.returncode != 0:
                pytest.skip(f"full disks are not tested: {done.stderr.decode().strip()}")
            mounted.append(node.data)
        cluster.start()
        cluster.wait_ready(timeout_s=30)
        yield cluster
    finally:
        cluster.stop()
        for folder in mounted:
            subprocess.run(["umount", folder], check=False)


async def fill(room: lastgood.Space, blocks: int) -> int:
    """Writes until refused; how many went in."""
    for number in range(blocks):
        try:
            await room.write(number * MIB, os.urandom(MIB))
        except StorageFull:
            return number
    return blocks


async def test_writes_are_refused_and_a_delete_makes_room(small_disks: LocalCluster) -> None:
    async with lastgood.connect(small_disks.endpoints) as store:
        room = await store.space("big", create=True)
        written = await fill(room, 64)
        assert 8 < written < 64, "the disk of 64 MiB was neither used nor filled"
        assert small_disks.running() == small_disks.ids
        assert len(await room.read(0, written * MIB)) == written * MIB
        info = await room.info()
        assert (info.lvc, info.size) == (written, written * MIB), "what was refused left an effect"
        await room.delete()
        async with asyncio.timeout(30):
            while True:
                try:
                    other = await store.space("other", create=True)
                    await other.write(0, os.urandom(MIB))
                    break
                except StorageFull:
                    await asyncio.sleep(0.2)
    assert small_disks.running() == small_disks.ids
