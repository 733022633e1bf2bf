"""Client of lastgood, a replicated snapshot store that brings a live service back to its last good state.

    async with lastgood.connect("http://127.0.0.1:7801") as store:
        room = await store.space("room-17", create=True)
        await room.write(0, b"...")                      # atomic, on disk on a majority
        before = await room.snapshot(label="v2.3.0")
        await room.rollback(before)

`lastgood.sync.connect` gives the same to programs without an event loop.
"""

from lastgood import sync
from lastgood.answers import (
    ClusterStatus,
    Cut,
    Diff,
    DryRun,
    Event,
    Exported,
    Imported,
    NodeStatus,
    PageState,
    PolicyState,
    Read,
    RolledBack,
    Snapshot,
    SpaceInfo,
    Transfer,
    WalRecord,
    Written,
)
from lastgood.calls import Limits
from lastgood.errors import (
    BadRequest,
    Conflict,
    Forbidden,
    Gone,
    IdempotencyConflict,
    ImportFailed,
    Installing,
    InternalError,
    LastgoodError,
    MethodNotAllowed,
    NoLeader,
    NotFound,
    OutsideWindow,
    Pinned,
    PreconditionFailed,
    ProtocolError,
    RangeNotSatisfiable,
    RateLimited,
    Refused,
    StaleEpoch,
    StorageFull,
    TooLarge,
    Unauthorized,
    Unavailable,
    UnknownOutcome,
    UnsupportedMediaType,
    UpdateInProgress,
)
from lastgood.requests import Policy
from lastgood.space import Space
from lastgood.store import Store, connect
from lastgood.stream import Timing

__all__ = [
    "BadRequest",
    "ClusterStatus",
    "Conflict",
    "Cut",
    "Diff",
    "DryRun",
    "Event",
    "Exported",
    "Forbidden",
    "Gone",
    "IdempotencyConflict",
    "ImportFailed",
    "Imported",
    "Installing",
    "InternalError",
    "LastgoodError",
    "Limits",
    "MethodNotAllowed",
    "NoLeader",
    "NodeStatus",
    "NotFound",
    "OutsideWindow",
    "PageState",
    "Pinned",
    "Policy",
    "PolicyState",
    "PreconditionFailed",
    "ProtocolError",
    "RangeNotSatisfiable",
    "RateLimited",
    "Read",
    "Refused",
    "RolledBack",
    "Snapshot",
    "Space",
    "SpaceInfo",
    "StaleEpoch",
    "StorageFull",
    "Store",
    "Timing",
    "TooLarge",
    "Transfer",
    "Unauthorized",
    "Unavailable",
    "UnknownOutcome",
    "UnsupportedMediaType",
    "UpdateInProgress",
    "WalRecord",
    "Written",
    "connect",
    "sync",
]
