"""The deployed thing: docker-compose.yml with real containers. Skipped, and says why, where no engine or image is."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = "lastgood-test"
IMAGE = "lastgood:0.1.0"
URLS = [f"http://127.0.0.1:{port}" for port in (7801, 7802, 7803)]
pytestmark = [pytest.mark.cluster, pytest.mark.timeout(180)]


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)}: {done.stderr[-2000:]}")
    return done.stdout


def compose() -> list[str]:
    """The compose command of this machine, either generation."""
    if shutil.which("docker-compose"):
        return ["docker-compose", "-p", PROJECT]
    return ["docker", "compose", "-p", PROJECT]


def missing() -> str | None:
    """What keeps this test from running here."""
    if shutil.which("docker") is None:
        return "no docker client"
    if subprocess.run(["docker", "info"], capture_output=True, check=False).returncode != 0:
        return "no Docker engine answers"
    if subprocess.run([*compose(), "version"], capture_output=True, check=False).returncode != 0:
        return "no docker compose"
    if subprocess.run(["docker", "image", "inspect", IMAGE], capture_output=True, check=False).returncode != 0:
        return f"no image {IMAGE}: docker build -t {IMAGE} ."
    return None


def ask(method: str, url: str, body: bytes | None = None, kind: str = "application/json") -> tuple[int, Any]:
    request = urllib.request.Request(url, data=body, method=method, headers={"Content-Type": kind})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            raw, status = answer.read(), answer.status
    except urllib.error.HTTPError as error:
        raw, status = error.read(), error.code
    except OSError:
        return 0, None
    try:
        return status, json.loads(raw)
    except ValueError:
        return status, raw


def until(what: str, holds: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not happen within {seconds:g} s"
        time.sleep(0.1)


def container(node: str) -> str:
    return run(*compose(), "ps", "-q", node).strip()


def healthy(node: str) -> bool:
    return run("docker", "inspect", "-f", "{{.State.Health.Status}}", container(node), check=False).strip() == "healthy"


def write_all(first: int, stop: int, urls: list[str]) -> None:
    """One acknowledged write a page; a refusal or an unknown outcome is tried again under its key."""
    for number in range(first, stop):
        body = b"%016d" % number

        def put(number: int = number, body: bytes = body) -> bool:
            for url in urls:
                request = urllib.request.Request(
                    f"{url}/v1/spaces/box/data?offset={number * 4096}",
                    data=body,
                    method="PUT",
                    headers={"Idempotency-Key": f"w{number}"},
                )
                try:
                    with urllib.request.urlopen(request, timeout=5) as answer:
                        return bool(answer.status == 200)
                except OSError:
                    continue
            return False

        until(f"write {number}", put)


def roots() -> set[str]:
    """The root of one fresh snapshot as every node computed it by itself."""
    status, made = ask("POST", f"{URLS[0]}/v1/spaces/box/snapshots", b"{}")
    assert status == 201, made
    seen = []
    for url in URLS:
        status, body = ask("GET", f"{url}/v1/spaces/box/snapshots/{made['id']}?consistency=stale")
        assert status == 200, body
        seen.append(body["root"])
    return set(seen)


@pytest.fixture
def deployed() -> Iterator[None]:
    why = missing()
    if why is not None:
        pytest.skip(f"docker compose is not tested: {why}")
    run(*compose(), "down", "-v", "--remove-orphans", check=False)
    run(*compose(), "up", "-d", "--no-build")
    try:
        yield
    finally:
        run(*compose(), "down", "-v", check=False)


def test_up_kill_partition_heal_down_up(deployed: None) -> None:
    for node in ("n1", "n2", "n3"):
        until(f"{node} healthy", lambda node=node: healthy(node), 40)
    assert ask("PUT", f"{URLS[0]}/v1/spaces/box", b"{}")[0] in (200, 201)
    write_all(0, 20, URLS)

    leader = ask("GET", f"{URLS[0]}/v1/cluster")[1]["leader"]
    run("docker", "kill", "-s", "KILL", container(leader))
    others = [url for node, url in zip(("n1", "n2", "n3"), URLS, strict=True) if node != leader]
    write_all(20, 40, others)
    run("docker", "start", run(*compose(), "ps", "-q", "-a", leader, check=False).strip() or f"{PROJECT}_{leader}_1")
    until(f"{leader} healthy again", lambda: healthy(leader), 40)

    network = f"{PROJECT}_lastgood"
    cut = ask("GET", f"{URLS[0]}/v1/cluster")[1]["leader"]
    cut_container = container(cut)
    run("docker", "network", "disconnect", network, cut_container)
    others = [url for node, url in zip(("n1", "n2", "n3"), URLS, strict=True) if node != cut]
    write_all(40, 60, others)
    run("docker", "network", "connect", "--alias", cut, network, cut_container)
    until("all three ready", lambda: all(ask("GET", f"{url}/readyz")[0] == 200 for url in URLS), 60)
    until("equal roots", lambda: len(roots()) == 1)

    run(*compose(), "down")
    run(*compose(), "up", "-d", "--no-build")
    for node in ("n1", "n2", "n3"):
        until(f"{node} healthy after down and up", lambda node=node: healthy(node), 40)
    for number in range(60):
        status, body = ask("GET", f"{URLS[number % 3]}/v1/spaces/box/data?offset={number * 4096}&length=16")
        assert (status, body) in ((200, b"%016d" % number), (200, number)), (number, status, body)
    assert len(roots()) == 1
