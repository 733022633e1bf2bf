"""A client for the contract test: plain requests to a real node, every answer held against the served OpenAPI."""

from __future__ import annotations

import asyncio
import base64
import http.client
import json
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import jsonschema
import msgspec

from cluster.api.operations import OPERATIONS
from cluster.api.router import Router

PROBLEM = {"type", "title", "status", "detail", "code", "retryable"}
ROUTER = Router(OPERATIONS)


class Reply:
    """One answer. `body` is parsed when JSON, else bytes."""

    def __init__(self, status: int, headers: dict[str, str], body: Any) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def code(self) -> str | None:
        return self.body.get("code") if isinstance(self.body, dict) else None

    def __repr__(self) -> str:
        return f"{self.status} {self.body!r}"[:400]


class Client:
    """Speaks to the nodes of one cluster in turn, or to a named one."""

    def __init__(self, endpoints: dict[str, str], timeout_s: float = 20) -> None:
        self.endpoints = endpoints
        self.timeout_s = timeout_s
        self._turn = 0
        document = self.raw("GET", "/openapi.json").body
        self._components = document["components"]
        self._described = {
            described["operationId"]: described for path in document["paths"].values() for described in path.values()
        }

    def next_node(self) -> str:
        self._turn += 1
        return list(self.endpoints)[self._turn % len(self.endpoints)]

    def raw(
        self, method: str, target: str, body: bytes | None = None, headers: dict[str, str] | None = None, node: str = ""
    ) -> Reply:
        """One request as it is; nothing is checked."""
        where = urlsplit(self.endpoints[node or self.next_node()])
        connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=self.timeout_s)
        try:
            connection.request(method, target, body=body, headers=headers or {})
            answer = connection.getresponse()
            content: Any = answer.read()
            kind = answer.headers.get_content_type()
            if content and kind in ("application/json", "application/problem+json"):
                content = json.loads(content)
            return Reply(answer.status, {name.lower(): value for name, value in answer.headers.items()}, content)
        finally:
            connection.close()

    def ask(self, method: str, target: str, document: Any = None, *, node: str = "", **headers: str) -> Reply:
        """A request with a JSON body (or bytes as they are); the answer must be one that OpenAPI tells of."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        body = document
        if document is not None and not isinstance(document, bytes):
            body = json.dumps(document).encode()
            sent.setdefault("Content-Type", "application/json")
        reply = self.raw(method, target, body, sent, node)
        self.check(method, target, reply)
        return reply

    def good(self, method: str, target: str, document: Any = None, **rest: Any) -> Any:
        """The body of a request that must succeed."""
        reply = self.ask(method, target, document, **rest)
        assert reply.status < 300, reply
        return reply.body

    def check(self, method: str, target: str, reply: Reply) -> None:
        """The answer's form: a problem from 400 on, else the type that the operation has for this status."""
        if reply.status >= 400 and not isinstance(reply.body, list):
            assert reply.headers["content-type"] == "application/problem+json", reply
            assert set(reply.body) >= PROBLEM, reply
            assert reply.body["status"] == reply.status
            assert ("retry-after" in reply.headers) == (reply.status in (429, 503))
        operation = ROUTER.route(method, target.partition("?")[0]).operation.id
        self.check_body(operation, reply.status, reply.body)

    def check_body(self, operation: str, status: int, body: Any) -> None:
        told = self._described[operation]["responses"]
        assert str(status) in told, f"{operation} answered {status}, which OpenAPI does not tell of"
        if isinstance(body, dict) and "code" in body and status >= 400:
            assert body["code"] in told[str(status)]["x-codes"], f"{operation} answered {body['code']}, not told of"
        for kind, content in told[str(status)].get("content", {}).items():
            if kind == "application/json" and not isinstance(body, bytes) and status < 400:
                schema = {**content["schema"], "components": self._components}
                jsonschema.Draft202012Validator(schema).validate(body)


def stream_all(url: str, requests: list[tuple[int, str, Any]]) -> dict[int, tuple[int, Any]]:
    """One message of requests over the stream; status and body by id."""

    async def talk() -> dict[int, tuple[int, Any]]:
        answers: dict[int, tuple[int, Any]] = {}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{url}/v1/stream", max_msg_size=0) as socket,
        ):
            await socket.send_bytes(msgspec.msgpack.encode(requests))
            while len(answers) < len(requests):
                message = await socket.receive(timeout=20)
                assert message.type is aiohttp.WSMsgType.BINARY, message
                for number, status, body in msgspec.msgpack.decode(message.data):
                    assert number not in answers
                    answers[number] = (status, body)
        return answers

    return asyncio.run(talk())


def as_json(body: Any) -> Any:
    """The body of a stream as HTTP would have it: binary as base64."""
    return json.loads(msgspec.json.encode(body))


def b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def snapshots(api: Client, room: str, count: int) -> None:
    """Takes `count` snapshots."""
    for _ in range(count):
        api.good("POST", f"/v1/spaces/{room}/snapshots")
