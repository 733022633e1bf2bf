"""From a method and a raw path to an operation and its path arguments, by the table of operations."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple
from urllib.parse import unquote

from cluster.api.operations import Operation
from cluster.api.problem import ProblemError


class Route(NamedTuple):
    operation: Operation
    path_args: dict[str, str]


class _Node:
    __slots__ = ("child", "methods", "named")

    def __init__(self) -> None:
        self.named: dict[str, _Node] = {}
        self.child: _Node | None = None  # of any segment
        self.methods: dict[str, tuple[Operation, tuple[str, ...]]] = {}


class Router:
    """A tree of path segments. A literal segment wins over a parameter. HEAD goes where GET goes."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._root = _Node()
        for operation in operations:
            self._add(operation)

    def _add(self, operation: Operation) -> None:
        node, names = self._root, []
        for segment in operation.path.split("/")[1:]:
            if segment.startswith("{"):
                names.append(segment[1:-1])
                node.child = node.child or _Node()
                node = node.child
            else:
                node = node.named.setdefault(segment, _Node())
        node.methods[operation.method] = (operation, tuple(names))

    def route(self, method: str, raw_path: str) -> Route:
        """Raises ProblemError: not_found, method_not_allowed with `Allow`, bad_request for what is no UTF-8 path."""
        node, values = self._root, []
        for segment in raw_path.split("/")[1:]:
            following = node.named.get(segment)
            if following is None:
                following = node.child
                if following is None or not segment:
                    raise ProblemError("not_found", f"there is no resource {raw_path[:200]}")
                values.append(segment)
            node = following
        if not node.methods:
            raise ProblemError("not_found", f"there is no resource {raw_path[:200]}")
        found = node.methods.get("GET" if method == "HEAD" else method)
        if found is None:
            allowed = sorted({*node.methods, *(("HEAD",) if "GET" in node.methods else ())})
            raise ProblemError(
                "method_not_allowed",
                f"{method[:40]} {raw_path[:200]}: allowed are {', '.join(allowed)}",
                headers={"Allow": ", ".join(allowed)},
            )
        operation, names = found
        try:
            return Route(
                operation, {name: unquote(value, errors="strict") for name, value in zip(names, values, strict=True)}
            )
        except UnicodeDecodeError as error:
            raise ProblemError("bad_request", f"the path is not UTF-8: {error}") from error
