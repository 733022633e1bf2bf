"""One space and its snapshots as a node holds them: replicated facts, and the leaves by reference."""

from __future__ import annotations

from node.heap import Heap
from node.image import SnapshotImage, SnapshotMeta
from node.results import Policy, SnapshotInfo, SpaceInfo
from node.table import Leaves, Table
from node.undo_record import Context
from node.window import UndoWindow

AUTOMATIC_REASONS = frozenset({"interval", "dirty_ratio", "lvc_delta", "chain", "first", "rollback"})


class Snapshot:
    """An immutable point of a space. Only `pins` and the root, which a thread computes, change after it was taken.

    `after` is the space's dirtiness right after it was taken, which a rollback restores. `due_ms` is replicated time.
    """

    __slots__ = ("_image", "_info", "after", "dropped", "due_ms", "leaves", "pins", "root")

    def __init__(self, info: SnapshotInfo, leaves: Leaves, after: Context, due_ms: int | None) -> None:
        self._info = info
        self.leaves = leaves
        self.after = after
        self.due_ms = due_ms
        self.pins: set[str] = set(info.pins)
        self.root: bytes | None = None
        self._image: SnapshotImage | None = None
        self.dropped = False  # it has left its space; hashing it is of no use any more

    @property
    def facts(self) -> SnapshotInfo:
        """What was decided when it was taken; `pins` may be old."""
        return self._info

    @property
    def id(self) -> int:
        return self._info.id

    @property
    def automatic(self) -> bool:
        return self._info.reason in AUTOMATIC_REASONS

    def info(self) -> SnapshotInfo:
        """The facts with the present pins."""
        info = self._info
        if not self.pins and not info.pins:
            return info
        fields = {name: getattr(info, name) for name in SnapshotInfo.__struct_fields__}
        fields["pins"] = sorted(self.pins)
        return SnapshotInfo(**fields)

    def image(self) -> SnapshotImage:
        """The frozen image; the same object as before while neither pins nor root changed."""
        image = self._image
        if image is None or image.meta.root is not self.root or set(image.meta.facts.pins) != self.pins:
            meta = SnapshotMeta(self.info(), self.after, self.due_ms, self.root)
            image = self._image = SnapshotImage(meta, self.leaves)
        return image


class Space:
    """One space. Mutable; only apply changes it. Dirtiness is kept as plain attributes (see `Context`) for speed."""

    __slots__ = (
        "baseline",
        "baseline_dirty_pages",
        "baseline_interval",
        "chain",
        "created_ms",
        "dirty_pages",
        "epoch",
        "forked_from",
        "heap",
        "interval",
        "interval_due_ms",
        "labels",
        "last_snapshot",
        "log_seq",
        "lvc",
        "max_pages",
        "name",
        "page_size",
        "pages",
        "pinned",
        "policy",
        "ring_automatic",
        "ring_requested",
        "size",
        "snapshot_lvc",
        "snapshot_seq",
        "snapshots",
        "state",
        "table",
        "transactions",
        "uid",
        "window",
    )

    def __init__(
        self,
        *,
        name: str,
        uid: int,
        heap: Heap,
        max_pages: int,
        policy: Policy,
        created_ms: int,
        window: UndoWindow,
        leaves: Leaves | None = None,
    ) -> None:
        self.name = name
        self.uid = uid
        self.heap = heap
        self.page_size = heap.page_size
        self.max_pages = max_pages
        self.policy = policy
        self.created_ms = created_ms
        self.window = window
        self.table = Table(heap, leaves)
        self.epoch = uid
        self.lvc = 0
        self.size = 0
        self.pages = 0
        self.log_seq = 0  # of the last record; counts from 1
        self.state = "active"
        self.forked_from: tuple[str, str] | None = None
        self.interval_due_ms: int | None = None
        self.snapshot_seq = 0  # id of the newest snapshot ever taken
        self.snapshot_lvc = -1  # LVC of the newest snapshot ever taken
        self.snapshots: dict[int, Snapshot] = {}  # living ones, ascending
        self.labels: dict[str, list[int]] = {}  # ids of living snapshots with that label, ascending
        self.ring_requested: dict[int, None] = {}  # ids of living unpinned ones, ascending
        self.ring_automatic: dict[int, None] = {}
        self.pinned = 0  # living snapshots with a pin
        self.set_context(Context())

    def context(self) -> Context:
        """The present dirtiness."""
        return Context(
            self.interval,
            self.baseline_interval,
            self.last_snapshot,
            self.baseline,
            self.dirty_pages,
            self.baseline_dirty_pages,
            self.transactions,
            self.chain,
        )

    def set_context(self, context: Context) -> None:
        """Goes back to (or on to) that dirtiness."""
        (
            self.interval,
            self.baseline_interval,
            self.last_snapshot,
            self.baseline,
            self.dirty_pages,
            self.baseline_dirty_pages,
            self.transactions,
            self.chain,
        ) = context

    def info(self) -> SpaceInfo:
        """The space as the HTTP contract shows it."""
        return SpaceInfo(
            name=self.name,
            uid=self.uid,
            page_size=self.page_size,
            max_pages=self.max_pages,
            size=self.size,
            pages=self.pages,
            lvc=self.lvc,
            epoch=self.epoch,
            state=self.state,
            dirty_pages=self.dirty_pages,
            baseline_dirty_pages=self.baseline_dirty_pages,
            dirty_ratio=self.baseline_dirty_pages / self.pages if self.pages else 0.0,
            baseline=self.baseline or None,
            last_snapshot=self.last_snapshot or None,
            undo_from_lvc=self.window.from_lvc,
            policy=self.policy,
            created_ms=self.created_ms,
        )

    def find(self, ref: str) -> Snapshot | None:
        """The living snapshot that a decimal id or `@label` names."""
        if ref.startswith("@"):
            ids = self.labels.get(ref[1:])
            return self.snapshots[ids[-1]] if ids else None
        return self.snapshots.get(int(ref)) if ref.isascii() and ref.isdigit() and len(ref) < 20 else None

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Files a snapshot with a higher id than all others under its label and ring."""
        identity = snapshot.id
        self.snapshots[identity] = snapshot
        label = snapshot.facts.label
        if label is not None:
            self.labels.setdefault(label, []).append(identity)
        if snapshot.pins:
            self.pinned += 1
        else:
            (self.ring_automatic if snapshot.automatic else self.ring_requested)[identity] = None

    def drop_snapshot(self, snapshot: Snapshot) -> None:
        """Forgets a snapshot; its leaves live on only as far as somebody else holds them."""
        identity = snapshot.id
        snapshot.dropped = True
        del self.snapshots[identity]
        label = snapshot.facts.label
        if label is not None:
            ids = self.labels[label]
            ids.remove(identity)
            if not ids:
                del self.labels[label]
        if snapshot.pins:
            self.pinned -= 1
        self.ring_automatic.pop(identity, None)
        self.ring_requested.pop(identity, None)

    def set_pins(self, snapshot: Snapshot, pins: set[str]) -> None:
        """Changes the holders and with them whether the snapshot counts in its ring."""
        self.pinned += bool(pins) - bool(snapshot.pins)
        snapshot.pins = pins
        name = "ring_automatic" if snapshot.automatic else "ring_requested"
        ring: dict[int, None] = getattr(self, name)
        if pins:
            ring.pop(snapshot.id, None)
        elif snapshot.id not in ring:
            ring[snapshot.id] = None
            setattr(self, name, dict.fromkeys(sorted(ring)))
