"""A fake cluster on a thread of its own, and ways to run the command line against it."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cluster.cli.main import cli
from tests.unit.sdk.fake_server import FakeCluster, FakeNode

ROOT = Path(__file__).resolve().parents[3]


@dataclass
class Done:
    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Done]


@pytest.fixture
def cluster() -> FakeCluster:
    return FakeCluster()


@pytest.fixture
def url(cluster: FakeCluster) -> Iterator[str]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    node = FakeNode(cluster, 0)
    asyncio.run_coroutine_threadsafe(node.start(), loop).result()
    cluster.urls = [node.url]
    yield node.url
    asyncio.run_coroutine_threadsafe(node.stop(), loop).result()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture
def run(url: str, tmp_path: Path) -> Run:
    """Runs a command in this process."""

    def call(*args: object, input: bytes | None = None, env: dict[str, str] | None = None) -> Done:
        given = {"LASTGOOD_ENDPOINTS": url, "XDG_STATE_HOME": str(tmp_path / "state"), **(env or {})}
        result = CliRunner().invoke(cli, [str(arg) for arg in args], input=input, env=given)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout_bytes, result.stderr)

    return call


@pytest.fixture
def process(url: str, tmp_path: Path) -> Run:
    """Runs a command as a user does: a process of its own, its output in pipes."""

    def call(*args: object, input: bytes | None = None, env: dict[str, str] | None = None) -> Done:
        given = dict(os.environ, LASTGOOD_ENDPOINTS=url, XDG_STATE_HOME=str(tmp_path / "state")) | (env or {})
        given["PYTHONPATH"] = os.pathsep.join([str(ROOT / "sdk"), str(ROOT)])
        command = [sys.executable, "-m", "cluster.cli.main", *(str(arg) for arg in args)]
        done = subprocess.run(command, input=input, capture_output=True, env=given, timeout=60, cwd=tmp_path)
        return Done(done.returncode, done.stdout, done.stderr.decode())

    return call
