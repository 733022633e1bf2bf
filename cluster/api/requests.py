"""From the parts of an HTTP request to the argument struct of its operation. Strict: nothing unknown, nothing twice.

Per operation two structs are derived from its argument struct at import: the parameters (path, query, headers) and
the body. Both are decoded with their types, and their members together make the arguments.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote_plus

import msgspec

from cluster.api.args import Args
from cluster.api.operations import HIDDEN, OPERATIONS, Operation
from cluster.api.problem import ProblemError

_INTEGER: Final = re.compile(r"-?(?:0|[1-9][0-9]{0,39})")


class Binder:
    """Makes the arguments of one operation. `params` and `body` are the derived structs, for OpenAPI too."""

    def __init__(self, operation: Operation) -> None:
        self.operation = operation
        fields = [field for field in msgspec.structs.fields(operation.args) if field.encode_name not in HIDDEN]
        path_names = set(re.findall(r"{(\w+)}", operation.path))
        outside = path_names | set(operation.query) | set(operation.headers)
        raw = {"data"} if operation.body == "raw" else set()
        params = [field for field in fields if field.encode_name in outside]
        body = [field for field in fields if field.encode_name not in outside | raw]
        known = {field.encode_name for field in fields}
        if not outside <= known or (body and operation.body not in ("json", "tx")):
            raise ValueError(
                f"{operation.id}: the table and {operation.args.__name__} disagree on {sorted(outside ^ known)}"
            )
        name = operation.id[0].upper() + operation.id[1:]
        self.params = _derive(f"{name}Params", params)
        self.body = _derive(f"{name}Body", body)
        self._integers = frozenset(field.encode_name for field in params if _is_integer(field.type))
        self._query = frozenset(operation.query)
        self._header_of = {header.lower(): member for member, header in operation.headers.items()}
        self._param_names = [field.name for field in params]
        self._body_names = [field.name for field in body]
        self._decode_json = msgspec.json.Decoder(self.body).decode
        self._decode_msgpack = msgspec.msgpack.Decoder(self.body).decode

    def bind(
        self,
        path_args: dict[str, str],
        raw_query: str,
        headers: Sequence[tuple[bytes, bytes]],
        body: bytes,
        *,
        msgpack: bool = False,
        **also: Any,
    ) -> Args:
        """The arguments. `also` are members from elsewhere (raw `data`, `sse`). Raises ProblemError bad_request."""
        given: dict[str, Any] = dict(path_args)
        for name, value in parse_query(raw_query):
            if name not in self._query:
                known = ", ".join(sorted(self._query)) or "none"
                raise ProblemError("bad_request", f"query parameter {name[:80]!r} is unknown here; known: {known}")
            if name in given:
                raise ProblemError("bad_request", f"query parameter {name!r} is given twice")
            given[name] = self._number(name, value)
        if self._header_of:
            self._take_headers(headers, given)
        try:
            params = msgspec.convert(given, self.params)
        except msgspec.ValidationError as error:
            raise ProblemError("bad_request", f"parameters: {error}") from error
        members = {name: getattr(params, name) for name in self._param_names}
        if self.operation.body in ("json", "tx"):
            decoded = self._decode_body(body, msgpack=msgpack)
            for name in self._body_names:
                members[name] = getattr(decoded, name)
        return self.operation.args(**members, **also)

    def _decode_body(self, body: bytes, *, msgpack: bool) -> Any:
        if not body:
            body = b"\x80" if msgpack else b"{}"
        try:
            return self._decode_msgpack(body) if msgpack else self._decode_json(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ProblemError("bad_request", f"body: {error}") from error

    def _take_headers(self, headers: Sequence[tuple[bytes, bytes]], given: dict[str, Any]) -> None:
        for raw_name, raw_value in headers:
            member = self._header_of.get(raw_name.decode("latin-1").lower())
            if member is None:
                continue
            if member in given:
                raise ProblemError("bad_request", f"header {self.operation.headers[member]} is given twice")
            given[member] = raw_value.decode("latin-1").strip(" \t")

    def _number(self, name: str, value: str) -> str | int:
        if name not in self._integers:
            return value
        if _INTEGER.fullmatch(value) is None:
            raise ProblemError("bad_request", f"query parameter {name} is {value[:80]!r}, expected a whole number")
        return int(value)


def parse_query(raw_query: str) -> list[tuple[str, str]]:
    """Decoded names and values in order. Raises ProblemError bad_request for what is no UTF-8 or has no name."""
    if not raw_query:
        return []
    pairs: list[tuple[str, str]] = []
    for piece in raw_query.split("&"):
        name, _, value = piece.partition("=")
        try:
            pairs.append((unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict")))
        except UnicodeDecodeError as error:
            raise ProblemError("bad_request", f"the query is not UTF-8: {error}") from error
        if not pairs[-1][0]:
            raise ProblemError("bad_request", "the query has a parameter without a name")
    return pairs


def _derive(name: str, fields: list[msgspec.structs.FieldInfo]) -> type[msgspec.Struct]:
    rows: list[tuple[str, Any, Any]] = []
    renamed: dict[str, str] = {}
    for field in fields:
        if field.required:
            default = msgspec.field()
        elif field.default_factory is not msgspec.NODEFAULT:
            default = msgspec.field(default_factory=field.default_factory)
        else:
            default = msgspec.field(default=field.default)
        if field.encode_name != field.name:
            renamed[field.name] = field.encode_name
        rows.append((field.name, field.type, default))
    return msgspec.defstruct(
        name, rows, kw_only=True, forbid_unknown_fields=True, rename=renamed or None, module=__name__
    )


def _is_integer(annotation: Any) -> bool:
    kinds = msgspec.inspect.type_info(annotation)
    options = kinds.types if isinstance(kinds, msgspec.inspect.UnionType) else (kinds,)
    return any(isinstance(option, msgspec.inspect.IntType) for option in options)


BINDERS: Final[dict[str, Binder]] = {row.id: Binder(row) for row in OPERATIONS}
