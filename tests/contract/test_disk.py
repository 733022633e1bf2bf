"""One behaviour for the real disk and the simulated one."""

from __future__ import annotations

import pytest

from chaos.sim.disk import SimDisk
from wal.disk import RealDisk, install_file


@pytest.fixture(params=["real", "sim"])
def place(request, tmp_path):
    if request.param == "real":
        return RealDisk(), str(tmp_path / "d")
    return SimDisk(seed=1), "/d"


@pytest.fixture
def disk(place):
    place[0].makedirs(place[1])
    return place[0]


@pytest.fixture
def folder(place):
    return place[1]


def test_reads_back_what_was_written_and_stops_at_the_end(disk, folder):
    file = disk.open(f"{folder}/a", create=True)
    file.pwrite(b"hello", 3)
    file.pwritev([b"ab", memoryview(b"cd"), bytearray(b"e")], 8)
    assert file.pread(100, 0) == b"\0\0\0helloabcde"
    assert file.pread(3, 3) == b"hel"
    assert file.pread(10, 13) == b""
    assert file.size() == 13
    file.fdatasync()
    file.close()
    file.close()
    assert disk.open(f"{folder}/a").pread(2, 8) == b"ab"


def test_many_buffers_in_one_write(disk, folder):
    file = disk.open(f"{folder}/a", create=True)
    file.pwritev([b"%04d" % number for number in range(3000)], 1)
    assert file.pread(4, 1 + 4 * 2999) == b"2999"


def test_fallocate_extends_with_zeros_and_keeps_what_is_there(disk, folder):
    file = disk.open(f"{folder}/a", create=True)
    file.pwrite(b"x" * 10, 0)
    file.fallocate(20)
    assert file.pread(100, 0) == b"x" * 10 + bytes(10)
    file.fallocate(5)
    assert file.size() == 20
    file.truncate(4)
    file.truncate(6)
    assert file.pread(100, 0) == b"xxxx\0\0"


def test_names(disk, folder):
    disk.open(f"{folder}/b", create=True).pwrite(b"b", 0)
    disk.open(f"{folder}/a", create=True).pwrite(b"a", 0)
    assert disk.listdir(folder) == ["a", "b"]
    disk.rename(f"{folder}/a", f"{folder}/b")
    assert disk.listdir(folder) == ["b"]
    assert disk.open(f"{folder}/b").pread(9, 0) == b"a"
    assert disk.exists(f"{folder}/b") and not disk.exists(f"{folder}/a")
    disk.unlink(f"{folder}/b")
    disk.fsync_dir(folder)
    assert disk.listdir(folder) == []


def test_an_open_file_outlives_its_name(disk, folder):
    file = disk.open(f"{folder}/a", create=True)
    file.pwrite(b"still", 0)
    disk.unlink(f"{folder}/a")
    assert file.pread(5, 0) == b"still"


def test_errors_are_those_of_the_kernel(disk, folder):
    with pytest.raises(FileNotFoundError):
        disk.open(f"{folder}/none")
    with pytest.raises(FileNotFoundError):
        disk.open(f"{folder}/no/folder", create=True)
    with pytest.raises(FileNotFoundError):
        disk.unlink(f"{folder}/none")
    with pytest.raises(FileNotFoundError):
        disk.rename(f"{folder}/none", f"{folder}/b")
    with pytest.raises(FileNotFoundError):
        disk.listdir(f"{folder}/none")
    disk.open(f"{folder}/a", create=True)
    with pytest.raises(FileExistsError):
        disk.open(f"{folder}/a", create=True, exclusive=True)
    closed = disk.open(f"{folder}/a")
    closed.close()
    with pytest.raises(OSError):
        closed.pread(1, 0)


def test_folders_and_entropy(disk, folder):
    disk.makedirs(f"{folder}/x/y")
    disk.makedirs(f"{folder}/x/y")
    assert disk.listdir(folder) == ["x"]
    assert disk.free_bytes(folder) > 0
    assert len(disk.entropy(8)) == 8 and disk.entropy(8) != disk.entropy(8)


def test_install_file_replaces(disk, folder):
    install_file(disk, f"{folder}/f", b"one, and longer")
    install_file(disk, f"{folder}/f", b"two")
    assert disk.open(f"{folder}/f").pread(99, 0) == b"two"
    assert disk.listdir(folder) == ["f"]
