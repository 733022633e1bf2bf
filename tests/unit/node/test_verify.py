"""`verify` reads everything of a stopped node, and names each damage: no bit of what is stored can rot unseen."""

from __future__ import annotations

import shutil
from pathlib import Path
from random import Random

import pytest

from node.checkpoint_rows import TABLES
from node.checkpoint_store import CheckpointStore
from node.commands import CreateSpace, TakeSnapshots, Tx
from node.verify import verify
from tests.unit.node.durable import DurableNode, Story
from wal.disk import RealDisk
from wal.journal import JournalConfig, RaftJournal


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A node's folder with a journal, a checkpoint, snapshots, undo records and two page sizes."""
    folder = tmp_path_factory.mktemp("verify") / "n"
    story, log = Story(2), []
    node = DurableNode(str(folder), log)
    for _ in range(60):
        story.step(node)
    node.apply(
        CreateSpace("kept"), Tx("kept", [(0, memoryview(b"k" * 70_000))]), TakeSnapshots(["kept"]), now_ms=90_000
    )
    node.machine.on_root(node.machine.registry.by_name["kept"].uid, 1, lambda root: None)
    node.checkpoint()
    node.close()
    journal = RaftJournal.open(RealDisk(), str(folder / "journal"), JournalConfig(bytes_max=1 << 20))
    for index, raw in enumerate(log, 1):
        journal.append(raw, index, 1)
    journal.close()
    return folder, len(log)


@pytest.fixture
def folder(stopped, tmp_path):
    shutil.copytree(stopped[0], tmp_path / "n")
    return tmp_path / "n"


def flip(path: Path, offset: int, mask: int = 8) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ mask]))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_whole_node(stopped, folder):
    before = content(folder)
    calls = []
    report = verify(RealDisk(), str(folder), progress=calls.append)
    assert report.damages == [] and report.torn is None
    assert content(folder) == before
    assert report.checkpoint_index == stopped[1] and report.journal_frames == stopped[1] + 1
    assert report.leaves > 5 and report.pages > 30 and report.page_bytes >= 4096 * report.pages
    assert report.spaces >= 2 and report.snapshots >= 2 and report.roots >= 1
    assert report.undo_records > 5 and report.undo_bytes > 1000


def test_nothing_there(tmp_path):
    report = verify(RealDisk(), str(tmp_path))
    assert (report.rows, report.pages, report.damages) == (0, 0, [])


def test_every_page_is_checked(folder):
    """A bit in each page that the checkpoint refers to; and one in a page that nobody refers to."""
    report = verify(RealDisk(), str(folder))
    heap = folder / "heap" / "pages-4096"
    rng = Random(1)
    named = 0
    for slot in range(heap.stat().st_size // 4096):
        offset = slot * 4096 + rng.randrange(4096)
        flip(heap, offset)
        damages = verify(RealDisk(), str(folder)).damages
        if damages:
            named += 1
            assert {(damage.path, damage.offset) for damage in damages} == {(str(heap), slot * 4096)}
        flip(heap, offset)
        if named >= 10:
            break
    assert named >= 10 and report.pages > 10


def test_undo_records_are_checked(folder):
    segment = next(iter(sorted((folder / "undo").glob("*.seg"))))
    size = segment.stat().st_size
    hits = 0
    for offset in range(4096, size, 997):
        flip(segment, offset)
        hits += bool(verify(RealDisk(), str(folder)).damages)
        flip(segment, offset)
    assert hits > 5
    segment.unlink()
    damages = verify(RealDisk(), str(folder)).damages
    assert damages and all(damage.path == str(segment) for damage in damages)


def test_journal_frames_are_checked(folder):
    segment = next(iter(sorted((folder / "journal").glob("*.seg"))))
    flip(segment, 4096 + 700)
    (damage,) = verify(RealDisk(), str(folder)).damages
    assert damage.path == str(segment)


def test_rows_of_the_checkpoint_are_checked(folder):
    """Any byte of the LMDB file: a damage is named, or the byte belongs to nothing that is in use."""
    path = folder / "checkpoint" / "data.mdb"
    store = CheckpointStore(str(path.parent), TABLES, readonly=True)
    used = store.used_bytes
    store.close()
    rng = Random(3)
    named = 0
    for _ in range(100):
        offset = rng.randrange(2 * 4096, used)
        flip(path, offset)
        report = verify(RealDisk(), str(folder))
        named += bool(report.damages)
        flip(path, offset)
    assert named > 20
    assert verify(RealDisk(), str(folder)).damages == []


def test_a_missing_or_short_heap_is_named(folder):
    heap = folder / "heap" / "pages-4096"
    pages = verify(RealDisk(), str(folder)).pages
    raw = heap.read_bytes()
    heap.write_bytes(raw[: 4096 * 3])
    assert 0 < len(verify(RealDisk(), str(folder)).damages) < pages
    heap.unlink()
    damages = verify(RealDisk(), str(folder)).damages
    assert damages and {damage.path for damage in damages} == {str(heap)}
