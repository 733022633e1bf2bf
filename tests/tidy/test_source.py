"""Style as a test: banned calls, sizes of files and functions, no paths of a machine."""

from __future__ import annotations

import ast
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ["sdk/lastgood", "wal", "node", "cluster", "chaos"]
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 80
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def banned(tree: ast.AST, path: str) -> list[str]:
    found = []
    in_cli = "/cli" in path or path.startswith("chaos/")
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{path}:{line} bare except")
        elif isinstance(node, ast.Assert):
            found.append(f"{path}:{line} assert (gone under -O): use invariant or require")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print" and not in_cli:
            found.append(f"{path}:{line} print outside the CLI")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [name.name for name in node.names] + [getattr(node, "module", None) or ""]
            if "pickle" in names and "cluster/consensus" not in path and "chaos/sim" not in path:
                found.append(f"{path}:{line} pickle outside the adapter")
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and (node.value.id, node.attr) in {("time", "time"), ("random", "random"), ("time", "sleep")}
            and path.startswith(("wal/", "node/"))
        ):
            found.append(f"{path}:{line} {node.value.id}.{node.attr}: clock and chance come in as arguments")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_banned_calls(path: Path) -> None:
    assert banned(ast.parse(path.read_text(encoding="utf-8")), str(path.relative_to(ROOT))) == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sizes(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= FILE_LINES_MAX, "two ideas in one room?"
    long = [
        f"{node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > FUNCTION_LINES_MAX
    ]
    assert long == []


def test_the_checks_see_violations() -> None:
    code = "import pickle\nassert x\nprint(1)\ntry:\n    pass\nexcept:\n    pass\nimport time\ntime.time()\n"
    assert len(banned(ast.parse(code), "node/wrong.py")) == 5


def test_nothing_names_a_machine() -> None:
    """Paths and hosts of whoever built this mean nothing to a reader."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout: nothing to list")
    marks = ["/" + "work/", "/" + "farm/", "extra-" + "index-url"]
    found = []
    for name in listed.stdout.split("\n"):
        path = ROOT / name
        if name and path.is_file() and path.suffix not in {".bin", ".png"}:
            text = path.read_text(encoding="utf-8", errors="replace")
            found += [f"{name}: {mark}" for mark in marks if mark in text]
    assert found == []
