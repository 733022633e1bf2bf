"""The naive twin of one space: dicts of bytes and whole copies. Slow, short, and written without a look at node/."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field

from blake3 import blake3

PAGE = 4096


@dataclass
class TwinState:
    """Everything that a rollback takes back."""

    pages: dict[int, bytes] = field(default_factory=dict)
    versions: dict[int, int] = field(default_factory=dict)
    size: int = 0
    dirty: set[int] = field(default_factory=set)
    baseline_dirty: set[int] = field(default_factory=set)
    last_snapshot: int | None = None
    baseline: int | None = None
    transactions: int = 0
    chain: int = 0

    def touch(self, page: int, lvc: int) -> None:
        self.versions[page] = lvc
        self.dirty.add(page)
        self.baseline_dirty.add(page)

    def write(self, offset: int, block: bytes, lvc: int) -> None:
        for page in range(offset // PAGE, (offset + len(block) - 1) // PAGE + 1):
            content = bytearray(self.pages.get(page, bytes(PAGE)))
            low = max(offset, page * PAGE)
            high = min(offset + len(block), (page + 1) * PAGE)
            content[low - page * PAGE : high - page * PAGE] = block[low - offset : high - offset]
            self.pages[page] = bytes(content)
            self.touch(page, lvc)
        self.size = max(self.size, offset + len(block))

    def set_size(self, size: int, lvc: int) -> None:
        if size < self.size:
            for page in [page for page in self.pages if page * PAGE >= size]:
                del self.pages[page]
                self.touch(page, lvc)
            page, rest = divmod(size, PAGE)
            if rest and page in self.pages:
                self.pages[page] = self.pages[page][:rest] + bytes(PAGE - rest)
                self.touch(page, lvc)
        self.size = size

    def content(self) -> bytes:
        whole = bytearray(-(-self.size // PAGE) * PAGE)
        for page, block in self.pages.items():
            whole[page * PAGE : (page + 1) * PAGE] = block
        return bytes(whole[: self.size])


class TwinSpace:
    """One space with its history: a copy of the state for every LVC and every snapshot."""

    def __init__(self, uid: int, state: TwinState | None = None, lvc: int = 0) -> None:
        self.uid = uid
        self.state = state or TwinState()
        self.lvc = lvc
        self.epoch = uid
        self.snapshots: dict[int, dict] = {}
        self.snapshot_seq = 0
        self.history: dict[int, TwinState] = {}
        self.remember()

    def remember(self) -> None:
        self.history[self.lvc] = deepcopy(self.state)

    def tx(self, writes: list[tuple[int, bytes]], size: int | None, policy: dict) -> None:
        self.lvc += 1
        for offset, block in writes:
            self.state.write(offset, block, self.lvc)
        if size is not None:
            self.state.set_size(size, self.lvc)
        self.state.transactions += 1
        reason = self.rule(policy) if self.state.baseline else None
        if reason:
            self.snapshot("hybrid", reason, policy)
        self.remember()

    def rule(self, policy: dict) -> str | None:
        state = self.state
        dirty = len(state.baseline_dirty)
        if dirty and dirty >= policy["dirty_pages_min"] and dirty >= policy["dirty_ratio"] * len(state.pages):
            return "dirty_ratio"
        if state.transactions >= policy["lvc_delta"]:
            return "lvc_delta"
        return "chain" if state.chain > policy["chain_max"] else None

    def snapshot(self, kind: str, reason: str, policy: dict, *, due_ms: int | None = None) -> None:
        state = self.state
        if kind == "auto":
            kind = "hybrid" if state.baseline and self.rule(policy) else "incremental"
        if not state.baseline:
            kind = "full"
        base = {"full": None, "hybrid": state.baseline, "incremental": state.last_snapshot}[kind]
        dirty = {"full": state.pages, "hybrid": state.baseline_dirty, "incremental": state.dirty}[kind]
        self.snapshot_seq += 1
        row = {
            "id": self.snapshot_seq, "kind": kind, "reason": reason, "base": base, "lvc": self.lvc, "epoch": self.epoch,
            "size": state.size, "pages": len(state.pages), "dirty_pages": len(dirty),
        }  # fmt: skip
        state.last_snapshot = self.snapshot_seq
        state.dirty = set()
        state.chain += 1
        if kind != "incremental":
            state.baseline = self.snapshot_seq
            state.baseline_dirty = set()
            state.transactions = 0
            state.chain = 0
        row["state"] = deepcopy(state)
        row["due_ms"] = due_ms
        self.snapshots[self.snapshot_seq] = row
        asked = reason == "requested"
        ring = [key for key, other in self.snapshots.items() if (other["reason"] == "requested") == asked]
        for key in ring[: -policy["ring"]]:
            del self.snapshots[key]
        self.remember()

    def expire(self, now_ms: int) -> None:
        for identity, row in list(self.snapshots.items()):
            if row["due_ms"] is not None and row["due_ms"] <= now_ms:
                del self.snapshots[identity]

    def rollback(self, target: TwinState, policy: dict) -> int:
        """Pages reverted."""
        left = deepcopy(self.state)
        self.snapshot("incremental", "rollback", policy)
        self.history[self.lvc] = left
        self.lvc += 1
        self.epoch += 1
        self.state = deepcopy(target)
        differing = {
            page
            for page in left.versions.keys() | target.versions.keys()
            if left.versions.get(page, 0) != target.versions.get(page, 0)
        }
        for page in differing:
            self.state.versions[page] = self.lvc
        self.remember()
        return len(differing)


def naive_root(state: TwinState) -> bytes:
    """The root as docs/format.md says it."""

    def digest(context: str, content: bytes) -> bytes:
        return blake3(content, derive_key_context=context).digest(length=16)

    zero_page = digest("lastgood v1 page", bytes(PAGE))
    zero_leaf = digest("lastgood v1 leaf", zero_page * 256)
    body = PAGE.to_bytes(8, "big") + state.size.to_bytes(8, "big")
    for leaf in range(max(state.pages, default=0) // 256 + 1):
        pages = [state.pages.get(page) for page in range(leaf * 256, leaf * 256 + 256)]
        found = digest(
            "lastgood v1 leaf", b"".join(zero_page if p is None else digest("lastgood v1 page", p) for p in pages)
        )
        if found != zero_leaf:
            body += leaf.to_bytes(8, "big") + found
    return digest("lastgood v1 root", body)
