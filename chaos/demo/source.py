"""The file that the demo looks after, and how a service changes it: SQL on a real SQLite database, or seeded writes.

A source keeps its own copy of the file. `change` does one step of work on it and says which bytes that touched, so that
they can be written to the cluster as one transaction.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import sqlite3
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

PAGE = 4096
TEXT_BYTES_MAX = 14 << 20
RANGES_MAX = 900  # a transaction takes 1,024
Writes = list[tuple[int, bytes]]


class Source(Protocol):
    """`path` is the working copy, always in the state that the cluster should have."""

    path: Path
    what: str

    def change(self, number: int) -> Writes:
        """One step of honest work on the working copy; the ranges that it changed."""

    def damage(self) -> Writes:
        """What the bad hot update does. The working copy stays as it is."""

    def sound(self, path: Path) -> tuple[bool, str]:
        """Whether the file at `path` is in order by its own means, beyond the comparison of digests."""


def sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def page_ranges(before: bytes, after: bytes) -> Writes:
    """Runs of pages of `after` that differ from `before`, as ranges; the pages that were added too."""
    common = min(len(before), len(after)) // PAGE * PAGE
    old = np.frombuffer(before, dtype=np.uint64, count=common // 8).reshape(-1, PAGE // 8)
    new = np.frombuffer(after, dtype=np.uint64, count=common // 8).reshape(-1, PAGE // 8)
    changed = np.flatnonzero((old != new).any(axis=1))
    runs = np.split(changed, np.flatnonzero(np.diff(changed) > 1) + 1) if changed.size else []
    writes = [(int(run[0]) * PAGE, after[int(run[0]) * PAGE : (int(run[-1]) + 1) * PAGE]) for run in runs]
    if len(after) > common:
        writes.append((common, after[common:]))
    return writes


class SqliteSource:
    """A database of the lines of the Python standard library's files on this machine."""

    def __init__(self, folder: Path, *, seed: int) -> None:
        self.path = folder / "library.db"
        self._rng = random.Random(seed)
        files = self._build()
        self._bytes = self.path.read_bytes()  # as the cluster has them
        self.what = f"SQLite database of {files} files of Python's standard library"

    def _build(self) -> int:
        with sqlite3.connect(self.path) as db:
            db.executescript(
                f"PRAGMA page_size={PAGE}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;"
                "CREATE TABLE file(id INTEGER PRIMARY KEY, name TEXT UNIQUE, lines INTEGER);"
                "CREATE TABLE line(id INTEGER PRIMARY KEY, file INTEGER, number INTEGER, reviewed INTEGER, text TEXT);"
            )
            count = 0
            for count, (name, lines) in enumerate(_library(), 1):
                db.execute("INSERT INTO file VALUES(?, ?, ?)", (count, name, len(lines)))
                rows = [(count, number, 1000, text) for number, text in enumerate(lines, 1)]
                db.executemany("INSERT INTO line(file, number, reviewed, text) VALUES(?, ?, ?, ?)", rows)
            db.execute("CREATE INDEX line_of_file ON line(file, number)")
            db.commit()
            self._files = [row[0] for row in db.execute("SELECT id FROM file WHERE lines > 700 ORDER BY id")]
        db.close()
        self._rng.shuffle(self._files)
        return count

    def change(self, number: int) -> Writes:
        """One SQL UPDATE: every line of some file is marked as reviewed."""
        before = self._bytes
        file = self._files[number % len(self._files)]
        db = sqlite3.connect(self.path)
        with db:
            db.execute("UPDATE line SET reviewed = ? WHERE file = ?", (2000 + number, file))
        db.close()
        self._bytes = self.path.read_bytes()
        return page_ranges(before, self._bytes)

    def damage(self) -> Writes:
        """Garbage over pages all over the file, the first one included."""
        return _garbage(self.path, self._rng)

    def sound(self, path: Path) -> tuple[bool, str]:
        try:
            db = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
            try:
                answer = str(db.execute("PRAGMA integrity_check").fetchone()[0])
            finally:
                db.close()
        except sqlite3.DatabaseError as error:
            answer = str(error)
        return answer == "ok", f"integrity_check: {answer.splitlines()[0][:60]}"


class FileSource:
    """Any file; a service that changes some bytes of some pages, by a seed."""

    def __init__(self, folder: Path, original: Path, *, seed: int) -> None:
        self.path = folder / "copy.bin"
        shutil.copyfile(original, self.path)
        self._rng = random.Random(seed)
        self.what = f"copy of {original.name}"

    def change(self, number: int) -> Writes:
        """64 bytes in each of about 1 % of the pages; an empty file grows by its first bytes."""
        size = self.path.stat().st_size
        pages = max(1, -(-size // PAGE))
        chosen = self._rng.sample(range(pages), min(pages, RANGES_MAX, max(1, pages // 100)))
        writes = []
        for page in sorted(chosen):
            offset = page * PAGE + self._rng.randrange(max(1, min(PAGE, size - page * PAGE)))
            length = min(64, size - offset) if size else 64
            writes.append((offset, self._rng.randbytes(max(1, length))))
        with open(self.path, "r+b") as file:
            for offset, chunk in writes:
                os.pwrite(file.fileno(), chunk, offset)
        return writes

    def damage(self) -> Writes:
        return _garbage(self.path, self._rng)

    def sound(self, path: Path) -> tuple[bool, str]:
        return True, f"{path.stat().st_size:,} bytes"


def _garbage(path: Path, rng: random.Random) -> Writes:
    size = path.stat().st_size
    pages = max(1, -(-size // PAGE))
    chosen = {0, *rng.sample(range(pages), min(pages, 200))}
    return [(page * PAGE, rng.randbytes(min(PAGE, max(1, size - page * PAGE)))) for page in sorted(chosen)]


def _library() -> Iterator[tuple[str, list[str]]]:
    """(name, lines) of the standard library's sources, in order, up to `TEXT_BYTES_MAX` of text."""
    root = Path(sysconfig.get_paths()["stdlib"])
    total = 0
    for path in sorted(root.rglob("*.py")):
        if "site-packages" in path.parts or "dist-packages" in path.parts:
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except (UnicodeDecodeError, OSError):
            continue  # some of the test suite's files are broken on purpose
        total += len(text)
        if total > TEXT_BYTES_MAX:
            return
        yield str(path.relative_to(root)), text.splitlines()
