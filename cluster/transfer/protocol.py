"""What can happen to a transfer and what is to be done then: events, effects and the tables of states. No I/O here.

The receiver has two states at once. `Link` is the connection, which comes and goes; `Work` is what has been
achieved, which
no lost connection takes back.
"""

from __future__ import annotations

import enum
from typing import Final, TypeAlias

import msgspec

from cluster.consensus.seams import Base as Base
from cluster.transfer.frames import Kind
from cluster.transfer.manifest import Manifest
from wal.checks import unreachable

WINDOW_BYTES: Final = 1024 * 1024  # asked for and not yet verified, at most: what one cut can cost

Struct = msgspec.Struct


class Link(enum.Enum):
    DOWN = "down"
    GREETING = "greeting"  # hello sent
    WANTING = "wanting"  # manifest asked for
    UP = "up"


class Work(enum.Enum):
    WANTING = "wanting"  # no manifest yet
    COMPARING = "comparing"  # looking which leaves and chunks are held already
    MAPPING = "mapping"  # fetching entries of differing leaves, and chunks
    PLANNING = "planning"  # looking which pages are held already, making room for the others
    FETCHING = "fetching"  # fetching pages
    SETTLING = "settling"  # all is verified, not yet all durable
    DONE = "done"


class Ask(Struct, frozen=True):
    """One request: the items `start` to `stop` (half-open) of the list that `kind` is about; at most `nbytes` come
    back.

    GET_LEAVES: the landing's list of differing leaves; GET_CHUNKS: its list of missing chunks; GET_PAGES: the plan.
    """

    kind: Kind
    start: int
    stop: int
    nbytes: int


# Events of the receiver.
class LinkUp(Struct, frozen=True):
    peer: str


class LinkLost(Struct, frozen=True):
    reason: str


class Welcomed(Struct, frozen=True):
    node: str


class GotManifest(Struct, frozen=True, eq=False):
    manifest: Manifest


class ManifestUnchanged(Struct, frozen=True):
    pass


class Compared(Struct, frozen=True):
    """Answer to `Compare` of that `round`."""

    round: int
    asks: tuple[Ask, ...]


class Planned(Struct, frozen=True):
    """Answer to `MakePlan` of that `round`."""

    round: int
    asks: tuple[Ask, ...]


class Received(Struct, frozen=True):
    """The whole answer is here; whether it is what was asked for is being looked at."""

    request: int


class Verified(Struct, frozen=True):
    """What came for `request` is true and kept. `again`: what must be asked for in another way."""

    request: int
    again: tuple[Ask, ...] = ()


class Rejected(Struct, frozen=True):
    """What came for `request` is not what its digests say."""

    request: int
    reason: str


class PeerRefused(Struct, frozen=True):
    code: str
    detail: str


class Credit(Struct, frozen=True):
    """The limiter lets `nbytes` more be asked for."""

    nbytes: int


class Settled(Struct, frozen=True):
    pass


Event: TypeAlias = (
    LinkUp
    | LinkLost
    | Welcomed
    | GotManifest
    | ManifestUnchanged
    | Compared
    | Planned
    | Received
    | Verified
    | Rejected
    | PeerRefused
    | Credit
    | Settled
)


# Effects of the receiver.
class SayHello(Struct, frozen=True):
    pass


class AskManifest(Struct, frozen=True):
    index_min: int
    have: bytes


class Compare(Struct, frozen=True, eq=False):
    """Look which leaves and chunks of `manifest` are missing, then say `Compared(round, …)`."""

    round: int
    manifest: Manifest


class Send(Struct, frozen=True):
    request: int
    ask: Ask


class MakePlan(Struct, frozen=True):
    """Look which pages are missing, make room for them, then say `Planned(round, …)`."""

    round: int


class Settle(Struct, frozen=True):
    """Make everything durable, then say `Settled`."""


class Drop(Struct, frozen=True):
    """Close the connection and dial again; with `rotate` another peer."""

    reason: str
    rotate: bool


class Finished(Struct, frozen=True):
    pass


Effect: TypeAlias = SayHello | AskManifest | Compare | Send | MakePlan | Settle | Drop | Finished


class Emptied(Struct, frozen=True):
    """Internal: all that was to be asked for in this state is verified."""


LINK_NEXT: Final[dict[tuple[Link, type], Link]] = {
    (Link.DOWN, LinkUp): Link.GREETING,
    (Link.GREETING, Welcomed): Link.WANTING,
    (Link.WANTING, GotManifest): Link.UP,
    (Link.WANTING, ManifestUnchanged): Link.UP,
    (Link.UP, PeerRefused): Link.WANTING,  # only `gone`: ask for the manifest again
    (Link.GREETING, LinkLost): Link.DOWN,
    (Link.WANTING, LinkLost): Link.DOWN,
    (Link.UP, LinkLost): Link.DOWN,
    (Link.DOWN, LinkLost): Link.DOWN,
}

WORK_NEXT: Final[dict[tuple[Work, type], Work]] = {
    (Work.WANTING, GotManifest): Work.COMPARING,
    (Work.COMPARING, GotManifest): Work.COMPARING,  # from here on: a re-base
    (Work.MAPPING, GotManifest): Work.COMPARING,
    (Work.PLANNING, GotManifest): Work.COMPARING,
    (Work.FETCHING, GotManifest): Work.COMPARING,
    (Work.COMPARING, Compared): Work.MAPPING,
    (Work.MAPPING, Emptied): Work.PLANNING,
    (Work.PLANNING, Planned): Work.FETCHING,
    (Work.FETCHING, Emptied): Work.SETTLING,
    (Work.SETTLING, Settled): Work.DONE,
}


def next_link(link: Link, event: type) -> Link:
    after = LINK_NEXT.get((link, event))
    if after is None:
        unreachable("event in this state of the link", link=link.value, event=event.__name__)
    return after


def next_work(work: Work, event: type) -> Work:
    after = WORK_NEXT.get((work, event))
    if after is None:
        unreachable("event in this state of the work", work=work.value, event=event.__name__)
    return after
