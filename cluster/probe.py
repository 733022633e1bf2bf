"""Looking at running nodes over HTTP, one short question at a time: is it there, is it ready, who leads."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

PROBE_TIMEOUT_S: Final = 2.0
INSTALLING: Final = "installing"


def ask(url: str, path: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> tuple[int, Any] | None:
    """Status and decoded JSON of a GET, None if nobody answered in time. A body that is no JSON comes as None."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port or 80, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        raw = response.read()
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    try:
        return response.status, json.loads(raw)
    except ValueError:
        return response.status, None


def usable(url: str) -> bool:
    """True when the node is ready, or says that it is installing: an install is not waited for."""
    answer = ask(url, "/readyz")
    if answer is None:
        return False
    status, body = answer
    return status == 200 or says_installing(body)


def says_installing(body: object) -> bool:
    """True if a body of `/readyz` names a failed check about installing. The body is a list of checks, or an object
    that has one under `checks`; a check has a `name` and an `ok` or a `status`."""
    checks = body.get("checks", []) if isinstance(body, dict) else body
    if not isinstance(checks, list):
        return False
    for check in checks:
        if isinstance(check, dict) and INSTALLING in str(check.get("name", "")).lower() and not check.get("ok", False):
            return True
    return False


def cluster_view(url: str, *, timeout_s: float = PROBE_TIMEOUT_S) -> dict[str, Any] | None:
    """`GET /v1/cluster` of one node, None if it did not answer with one."""
    answer = ask(url, "/v1/cluster", timeout_s=timeout_s)
    if answer is None or answer[0] != 200 or not isinstance(answer[1], dict):
        return None
    return answer[1]


def leader_of(urls: Sequence[str], *, timeout_s: float = PROBE_TIMEOUT_S) -> str | None:
    """Id of the leader with the highest term that one of the nodes knows of, None when none knows one."""
    best: tuple[int, str] | None = None
    for url in urls:
        view = cluster_view(url, timeout_s=timeout_s)
        if view is None or not view.get("leader"):
            continue
        found = (int(view.get("term") or 0), str(view["leader"]))
        if best is None or found[0] > best[0]:
            best = found
    return best[1] if best is not None else None


def wait_until(
    check: Callable[[], bool], *, timeout_s: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> bool:
    """Asks `check` every 20 ms, later every 100 ms, until it holds or the time is over. Returns whether it holds."""
    started = clock()
    while not check():
        passed = clock() - started
        if passed > timeout_s:
            return False
        sleep(0.02 if passed < 2 else 0.1)
    return True
