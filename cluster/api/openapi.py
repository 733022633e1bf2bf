"""The OpenAPI 3.1 document, made from the table that routes and validates."""

from __future__ import annotations

from functools import cache
from types import UnionType
from typing import Any, Final, get_args

import msgspec
from lastgood.codes import CODES

from cluster.api.bodies import ProblemBody
from cluster.api.operations import (
    ALWAYS,
    DATA_BYTES_MAX,
    JSON_BYTES_MAX,
    OPERATIONS,
    STREAM_MESSAGE_BYTES_MAX,
    STREAM_OPEN_MAX,
    TX_BYTES_MAX,
    TX_RANGES_MAX,
    Operation,
)
from cluster.api.problem import MEDIA_TYPE
from cluster.api.receive import JSON, MSGPACK
from cluster.api.requests import BINDERS

API_VERSION: Final = "1.0.0"
_TEMPLATE: Final = "#/components/schemas/{name}"
_BINARY: Final[dict[str, Any]] = {"type": "string", "format": "binary"}

DESCRIPTION: Final = f"""A replicated store of snapshots. Every error is a problem document (RFC 9457) with a `code`.

Limits: JSON bodies {JSON_BYTES_MAX} bytes, data of one PUT {DATA_BYTES_MAX}, one transaction {TX_BYTES_MAX} bytes and
{TX_RANGES_MAX} ranges. `/v1/stream` takes msgpack arrays of `[id, op, args]` (`op` is an operationId with `x-stream`,
`args` its parameters and body members together, binary as bin) and answers arrays of `[id, status, body]`, in any
order; at most {STREAM_OPEN_MAX} open requests and {STREAM_MESSAGE_BYTES_MAX} bytes a message. There a changing
operation may carry `session`, `seq` and `ack` instead of `idempotency_key`. Reads of bytes answer
`{{data, offset, size, lvc, epoch, index, uid, etag}}` on it."""


@cache
def openapi_json() -> bytes:
    """The document as it is served; made once."""
    return msgspec.json.encode(openapi())


def openapi() -> dict[str, Any]:
    """The document as objects."""
    types = _schema_types()
    schemas, components = msgspec.json.schema_components(types, ref_template=_TEMPLATE)
    schema_of = dict(zip(map(repr, types), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for row in OPERATIONS:
        paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "lastgood", "version": API_VERSION, "description": DESCRIPTION},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {"schemas": components},
    }


def _schema_types() -> list[Any]:
    """Every type that a schema is needed for, once each."""
    found: dict[str, Any] = {repr(ProblemBody): ProblemBody}
    for row in OPERATIONS:
        binder = BINDERS[row.id]
        for field in msgspec.structs.fields(binder.params):
            found[repr(field.type)] = field.type
        if row.body in ("json", "tx"):
            found[repr(binder.body)] = binder.body
        for body in row.success.values():
            for one in _options(body):
                found[repr(one)] = one
    return list(found.values())


def _options(body: Any) -> tuple[Any, ...]:
    if body is None:
        return ()
    return get_args(body) if isinstance(body, UnionType) else (body,)


def _operation(row: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": row.id,
        "summary": row.summary,
        "parameters": _parameters(row, schema_of),
        "responses": _responses(row, schema_of),
        "x-stream": row.stream,
    }
    content = _request_content(row, schema_of)
    if content:
        required = row.body == "raw" or any(field.required for field in msgspec.structs.fields(BINDERS[row.id].body))
        described["requestBody"] = {"content": content, "required": required}
    return described


def _parameters(row: Operation, schema_of: dict[str, Any]) -> list[dict[str, Any]]:
    parameters = []
    for field in msgspec.structs.fields(BINDERS[row.id].params):
        name = field.encode_name
        schema = dict(schema_of[repr(field.type)])
        if not field.required and field.default not in (None, msgspec.NODEFAULT):
            schema["default"] = field.default
        if name in row.headers:
            place, shown = "header", row.headers[name]
        else:
            place, shown = ("query" if name in row.query else "path"), name
        parameters.append({"name": shown, "in": place, "required": place == "path" or field.required, "schema": schema})
    return parameters


def _request_content(row: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    if row.body == "none":
        return {}
    if row.body == "raw":
        return {"application/octet-stream": {"schema": _BINARY}, "*/*": {"schema": _BINARY}}
    schema = schema_of[repr(BINDERS[row.id].body)]
    content = {JSON: {"schema": schema}}
    if row.body == "tx":
        content[MSGPACK] = {"schema": schema}
    return content


def _responses(row: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, body in row.success.items():
        responses[str(status)] = _success(row, status, body, schema_of)
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*ALWAYS, *row.errors)):
        by_status.setdefault(CODES[code].status, []).append(code)
    for status, codes in sorted(by_status.items()):
        described: dict[str, Any] = {
            "description": ", ".join(f"`{code}`: {CODES[code].title}" for code in codes),
            "content": {MEDIA_TYPE: {"schema": schema_of[repr(ProblemBody)]}},
            "x-codes": codes,
        }
        if status in (429, 503):
            described["headers"] = {"Retry-After": {"schema": {"type": "integer"}}}
        # /readyz answers 503 with its checks; the same status may also be a problem.
        if str(status) in responses:
            responses[str(status)]["content"].update(described["content"])
        else:
            responses[str(status)] = described
    return responses


def _success(row: Operation, status: int, body: Any, schema_of: dict[str, Any]) -> dict[str, Any]:
    titles = {
        101: "The WebSocket is open",
        200: "OK",
        201: "Created",
        204: "Done",
        206: "The range",
        304: "Not modified",
    }
    described: dict[str, Any] = {"description": titles.get(status, "Checks that do not hold")}
    options = [schema_of[repr(one)] for one in _options(body)]
    if options:
        described["content"] = {JSON: {"schema": options[0] if len(options) == 1 else {"oneOf": options}}}
    elif row.content == "bytes" and status in (200, 206):
        described["content"] = {"application/octet-stream": {"schema": _BINARY}}
    elif row.content == "text":
        described["content"] = {"text/plain": {"schema": {"type": "string"}}}
    if row.content == "events" and status == 200:
        described["content"]["text/event-stream"] = {"schema": {"type": "string"}}
    headers: dict[str, Any] = {}
    if row.content == "bytes":
        headers["ETag"] = {"schema": {"type": "string"}}
    if row.paged:
        headers["Link"] = {"schema": {"type": "string"}, "description": 'The next page, rel="next"'}
    if headers:
        described["headers"] = headers
    return described
