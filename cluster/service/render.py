"""Answers as the contract shows them: results of apply and of reads turned into JSON-ready members.

The member names and their order are those of the HTTP contract; a member without a value is null, never left out.
"""

from __future__ import annotations

from typing import Any

import msgspec

from cluster.api.times import rfc3339
from node.results import Policy, RollbackDone, SnapshotInfo, SpaceInfo, TxDone


def tx_body(done: TxDone) -> dict[str, Any]:
    return {"lvc": done.lvc, "epoch": done.epoch, "log_seq": done.log_seq, "tx_id": done.tx_id}


def policy_body(policy: Policy) -> dict[str, Any]:
    return msgspec.structs.asdict(policy)


def space_body(info: SpaceInfo) -> dict[str, Any]:
    return {
        "name": info.name,
        "uid": info.uid,
        "page_size": info.page_size,
        "max_pages": info.max_pages,
        "size": info.size,
        "pages": info.pages,
        "lvc": info.lvc,
        "epoch": info.epoch,
        "state": info.state,
        "dirty_pages": info.dirty_pages,
        "baseline_dirty_pages": info.baseline_dirty_pages,
        "dirty_ratio": info.dirty_ratio,
        "baseline": info.baseline,
        "last_snapshot": info.last_snapshot,
        "undo_from_lvc": info.undo_from_lvc,
        "policy": policy_body(info.policy),
        "created": rfc3339(info.created_ms),
    }


def snapshot_body(info: SnapshotInfo, root: bytes | None) -> dict[str, Any]:
    """`root` is None only when the snapshot was gone before this node knew its root."""
    return {
        "id": info.id,
        "label": info.label,
        "space": info.space,
        "uid": info.uid,
        "kind": info.kind,
        "reason": info.reason,
        "base": info.base,
        "lvc": info.lvc,
        "epoch": info.epoch,
        "root": None if root is None else root.hex(),
        "size": info.size,
        "pages": info.pages,
        "dirty_pages": info.dirty_pages,
        "bytes": info.bytes,
        "index": info.index,
        "created": rfc3339(info.created_ms),
        "expires": rfc3339(info.expires_ms),
        "pins": info.pins,
    }


def rollback_body(done: RollbackDone, took_ms: float | None) -> dict[str, Any]:
    return {
        "lvc": done.lvc,
        "epoch": done.epoch,
        "from_lvc": done.from_lvc,
        "to_lvc": done.to_lvc,
        "snapshot": done.snapshot,
        "left_snapshot": done.left_snapshot,
        "pages_reverted": done.pages_reverted,
        "verified": done.verified,
        "took_ms": None if took_ms is None else round(took_ms, 3),
    }
