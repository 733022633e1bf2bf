"""The folders import one way: sdk ← wal ← node ← cluster ← chaos. Read from the source, not from what loads."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ORDER = ["lastgood", "wal", "node", "cluster", "chaos"]
FOLDERS = {"lastgood": ROOT / "sdk" / "lastgood", **{name: ROOT / name for name in ORDER[1:]}}
NETWORK = {"socket", "asyncio", "aiohttp", "ssl", "http", "pysyncobj", "selectors", "socketserver", "urllib"}


def sources(package: str) -> list[Path]:
    return sorted(FOLDERS[package].rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Line and first part of every absolute import, those inside functions and type checks too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield node.lineno, name.name.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module.split(".")[0]


def against(package: str, path: Path) -> list[str]:
    allowed = set(ORDER[: ORDER.index(package) + 1])
    return [f"{path}:{line} imports {name}" for line, name in imports(path) if name in ORDER and name not in allowed]


@pytest.mark.parametrize("package", ORDER)
def test_imports_go_one_way(package: str) -> None:
    files = sources(package)
    assert files, f"no sources in {FOLDERS[package]}"
    assert [found for path in files for found in against(package, path)] == []


@pytest.mark.parametrize("package", ["wal", "node"])
def test_storage_knows_no_network(package: str) -> None:
    found = [f"{path}:{line} {name}" for path in sources(package) for line, name in imports(path) if name in NETWORK]
    assert found == []


def test_the_sdk_imports_little() -> None:
    allowed = {"lastgood", "aiohttp", "msgspec", "__future__"}
    import sys

    found = [
        f"{path}:{line} {name}"
        for path in sources("lastgood")
        for line, name in imports(path)
        if name not in allowed and name not in sys.stdlib_module_names
    ]
    assert found == []


def test_the_check_sees_a_violation(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.py"
    wrong.write_text("def f():\n    from cluster.api import http\n")
    assert against("node", wrong) == [f"{wrong}:2 imports cluster"]
