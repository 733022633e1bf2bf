"""Spaces and snapshots coming and going: the catalogue's share of apply."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, Final

from node.commands import CreateSpace, DeleteSnapshot, DeleteSpace, PinSnapshot, TakeSnapshots
from node.policy import POLICY_DEFAULT, make_policy
from node.registry import SNAPSHOT_INTERVAL, Registry
from node.results import Done, Policy, Refused, Result, SnapshotInfo, SnapshotsDone, SpaceDone
from node.snapshots import Moment, expire_snapshot, resolve_kind, take_snapshot, trim_rings
from node.space import Snapshot, Space
from node.transact import stale_epoch

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
SPACE_BYTES_DEFAULT: Final = 64 << 30
SPACE_BYTES_MAX: Final = 1 << 47
PAGE_SIZES: Final = (4096, 8192, 16384, 32768, 65536)
LABEL_CHARS_MAX: Final = 128
TTL_MS_MAX: Final = 10**12
HOLDERS_MAX: Final = 1_024
INTERVAL_MS_MIN: Final = 100  # shorter intervals of a policy count as this, so that ticks don't crowd the log out


def unknown_space(name: str) -> Refused:
    return Refused("not_found", f"there is no space {name!r}")


def unknown_snapshot(space: Space, ref: str) -> Refused:
    return Refused("not_found", f"space {space.name!r} has no snapshot {ref!r}")


class Catalogue:
    """Handlers of the operations on spaces and snapshots. `on_snapshot` hears of every snapshot taken (for hashing)."""

    def __init__(self, registry: Registry, on_snapshot: Callable[[Space, Snapshot], None]) -> None:
        self.registry = registry
        self.on_snapshot = on_snapshot
        self.moment = Moment(0, 0, 0)  # of the entry that is being applied

    # ------------------------------------------------------------ spaces

    def create_space(self, create: CreateSpace, position: int) -> Result:
        space = self.registry.by_name.get(create.space)
        try:
            policy = make_policy(create.policy)
        except (ValueError, TypeError) as error:
            return Refused("bad_request", str(error))
        if space is not None:
            return self._agree(space, create)
        if not NAME.fullmatch(create.space):
            return Refused("bad_request", f"{create.space!r} is no name of a space: {NAME.pattern}")
        if len(self.registry.by_name) >= self.registry.limits.spaces_max:
            return Refused("rate_limited", f"there are {len(self.registry.by_name)} spaces, at most that many")
        source: Snapshot | None = None
        page_size = PAGE_SIZES[0] if create.page_size is None else create.page_size
        max_pages = create.max_pages
        if create.from_space is not None:
            origin = self.registry.by_name.get(create.from_space)
            if origin is None:
                return unknown_space(create.from_space)
            source = origin.find(create.from_snapshot or "")
            if source is None:
                return unknown_snapshot(origin, create.from_snapshot or "")
            if create.page_size not in (None, origin.page_size):
                return Refused(
                    "conflict", f"page_size {create.page_size}, that of {origin.name!r} is {origin.page_size}"
                )
            page_size = origin.page_size
            max_pages = origin.max_pages if max_pages is None else max_pages
        if page_size not in PAGE_SIZES:
            return Refused("bad_request", f"page_size {page_size}, a power of two from 4096 to 65536")
        if max_pages is None:
            max_pages = SPACE_BYTES_DEFAULT // page_size
        if not 0 < max_pages <= SPACE_BYTES_MAX // page_size:
            return Refused("bad_request", f"max_pages {max_pages}, 1 to {SPACE_BYTES_MAX // page_size}")
        if source is not None and source.facts.size > max_pages * page_size:
            return Refused("too_large", f"max_pages {max_pages} can't hold the {source.facts.size} bytes of the source")
        space = self._new_space(create, page_size, max_pages, source)
        space.policy = policy
        if policy.interval_s:
            space.interval_due_ms = self.registry.now_ms + _interval_ms(policy)
            self.registry.set_timer(space.interval_due_ms, SNAPSHOT_INTERVAL, space.uid)
        return SpaceDone(True, space.info())

    def _new_space(self, create: CreateSpace, page_size: int, max_pages: int, source: Snapshot | None) -> Space:
        registry = self.registry
        uid = registry.next_uid()
        space = Space(
            name=create.space,
            uid=uid,
            heap=registry.heaps.get(page_size),
            max_pages=max_pages,
            policy=POLICY_DEFAULT,
            created_ms=self.moment.wall_ms,
            window=registry.book.open(uid, source.facts.lvc if source is not None else 0),
            leaves=source.leaves if source is not None else None,
        )
        if source is not None:
            space.lvc = source.facts.lvc
            space.size = source.facts.size
            space.pages = source.facts.pages
            interval = source.after.interval
            space.set_context(source.after.__class__(interval, interval))
            space.forked_from = (create.from_space or "", create.from_snapshot or "")
        registry.add_space(space)
        return space

    def _agree(self, space: Space, create: CreateSpace) -> Result:
        """A space of that name exists: fine if all that was given is so already."""
        differing = []
        if create.page_size not in (None, space.page_size):
            differing.append(f"page_size {space.page_size}")
        if create.max_pages not in (None, space.max_pages):
            differing.append(f"max_pages {space.max_pages}")
        for member, value in (create.policy or {}).items():
            present = getattr(space.policy, member)
            if present != value:
                differing.append(f"policy.{member} {present}")
        if create.from_space is not None and space.forked_from != (create.from_space, create.from_snapshot):
            differing.append(f"from {space.forked_from}")
        if differing:
            return Refused("conflict", f"space {space.name!r} exists with {', '.join(differing)}")
        return SpaceDone(False, space.info())

    def delete_space(self, delete: DeleteSpace, position: int) -> Result:
        space = self._space(delete.space, delete.epoch)
        if isinstance(space, Refused):
            return space
        if space.pinned:
            return Refused("pinned", f"{space.pinned} snapshots of space {space.name!r} are pinned")
        self.registry.remove_space(space)
        return Done()

    def _space(self, name: str, epoch: int | None) -> Space | Refused:
        space = self.registry.by_name.get(name)
        if space is None:
            return unknown_space(name)
        if epoch is not None and epoch != space.epoch:
            return stale_epoch(space, epoch)
        return space

    # ------------------------------------------------------------ snapshots

    def take_snapshots(self, take: TakeSnapshots, position: int) -> Result:
        refused = _check_snapshot(take)
        if refused is not None:
            return refused
        registry = self.registry
        names = take.spaces if take.spaces is not None else list(registry.names_from("", take.prefix or ""))
        if not names:
            return Refused("not_found", f"no space begins with {take.prefix!r}")
        spaces = []
        for name in dict.fromkeys(names):
            space = self._space(name, take.epoch)
            if isinstance(space, Refused):
                return space
            spaces.append(space)
        infos: list[SnapshotInfo] = []
        for space in spaces:
            kind = resolve_kind(space, take.kind, registry.limits)
            snapshot = self.take(
                space, kind=kind, reason="requested", label=take.label, ttl_ms=take.ttl_ms, pin=take.pin
            )
            infos.append(snapshot.info())
        return SnapshotsDone(self.moment.index, infos)

    def _snapshot(self, name: str, ref: str, epoch: int | None) -> tuple[Space, Snapshot] | Refused:
        space = self._space(name, epoch)
        if isinstance(space, Refused):
            return space
        snapshot = space.find(ref)
        return (space, snapshot) if snapshot is not None else unknown_snapshot(space, ref)

    def delete_snapshot(self, delete: DeleteSnapshot, position: int) -> Result:
        found = self._snapshot(delete.space, delete.snapshot, delete.epoch)
        if isinstance(found, Refused):
            return found
        space, snapshot = found
        if snapshot.pins:
            holders = ", ".join(sorted(snapshot.pins))
            return Refused("pinned", f"snapshot {snapshot.id} of {space.name!r} is pinned by {holders}")
        space.drop_snapshot(snapshot)
        self.registry.changed.add(space.uid)
        return Done()

    def pin_snapshot(self, pin: PinSnapshot, position: int) -> Result:
        found = self._snapshot(pin.space, pin.snapshot, pin.epoch)
        if isinstance(found, Refused):
            return found
        space, snapshot = found
        if not NAME.fullmatch(pin.holder):
            return Refused("bad_request", f"{pin.holder!r} is no name of a holder: {NAME.pattern}")
        if pin.pin and pin.holder not in snapshot.pins and len(snapshot.pins) >= HOLDERS_MAX:
            return Refused("rate_limited", f"snapshot {snapshot.id} has {HOLDERS_MAX} holders, at most that many")
        if pin.pin:
            space.set_pins(snapshot, snapshot.pins | {pin.holder})
        else:
            space.set_pins(snapshot, snapshot.pins - {pin.holder})
        info = snapshot.info()
        self.registry.changed.add(space.uid)
        if not snapshot.pins:
            if snapshot.due_ms is not None and snapshot.due_ms <= self.registry.now_ms:
                expire_snapshot(space, snapshot.id, self.moment, self.registry.events, "ttl")
            trim_rings(space, self.moment, self.registry.events)
        return info

    def take(self, space: Space, *, kind: str, reason: str, **options: Any) -> Snapshot:
        """Takes a snapshot of a resolved kind and sees to its timer and its root."""
        registry = self.registry
        registry.changed.add(space.uid)
        snapshot = take_snapshot(
            space, self.moment, registry.events, registry.limits, kind=kind, reason=reason, **options
        )
        registry.watch_ttl(space, snapshot)
        self.on_snapshot(space, snapshot)
        return snapshot

    # ------------------------------------------------------------ time

    def expire_snapshot(self, uid: int, identity: int) -> None:
        """The snapshot's time to live is over; a pin keeps it."""
        space = self.registry.by_uid.get(uid)
        snapshot = space.snapshots.get(identity) if space is not None else None
        if space is not None and snapshot is not None and not snapshot.pins:
            expire_snapshot(space, identity, self.moment, self.registry.events, "ttl")
            self.registry.changed.add(uid)

    def interval_snapshot(self, uid: int, due_ms: int) -> None:
        """The policy's timer: a snapshot if the space moved on since the last one."""
        registry = self.registry
        space = registry.by_uid.get(uid)
        if space is None or space.interval_due_ms != due_ms:
            return
        registry.changed.add(uid)
        space.interval_due_ms = registry.now_ms + _interval_ms(space.policy)
        registry.set_timer(space.interval_due_ms, SNAPSHOT_INTERVAL, uid)
        if space.lvc != space.snapshot_lvc and space.lvc > 0:
            kind = resolve_kind(space, "auto", registry.limits)
            self.take(space, kind=kind, reason="interval" if space.baseline else "first")


def _interval_ms(policy: Policy) -> int:
    return max(INTERVAL_MS_MIN, int(policy.interval_s * 1000))


def _check_snapshot(take: TakeSnapshots) -> Refused | None:
    if take.kind not in ("auto", "incremental", "full"):
        return Refused("bad_request", f"kind is {take.kind!r}, one of auto, incremental, full")
    label = take.label
    if label is not None and not (0 < len(label) <= LABEL_CHARS_MAX and label[0] != "@" and not label.isdigit()):
        return Refused("bad_request", f"label {label!r}: 1 to 128 characters, no leading @, not all digits")
    if take.ttl_ms is not None and not 1 <= take.ttl_ms <= TTL_MS_MAX:
        return Refused("bad_request", f"ttl_ms is {take.ttl_ms}, 1 to {TTL_MS_MAX}")
    if take.pin is not None and not NAME.fullmatch(take.pin):
        return Refused("bad_request", f"{take.pin!r} is no name of a holder: {NAME.pattern}")
    if (take.spaces is None) == (take.prefix is None):
        return Refused("bad_request", "exactly one of spaces and prefix is needed")
    return None
