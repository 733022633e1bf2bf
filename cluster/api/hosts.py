"""Which `Host` and `Origin` are ours: what keeps a web page elsewhere from using a browser against this node."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.%]+)\]|([^\[\]:/@?#\s\\]+))(?::([0-9]{1,5}))?")
_ORIGIN: Final = re.compile(r"https?://([^/?#\s]+)", re.IGNORECASE)
_REMEMBERED_MAX: Final = 1024


def host_name(text: str) -> str | None:
    """The host of `host`, `host:port` or `[v6]:port` in lower case, without a root dot; None for anything else."""
    match = _HOST.fullmatch(text.strip(" \t"))
    if match is None:
        return None
    return (match[1] or match[2]).lower().rstrip(".") or None


class HostRule:
    """Allowed are localhost, the loopback addresses, the given names, and the address that the connection reached.

    Ports are not compared: forwarded ports and proxies change them, and no page gains by it.
    """

    def __init__(self, allowed: Iterable[str]) -> None:
        names = set(LOOPBACK)
        for entry in allowed:
            name = host_name(entry.split("://", 1)[-1].rstrip("/"))
            if name is None:
                raise ValueError(f"allowed host {entry!r}: expected a name or an address, with or without a port")
            names.add(name)
        self._names = frozenset(names)
        self._remembered: dict[tuple[str, str | None], bool] = {}

    def allows_host(self, header: str, reached: str | None) -> bool:
        """`header` is the Host as it came; `reached` the local address of the connection."""
        key = (header, reached)
        known = self._remembered.get(key)
        if known is None:
            name = host_name(header)
            known = name is not None and (name in self._names or name == reached)
            if len(self._remembered) < _REMEMBERED_MAX:
                self._remembered[key] = known
        return known

    def allows_origin(self, header: str, reached: str | None) -> bool:
        """`header` is the Origin as it came; `null` is foreign."""
        match = _ORIGIN.fullmatch(header.strip(" \t"))
        return match is not None and self.allows_host(match[1], reached)
