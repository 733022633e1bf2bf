"""What a service answers, in one form for HTTP and the stream."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec


class About(msgspec.Struct, frozen=True):
    """The version of the space that an answer speaks of; becomes the `X-Lastgood-*` headers."""

    lvc: int
    epoch: int
    index: int  # the applied log index


class Answer(msgspec.Struct):
    """One answer. `body` is whatever msgspec encodes, a `DataBody`, a `DataStream`, bytes as they are, or None.

    A problem is a body made by `cluster.api.problem`. `next` is the query of the following page, as `after=room-9`:
    HTTP turns it into a `Link`, with the other members of the request's query kept.
    """

    status: int
    body: object
    headers: dict[str, str] | None = None
    about: About | None = None
    next: str | None = None
    replayed: bool = False  # the outcome comes from the idempotency table


class DataBody(msgspec.Struct):
    """Bytes of a space or snapshot: `data` starts at `offset` of `size` bytes. The stream sends all, HTTP only `data`.

    Status 200 or 206 stands in the Answer. `etag` is with its quotes, as `cluster.api.etags` makes it.
    """

    data: bytes | memoryview
    offset: int
    size: int
    lvc: int
    epoch: int
    index: int
    uid: int
    etag: str


class DataStream:
    """Like DataBody for bytes that would be too many to hold: `chunks` yields `length` bytes of one version.

    The stream collects it when it fits into one message, else refuses it as `too_large`. Whoever takes it calls
    `aclose` when done, read or not.
    """

    __slots__ = ("about", "chunks", "etag", "length", "offset", "size", "uid")

    def __init__(
        self,
        *,
        chunks: AsyncIterator[bytes | memoryview],
        length: int,
        offset: int,
        size: int,
        uid: int,
        etag: str,
        about: About,
    ) -> None:
        self.chunks = chunks
        self.length = length
        self.offset = offset
        self.size = size
        self.uid = uid
        self.etag = etag
        self.about = about

    async def aclose(self) -> None:
        """Releases what the producer holds. Safe to call twice."""
        close = getattr(self.chunks, "aclose", None)
        if close is not None:
            await close()
