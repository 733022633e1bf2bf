"""Addresses of a cluster's nodes: how users write them, and whose turn it is."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

DEFAULT_PORT = 7801


def parse_endpoints(given: str | Iterable[str]) -> list[str]:
    """Base URLs without a trailing slash, in the given order, each once.

    `given` is one string (several separated by commas) or several; `host:port` means `http://host:port`.
    Raises ValueError for what is no address, and for nothing at all.
    """
    texts = given.split(",") if isinstance(given, str) else [part for text in given for part in text.split(",")]
    urls: list[str] = []
    for text in (text.strip() for text in texts):
        if not text:
            continue
        url = text if "://" in text else f"http://{text}"
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise ValueError(f"{text!r} is not an endpoint: {error}") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.path not in ("", "/"):
            raise ValueError(f"{text!r} is not an endpoint: write http://host:port or host:port")
        host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
        if port is None and "://" not in text:
            port = DEFAULT_PORT
        base = f"{parts.scheme}://{host}" + (f":{port}" if port is not None else "")
        if base not in urls:
            urls.append(base)
    if not urls:
        raise ValueError("no endpoint given")
    return urls


def _same(url: str) -> str:
    return url.rstrip("/").replace("://localhost", "://127.0.0.1")


class Endpoints:
    """A ring of base URLs with one that is in use."""

    def __init__(self, urls: list[str]) -> None:
        self.urls = urls
        self._at = 0

    def __len__(self) -> int:
        return len(self.urls)

    @property
    def current(self) -> str:
        return self.urls[self._at]

    def advance(self, failed: str | None = None) -> None:
        """The next one's turn; with `failed`, only if that is still the current one."""
        if failed is None or failed == self.current:
            self._at = (self._at + 1) % len(self.urls)

    def find(self, url: str) -> str | None:
        """The listed URL that is `url` (localhost and 127.0.0.1 are one), or None."""
        return next((listed for listed in self.urls if _same(listed) == _same(url)), None)

    def prefer(self, url: str) -> None:
        """Makes a listed URL the current one."""
        self._at = self.urls.index(url)
