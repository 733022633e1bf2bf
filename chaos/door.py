"""The clients' way to the nodes: one HTTP attempt at a time, each with one of three outcomes.

Raw HTTP and not the SDK, so that nothing retries, reorders or hides behind the workload's back. Changes go by POST,
which aiohttp never repeats by itself.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import aiohttp
import msgspec
from lastgood.codes import CODES


@dataclass(frozen=True, slots=True)
class Reply:
    """`outcome`: ok, refused (nothing happened), unknown. `code` names the refusal or what went wrong."""

    outcome: Literal["ok", "refused", "unknown"]
    status: int = 0
    code: str = ""
    body: Any = None
    raw: bytes = b""
    headers: Mapping[str, str] | None = None

    @property
    def retryable(self) -> bool:
        """Whether another attempt may do better: nobody answered, or the node said so."""
        known = CODES.get(self.code)
        return self.outcome != "ok" and (known is None or known.retryable or not known.outcome_known)

    def header_int(self, name: str) -> int:
        return int((self.headers or {})[name])


class Door:
    """Connections to all nodes. Use as `async with`."""

    def __init__(self, urls: Mapping[str, str], *, timeout_s: float = 1.5) -> None:
        self.urls = dict(urls)
        self._timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(1.0, timeout_s))
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Door:
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=self._timeout)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(
        self, node: str, path: str, *, params: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> Reply:
        return await self._attempt("GET", node, path, params=params, timeout_s=timeout_s)

    async def put(self, node: str, path: str, body: Any) -> Reply:
        return await self._attempt("PUT", node, path, body=body)

    async def post(
        self, node: str, path: str, body: Any, *, key: str | None = None, timeout_s: float | None = None
    ) -> Reply:
        return await self._attempt("POST", node, path, body=body, key=key, timeout_s=timeout_s)

    async def _attempt(
        self,
        method: str,
        node: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        key: str | None = None,
        timeout_s: float | None = None,
    ) -> Reply:
        if self._session is None:
            raise RuntimeError("a Door is used as `async with`")
        headers = {} if key is None else {"Idempotency-Key": key}
        content = None
        if body is not None:
            # Bytes are bin in msgpack, which transactions may come in and larger ones have to.
            packed = "writes" in body
            headers["Content-Type"] = "application/msgpack" if packed else "application/json"
            # As a file: aiohttp warns of large bytes.
            content = io.BytesIO(msgspec.msgpack.encode(body) if packed else json.dumps(body).encode())
        timeout = self._timeout if timeout_s is None else aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with self._session.request(
                method, self.urls[node] + path, params=params, data=content, headers=headers, timeout=timeout
            ) as response:
                return _reply(response.status, await response.read(), response.headers)
        except aiohttp.ClientConnectorError:
            return Reply("refused", code="unreachable")
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Reply("unknown", code=type(error).__name__)


def _reply(status: int, raw: bytes, headers: Mapping[str, str]) -> Reply:
    is_json = "json" in headers.get("Content-Type", "")
    try:
        body = json.loads(raw) if is_json and raw else None
    except ValueError:
        return Reply("unknown", status, "not JSON", raw=raw, headers=headers)
    if status < 400:
        return Reply("ok", status, "", body, raw, headers)
    code = str(body.get("code", "")) if isinstance(body, dict) else ""
    # A code that is not in the table says nothing about the outcome.
    known = CODES.get(code)
    return Reply(
        "refused" if known is not None and known.outcome_known else "unknown", status, code, body, raw, headers
    )
