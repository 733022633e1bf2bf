"""When a snapshot is due by itself, and which policies are valid. Pure functions of replicated counters."""

from __future__ import annotations

from typing import Final, Literal

from node.results import Policy

Reason = Literal["chain", "dirty_ratio", "lvc_delta"]

RING_MAX: Final = 65_536
POLICY_FIELDS: Final = frozenset(Policy.__struct_fields__)
POLICY_DEFAULT: Final = Policy()


def decide_snapshot(
    *, baseline_dirty_pages: int, pages: int, transactions: int, chain: int, policy: Policy, chain_max: int
) -> Reason | None:
    """Why a hybrid snapshot is due now, or None. Only for a space that has a baseline.

    `transactions` and `chain` (incrementals) count since the baseline. Thresholds: `policy.dirty_ratio` of `pages` with
    at least `policy.dirty_pages_min`, `policy.lvc_delta` transactions, more than `chain_max` incrementals.
    """
    if baseline_dirty_pages >= policy.dirty_pages_min and 0 < baseline_dirty_pages >= policy.dirty_ratio * pages:
        return "dirty_ratio"
    if transactions >= policy.lvc_delta:
        return "lvc_delta"
    if chain > chain_max:
        return "chain"
    return None


def make_policy(given: dict[str, float | int | None] | None) -> Policy:
    """Defaults with `given` on top. Raises ValueError that names the member, its value and its bounds."""
    members = dict(given or {})
    for name, value in members.items():
        if name not in POLICY_FIELDS:
            raise ValueError(f"policy has no member {name!r}")
        if name == "ttl_s" and value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"policy.{name} is {value!r}, expected a number")
        if name not in ("dirty_ratio", "interval_s", "ttl_s") and not isinstance(value, int):
            raise ValueError(f"policy.{name} is {value!r}, expected a whole number")
    policy = Policy(**members)  # type: ignore[arg-type]
    check_policy(policy)
    return policy


def check_policy(policy: Policy) -> None:
    """Raises ValueError unless every member is within its bounds."""
    if not 0 < policy.dirty_ratio <= 1:
        raise ValueError(f"policy.dirty_ratio is {policy.dirty_ratio}, over 0 and at most 1")
    if policy.dirty_pages_min < 0:
        raise ValueError(f"policy.dirty_pages_min is {policy.dirty_pages_min}, at least 0")
    if policy.lvc_delta < 1:
        raise ValueError(f"policy.lvc_delta is {policy.lvc_delta}, at least 1")
    if not 0 <= policy.interval_s <= 1e9:
        raise ValueError(f"policy.interval_s is {policy.interval_s}, 0 (off) to 1e9")
    if not 1 <= policy.ring <= RING_MAX:
        raise ValueError(f"policy.ring is {policy.ring}, 1 to {RING_MAX}")
    if policy.ttl_s is not None and not 1 <= policy.ttl_s <= 1e9:
        raise ValueError(f"policy.ttl_s is {policy.ttl_s}, 1 to 1e9 or null")
    if policy.undo_bytes < 0:
        raise ValueError(f"policy.undo_bytes is {policy.undo_bytes}, at least 0")
