"""What only the simulated disk can do: lose power, fill up, fail to sync; and the helpers that must survive it."""

from __future__ import annotations

import errno

import pytest

from chaos.sim.disk import PowerCut, SimDisk
from wal.disk import install_file


def cut(disk: SimDisk, **chances: float) -> None:
    disk.power_cut()
    disk.restart(**chances)


def test_unsynced_bytes_may_go_synced_ones_stay():
    disk = SimDisk(seed=1)
    disk.makedirs("/d")
    file = disk.open("/d/a", create=True)
    file.pwrite(b"synced", 0)
    file.fdatasync()
    disk.fsync_dir("/d")
    file.pwrite(b"UNSYNC", 0)
    cut(disk, keep=0, torn=0)
    with pytest.raises(PowerCut):
        file.pread(1, 0)
    assert disk.open("/d/a").pread(9, 0) == b"synced"


def test_a_write_can_tear_at_sectors():
    disk = SimDisk(seed=3)
    disk.makedirs("/d")
    file = disk.open("/d/a", create=True)
    file.fallocate(4096)
    file.fdatasync()
    disk.fsync_dir("/d")
    file.pwrite(b"x" * 4096, 0)
    cut(disk, keep=0, torn=1)
    found = disk.open("/d/a").pread(4096, 0)
    sectors = [found[at : at + 512] for at in range(0, 4096, 512)]
    assert set(sectors) == {b"x" * 512, bytes(512)}


def test_names_without_a_synced_folder_are_undone():
    outcomes = set()
    for seed in range(20):
        disk = SimDisk(seed)
        disk.makedirs("/d")
        for name in ("old", "gone"):
            disk.open(f"/d/{name}", create=True)
        disk.fsync_dir("/d")
        disk.rename("/d/old", "/d/new")
        disk.unlink("/d/gone")
        cut(disk)
        outcomes.add(tuple(disk.listdir("/d")))
    assert outcomes == {("gone", "old"), ("gone", "new"), ("new",)}


def test_full_disk_and_failed_sync():
    disk = SimDisk(seed=1, capacity_bytes=100)
    disk.makedirs("/d")
    file = disk.open("/d/a", create=True)
    with pytest.raises(OSError) as full:
        file.fallocate(101)
    assert full.value.errno == errno.ENOSPC
    assert disk.free_bytes("/d") == 100
    file.pwrite(b"lost", 0)
    disk.fail_sync = lambda path: True
    with pytest.raises(OSError) as failed:
        file.fdatasync()
    assert failed.value.errno == errno.EIO
    disk.fail_sync = None
    disk.fsync_dir("/d")
    file.fdatasync()  # reports success, as the kernel does
    assert file.pread(4, 0) == b"lost"
    cut(disk)
    assert disk.open("/d/a").pread(4, 0) == b""


def test_install_file_survives_a_cut_anywhere():
    cuts = 0
    while True:
        disk = SimDisk(seed=cuts)
        disk.makedirs("/d")
        install_file(disk, "/d/f", b"old")
        disk.cut_after = disk.effects + cuts
        try:
            install_file(disk, "/d/f", b"new content")
        except PowerCut:
            disk.restart()
            assert disk.open("/d/f").pread(99, 0) in (b"old", b"new content")
            cuts += 1
        else:
            break
    cut(disk)
    assert disk.open("/d/f").pread(99, 0) == b"new content"
    assert cuts == 6
