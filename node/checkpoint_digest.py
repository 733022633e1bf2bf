"""Names the content of a checkpoint: equal replicated states at one index have equal digests on every node.

Covers the counters, and of every space its facts, page digests, snapshots and window bounds. Spaces that did not change
keep the digest that they had.
"""

from __future__ import annotations

from typing import Final

import msgspec
from blake3 import blake3

from node.digest import DIGEST_BYTES
from node.image import FrozenState, SpaceImage
from node.results import Policy
from node.table import Leaves
from wal.checks import invariant

_STATE: Final = blake3(derive_key_context="lastgood v1 checkpoint")
_SPACE: Final = blake3(derive_key_context="lastgood v1 checkpoint space")
_encode: Final = msgspec.msgpack.Encoder(order="sorted").encode


class ContentDigest:
    """Digests of the frozen states of one node, one after the other."""

    def __init__(self) -> None:
        self._spaces: dict[int, bytes] = {}

    def of(self, frozen: FrozenState) -> bytes:
        """Digest of a frozen state whose leaves are hashed."""
        known = self._spaces
        stale = frozen.spaces.keys() if frozen.whole else frozen.changed_spaces
        spaces = {uid: known[uid] for uid in frozen.spaces if uid not in stale}
        for uid in stale:
            if uid in frozen.spaces:
                spaces[uid] = _space_digest(frozen.spaces[uid])
        self._spaces = spaces
        hasher = _STATE.copy()
        hasher.update(_encode(msgspec.structs.replace(frozen.meta, blob_no=0)))  # blobs are local
        for uid in sorted(spaces):
            hasher.update(uid.to_bytes(8, "big") + spaces[uid])
        return hasher.digest(DIGEST_BYTES)


def _space_digest(image: SpaceImage) -> bytes:
    hasher = _SPACE.copy()
    # 0 and 0.0 are equal, but not their bytes: a restored policy holds floats.
    policy = [None if value is None else float(value) for value in msgspec.structs.astuple(image.meta.policy)]
    meta = msgspec.structs.replace(image.meta, policy=Policy())
    hasher.update(_encode((meta, policy, image.window.first_lvc, image.window.count)))
    _add_table(hasher, image.leaves)
    for snapshot in image.snapshots:
        # The root is derived, and one node may know it earlier than another.
        hasher.update(_encode(msgspec.structs.replace(snapshot.meta, root=None)))
        _add_table(hasher, snapshot.leaves)
    return hasher.digest(DIGEST_BYTES)


def _add_table(hasher: blake3, leaves: Leaves) -> None:
    parts = [len(leaves).to_bytes(8, "big")]
    for number in sorted(leaves):
        digest = leaves[number].digest
        invariant(digest is not None, "leaves are hashed before a checkpoint is named", leaf_no=number)
        parts.append(number.to_bytes(8, "big") + (digest or b""))
    hasher.update(b"".join(parts))
