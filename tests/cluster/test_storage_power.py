"""The power goes on a real ext4: what was not synced is gone, renames that were not synced are undone.

Needs root and loop devices; where those are missing the test is listed as skipped.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from node.verify import verify
from tests.cluster.storage_child import Child
from tests.cluster.test_storage_kill import ROOT, Naive, seen
from wal.checks import Corrupt
from wal.disk import RealDisk

EXT4_IOC_SHUTDOWN = 0x8004587D
WITHOUT_LOG_FLUSH = 2
LIVES = 5


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


class Ext4:
    """A file system in a file that can lose power."""

    def __init__(self, folder: Path) -> None:
        self.image = folder / "ext4.img"
        self.place = folder / "mnt"
        self.place.mkdir()
        with self.image.open("wb") as file:
            file.truncate(256 << 20)
        run("mkfs.ext4", "-qF", str(self.image))

    def mount(self) -> None:
        run("mount", "-o", "loop", str(self.image), str(self.place))

    def cut(self) -> None:
        fd = os.open(self.place, os.O_RDONLY)
        try:
            fcntl.ioctl(fd, EXT4_IOC_SHUTDOWN, struct.pack("I", WITHOUT_LOG_FLUSH))
        finally:
            os.close(fd)

    def unmount(self) -> None:
        run("umount", str(self.place))


@pytest.fixture
def ext4(tmp_path):
    if os.geteuid() != 0 or shutil.which("mkfs.ext4") is None:
        pytest.skip("needs root and mkfs.ext4")
    disk = Ext4(tmp_path)
    try:
        disk.mount()
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no loop mounts here: {error.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", str(disk.place)], check=False, capture_output=True)


@pytest.mark.cluster
def test_power_cuts(ext4):
    folder, rng, naive = str(ext4.place / "n"), Random(2), Naive()
    acknowledged = 0
    for life in range(LIVES):
        if life:
            ext4.mount()
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.cluster.storage_child", folder],
            cwd=ROOT,
            env={"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        lines = process.stdout
        assert lines is not None
        word, _, last = lines.readline().split()
        assert word == b"recovered" and int(last) >= acknowledged
        for _ in range(rng.randint(20, 90)):
            acknowledged = int(lines.readline().split()[0])
        ext4.cut()
        # After the cut nothing can be acknowledged, but lines may be on their way.
        process.wait()
        for line in lines.read().split(b"\n"):
            if line.count(b" ") == 1:
                acknowledged = int(line.split()[0])
        lines.close()
        assert process.returncode != 0
        ext4.unmount()
    ext4.mount()
    assert verify(RealDisk(), folder).damages == []
    child = Child(folder)
    assert child.machine.applied_index >= acknowledged
    naive.go_to(child.machine.applied_index)
    assert seen(child.machine) == seen(naive.machine)
    child.journal.close()
    child.storage.undo.close()
    child.storage.store.close()
    child.heaps.close()
    child.pool.shutdown()


@pytest.mark.cluster
def test_canary_without_fdatasync_the_same_cut_loses(ext4):
    folder = str(ext4.place / "n")
    code = (
        "import sys, wal.disk; wal.disk.RealFile.fdatasync = lambda self: None\n"
        "from tests.cluster.storage_child import main; main(sys.argv[1])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, folder],
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'sdk'}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    lines = process.stdout
    assert lines is not None
    lines.readline()
    acknowledged = 0
    while acknowledged < 24:  # before the first checkpoint, whose LMDB syncs by itself
        acknowledged = int(lines.readline().split()[0])
    ext4.cut()
    process.kill()
    process.wait()
    lines.close()
    ext4.unmount()
    ext4.mount()
    try:
        child = Child(folder)
    except (Corrupt, OSError):
        return
    kept = child.journal.last_index
    child.journal.close()
    child.storage.undo.close()
    child.storage.store.close()
    child.heaps.close()
    child.pool.shutdown()
    assert kept < acknowledged
