"""The sender's decisions on one connection: what a request means and whether it may be answered. No I/O.

The sender keeps nothing about a transfer but which checkpoint it serves: all progress is the receiver's, so a sender
can
die, and another one go on.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias

import msgspec
import numpy as np

from cluster.transfer.frames import (
    FRAME_BYTES,
    Codec,
    ControlBody,
    Damaged,
    GetManifest,
    Header,
    Hello,
    Kind,
    RefusedBody,
    Tell,
    Welcome,
    decode_chunk_asks,
    decode_control,
    decode_leaf_asks,
    decode_places,
)
from cluster.transfer.manifest import Manifest

Struct = msgspec.Struct
LEAVES_MAX: Final = 64  # of one request: their entries fit into one frame
CHUNKS_MAX: Final = 1


class Stage(enum.Enum):
    GREETING = "greeting"  # nothing but HELLO is understood
    CHOOSING = "choosing"  # nothing but GET_MANIFEST
    SERVING = "serving"


# Which kinds a receiver may send in which stage, and the stage after that.
STAGE_NEXT: Final[dict[tuple[Stage, Kind], Stage]] = {
    (Stage.GREETING, Kind.HELLO): Stage.CHOOSING,
    (Stage.CHOOSING, Kind.GET_MANIFEST): Stage.CHOOSING,  # SERVING once one was chosen
    (Stage.CHOOSING, Kind.PING): Stage.CHOOSING,
    (Stage.SERVING, Kind.GET_MANIFEST): Stage.SERVING,
    (Stage.SERVING, Kind.GET_LEAVES): Stage.SERVING,
    (Stage.SERVING, Kind.GET_CHUNKS): Stage.SERVING,
    (Stage.SERVING, Kind.GET_PAGES): Stage.SERVING,
    (Stage.SERVING, Kind.TELL): Stage.SERVING,
    (Stage.SERVING, Kind.PING): Stage.SERVING,
    (Stage.SERVING, Kind.BYE): Stage.CHOOSING,
}


# Effects of the sender.
class Answer(Struct, frozen=True):
    kind: Kind
    body: ControlBody


class ChooseManifest(Struct, frozen=True):
    """Find the checkpoint that `asked` wants, then say `chosen` or `not_chosen`."""

    request: int
    asked: GetManifest


class SendManifest(Struct, frozen=True, eq=False):
    """All parts of the manifest, or one empty part when `unchanged`."""

    request: int
    manifest: Manifest
    unchanged: bool


class SendLeaves(Struct, frozen=True, eq=False):
    request: int
    asks: np.ndarray


class SendChunks(Struct, frozen=True, eq=False):
    request: int
    numbers: np.ndarray


class SendPages(Struct, frozen=True, eq=False):
    request: int
    places: np.ndarray
    page_shift: int
    codec: Codec


class SendWait(Struct, frozen=True):
    request: int


class NoteTotal(Struct, frozen=True):
    told: Tell


class LetGo(Struct, frozen=True):
    """The receiver has everything, durably."""


class Close(Struct, frozen=True):
    reason: str


Effect: TypeAlias = (
    Answer | ChooseManifest | SendManifest | SendLeaves | SendChunks | SendPages | SendWait | NoteTotal | LetGo | Close
)


class Sender:
    """One connection of one receiver. `on(header, body) -> effects`; every request is checked before it is answered."""

    def __init__(self, *, cluster_id: str, node: str) -> None:
        self.stage = Stage.GREETING
        self.hello: Hello | None = None
        self.manifest: Manifest | None = None
        self._cluster_id = cluster_id
        self._node = node

    def on(self, header: Header, body: bytes | bytearray | memoryview) -> list[Effect]:
        """Takes in one whole and checked frame. A frame that breaks the protocol ends the connection."""
        after = STAGE_NEXT.get((self.stage, header.kind))
        if after is None:
            return [Close(f"{header.kind.name} while {self.stage.value}")]
        try:
            effects = self._answer(header, body)
        except Damaged as error:
            return [Close(str(error))]
        if self.stage is not after and not any(isinstance(effect, Close) for effect in effects):
            self.stage = after
        return effects

    def _answer(self, header: Header, body: bytes | bytearray | memoryview) -> list[Effect]:
        request = header.request
        if header.kind in (Kind.HELLO, Kind.GET_MANIFEST, Kind.TELL):
            control = decode_control(header.kind, body)
            if isinstance(control, Tell):
                return [NoteTotal(control)]
            if isinstance(control, Hello):
                return self._greet(control)
            if isinstance(control, GetManifest):
                return [ChooseManifest(request, control)]
        if header.kind is Kind.PING:
            return [SendWait(request)]
        if header.kind is Kind.BYE:
            return [LetGo()]
        if header.kind is Kind.GET_LEAVES:
            return [SendLeaves(request, self._known(decode_leaf_asks(bytes(body)), "leaf", LEAVES_MAX))]
        if header.kind is Kind.GET_CHUNKS:
            return [SendChunks(request, self._known_chunks(decode_chunk_asks(bytes(body))))]
        places = self._known(decode_places(bytes(body)), "leaf", FRAME_BYTES >> 12)
        return [SendPages(request, places, self._page_shift(places), header.codec)]

    def _greet(self, hello: Hello) -> list[Effect]:
        if hello.cluster_id != self._cluster_id:
            refusal = RefusedBody("wrong_cluster", f"cluster {hello.cluster_id!r}, this is {self._cluster_id!r}")
            return [Answer(Kind.REFUSED, refusal), Close("wrong cluster")]
        self.hello = hello
        return [Answer(Kind.WELCOME, Welcome(self._node))]

    def chosen(self, request: int, asked: GetManifest, manifest: Manifest) -> list[Effect]:
        """The checkpoint that is served from now on."""
        self.manifest = manifest
        self.stage = Stage.SERVING
        return [SendManifest(request, manifest, asked.have == manifest.digest)]

    def not_chosen(self, request: int, asked: GetManifest) -> list[Effect]:
        """There is no checkpoint of at least `index_min` here yet."""
        self.manifest = None
        self.stage = Stage.CHOOSING
        return [Answer(Kind.REFUSED, RefusedBody("not_yet", f"no checkpoint of index {asked.index_min} or later"))]

    def _known(self, rows: np.ndarray, column: str, count_max: int) -> np.ndarray:
        leaf_count = len(self.manifest.leaves) if self.manifest else 0
        if len(rows) > count_max or not (rows[column] < leaf_count).all():
            raise Damaged(f"request for {len(rows)} items (at most {count_max}) of {leaf_count} leaves")
        return rows

    def _known_chunks(self, numbers: np.ndarray) -> np.ndarray:
        chunk_count = len(self.manifest.chunks) if self.manifest else 0
        if len(numbers) > CHUNKS_MAX or not (numbers < chunk_count).all():
            raise Damaged(f"request for {len(numbers)} chunks (at most {CHUNKS_MAX}) of {chunk_count}")
        return numbers

    def _page_shift(self, places: np.ndarray) -> int:
        """Log2 of the page size; one request is about pages of one size, and of one frame at most."""
        if self.manifest is None:
            raise Damaged("request for pages of no checkpoint")
        shifts = self.manifest.leaves["page_shift"][places["leaf"]]
        shift = int(shifts[0])
        if not (shifts == shift).all() or len(places) << shift > FRAME_BYTES:
            raise Damaged(f"request for {len(places)} pages of {1 << shift} bytes")
        return shift
