"""The demo's file: changes are found page by page, damage is damage, any file will do. And its table."""

import os
import random
import shutil

import pytest

from chaos.demo import source
from chaos.demo.source import PAGE, FileSource, SqliteSource, page_ranges, sha256
from chaos.demo.stage import Shown, table


def patched(path, writes, target, size=None):
    """A second file to which the ranges are applied, as the cluster applies them."""
    if not target.exists():
        shutil.copyfile(path, target)
    with open(target, "r+b") as file:
        for offset, chunk in writes:
            os.pwrite(file.fileno(), chunk, offset)
        if size is not None:
            file.truncate(size)
    return target


@pytest.fixture
def small_library(monkeypatch):
    monkeypatch.setattr(source, "TEXT_BYTES_MAX", 1 << 20)


def test_sql_updates_travel_as_their_changed_pages(tmp_path, small_library):
    library = SqliteSource(tmp_path, seed=3)
    copy = tmp_path / "copy"
    shutil.copyfile(library.path, copy)
    for number in range(5):
        writes = library.change(number)
        assert writes
        assert sum(len(chunk) for _, chunk in writes) < library.path.stat().st_size / 2
        patched(library.path, writes, copy, library.path.stat().st_size)
        assert sha256(copy) == sha256(library.path)
    assert library.sound(copy)[0]
    before = sha256(library.path)
    patched(library.path, library.damage(), copy)
    sound, text = library.sound(copy)
    assert not sound, text
    assert sha256(library.path) == before


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 300_000])
def test_any_file(tmp_path, size):
    original = tmp_path / "original"
    original.write_bytes(random.Random(size).randbytes(size))
    kept = FileSource(tmp_path, original, seed=1)
    copy = tmp_path / "other"
    shutil.copyfile(kept.path, copy)
    for number in range(10):
        patched(kept.path, kept.change(number), copy)
        assert sha256(copy) == sha256(kept.path)
    assert kept.path.stat().st_size == (size or 64)
    patched(kept.path, kept.damage(), copy)
    assert sha256(copy) != sha256(kept.path)
    assert copy.stat().st_size == kept.path.stat().st_size
    assert original.read_bytes() == random.Random(size).randbytes(size)


def test_page_ranges_agree_with_comparing_page_by_page():
    rng = random.Random(5)
    for _ in range(50):
        before = bytearray(rng.randbytes(PAGE * rng.randrange(1, 12)))
        after = bytearray(before)
        for _ in range(rng.randrange(4)):
            after[rng.randrange(len(after))] ^= 1
        after += rng.randbytes(rng.choice([0, 10, PAGE]))
        writes = page_ranges(bytes(before), bytes(after))
        naive = {
            page for page in range(len(before) // PAGE) if before[page * PAGE :][:PAGE] != after[page * PAGE :][:PAGE]
        }
        covered = set()
        for offset, chunk in writes:
            assert after[offset : offset + len(chunk)] == chunk
            covered |= set(range(offset // PAGE, -(-(offset + len(chunk)) // PAGE)))
        assert {page for page in covered if page < len(before) // PAGE} == naive


def test_a_step_without_checks_does_not_hold_and_the_table_counts():
    good = Shown("import", seconds=1.5, checks=[("a", True), ("b", True)])
    bad = Shown("rollback", seconds=0.25, checks=[("c", True), ("d", False)])
    assert (good.holds, bad.holds, Shown("nothing").holds) == (True, False, False)
    lines = table([good, bad])
    assert lines[2].split() == ["import", "1.50", "2/2"]
    assert lines[3].split() == ["rollback", "0.25", "1/2", "FAILED"]
    assert lines[-1].split() == ["all", "1.75", "3/4"]
