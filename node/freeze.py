"""Between the registry and its images: freezing for a checkpoint, and restoring from one."""

from __future__ import annotations

from array import array
from collections import deque

from node.idempotency import IdempotencyBook, KeyRow, Session
from node.image import (
    FrozenState,
    KeyImage,
    SessionImage,
    SpaceImage,
    SpaceMeta,
    StageImage,
    StateMeta,
    WindowImage,
)
from node.registry import Registry
from node.space import Snapshot, Space
from node.staging import Stage
from node.window import Blob, Held, UndoWindow


class Freezer:
    """Makes frozen states of one registry; remembers the images of spaces that did not change."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self._images: dict[int, SpaceImage] = {}
        self._rows_to_lvc: dict[int, int] = {}  # uid -> newest LVC whose undo record was frozen

    def freeze(self, *, whole: bool = False) -> FrozenState:
        """The present state. A whole one does not count as "the freeze before" of the next."""
        registry = self.registry
        changed = frozenset(registry.changed)
        if not whole:
            changed |= registry.book.take_cut()
        if whole:
            images = {uid: self._image(space, whole=True) for uid, space in registry.by_uid.items()}
        else:
            for uid in changed:
                self._images.pop(uid, None)
                space = registry.by_uid.get(uid)
                if space is not None:
                    self._images[uid] = self._image(space, whole=False)
                else:
                    self._rows_to_lvc.pop(uid, None)
            registry.changed = set()
            images = dict(self._images)
        idempotency, stages, book = registry.idempotency, registry.stages, registry.book
        keys, sessions = (idempotency.keys, idempotency.sessions) if whole else idempotency.take_changed()
        stage_names = stages.stages if whole else stages.take_changed()
        blobs = book.blobs if whole else book.take_new()
        return FrozenState(
            meta=self._meta(),
            whole=whole,
            spaces=images,
            changed_spaces=frozenset(registry.by_uid) if whole else changed,
            snapshot_events=list(registry.events.snapshot_ring),
            other_events=list(registry.events.other_ring),
            keys={key: _key_image(idempotency.keys[key]) for key in keys if key in idempotency.keys},
            sessions={n: _session_image(idempotency.sessions[n]) for n in sessions if n in idempotency.sessions},
            stages={name: _stage_image(stages.stages[name]) for name in stage_names if name in stages.stages},
            blobs={number: list(book.blobs[number].pieces) for number in blobs if number in book.blobs},
            gone_keys=frozenset(key for key in keys if key not in idempotency.keys),
            gone_sessions=frozenset(number for number in sessions if number not in idempotency.sessions),
            gone_stages=frozenset(name for name in stage_names if name not in stages.stages),
            gone_blobs=frozenset() if whole else book.take_dead(),
        )

    def _meta(self) -> StateMeta:
        registry = self.registry
        return StateMeta(
            applied_index=registry.applied_index,
            applied_term=registry.applied_term,
            now_ms=registry.now_ms,
            counter=registry.counter,
            cluster_id=registry.cluster_id,
            incarnations=dict(registry.incarnations),
            limits=registry.limits,
            session_seq=registry.idempotency.session_seq,
            event_seq=registry.events.seq,
            events_dropped=dict(registry.events.dropped),
            blob_no=registry.book.next_blob,
        )

    def _image(self, space: Space, *, whole: bool) -> SpaceImage:
        window = space.window
        rows_from = window.first_lvc
        if not whole:
            rows_from = max(rows_from, self._rows_to_lvc.get(space.uid, 0) + 1)
            self._rows_to_lvc[space.uid] = window.newest_lvc
        start = window.head + rows_from - window.first_lvc
        image = WindowImage(
            first_lvc=window.first_lvc,
            count=len(window),
            rows_from_lvc=rows_from,
            columns=tuple(column[start:].tobytes() for column in window.columns()),
            held={lvc: held.leaves for lvc, held in window.held.items()},
        )
        snapshots = tuple(snapshot.image() for snapshot in space.snapshots.values())
        return SpaceImage(_space_meta(space), space.table.freeze(), snapshots, image)

    def restored(self) -> None:
        """The registry was just restored from what a checkpoint holds: the next freeze counts from there."""
        registry = self.registry
        self._images = {}
        self._rows_to_lvc = {uid: space.window.newest_lvc for uid, space in registry.by_uid.items()}
        registry.changed = set(registry.by_uid)


def _space_meta(space: Space) -> SpaceMeta:
    return SpaceMeta(
        name=space.name,
        uid=space.uid,
        page_size=space.page_size,
        max_pages=space.max_pages,
        policy=space.policy,
        created_ms=space.created_ms,
        epoch=space.epoch,
        lvc=space.lvc,
        size=space.size,
        pages=space.pages,
        log_seq=space.log_seq,
        forked_from=space.forked_from,
        interval_due_ms=space.interval_due_ms,
        snapshot_seq=space.snapshot_seq,
        snapshot_lvc=space.snapshot_lvc,
        context=space.context(),
    )


def _key_image(row: KeyRow) -> KeyImage:
    return KeyImage(row.fingerprint, row.result, row.due_ms)


def _session_image(session: Session) -> SessionImage:
    return SessionImage(session.ack, session.used_ms, dict(session.results))


def _stage_image(stage: Stage) -> StageImage:
    return StageImage(stage.due_ms, dict(stage.parts))  # by reference: 64 MiB copied here would hold up heartbeats


# ---------------------------------------------------------------- restoring


def restore_registry(registry: Registry, state: FrozenState) -> None:
    """Fills an empty registry from a whole state. Leaves are taken over as they are, so nobody may write them."""
    meta = state.meta
    registry.set_limits(meta.limits)
    registry.applied_index = meta.applied_index
    registry.applied_term = meta.applied_term
    registry.now_ms = meta.now_ms
    registry.counter = meta.counter
    registry.cluster_id = meta.cluster_id
    registry.incarnations = dict(meta.incarnations)
    events = registry.events
    events.seq = meta.event_seq
    events.dropped = dict(meta.events_dropped)
    events.snapshot_ring = deque(state.snapshot_events)
    events.other_ring = deque(state.other_events)
    _restore_windows(registry, state)
    for image in state.spaces.values():
        registry.add_space(_restore_space(registry, image))
    _restore_idempotency(registry.idempotency, state)
    stages = registry.stages
    for name, stage_image in state.stages.items():
        for part, writes in stage_image.parts.items():
            stages.add(name, part, [(offset, memoryview(block)) for offset, block in writes], 0)
        stages.stages[name].due_ms = stage_image.due_ms
    stages.take_changed()
    registry.rebuild_timers()


def _restore_windows(registry: Registry, state: FrozenState) -> None:
    windows: dict[int, UndoWindow] = {}
    live: dict[int, int] = {}
    for uid, image in state.spaces.items():
        window = windows[uid] = UndoWindow(uid, image.window.first_lvc)
        for column, raw in zip(window.columns(), image.window.columns, strict=True):
            column.frombytes(raw)
        window.bytes = sum(window.counted)
        window.held = {lvc: Held(leaves) for lvc, leaves in image.window.held.items()}
        for number in window.blobs:
            live[number] = live.get(number, 0) + 1
    blobs = {number: Blob(list(state.blobs[number]), count) for number, count in live.items()}
    registry.book.restore(windows, blobs, state.meta.blob_no)


def _restore_space(registry: Registry, image: SpaceImage) -> Space:
    meta = image.meta
    space = Space(
        name=meta.name,
        uid=meta.uid,
        heap=registry.heaps.get(meta.page_size),
        max_pages=meta.max_pages,
        policy=meta.policy,
        created_ms=meta.created_ms,
        window=registry.book.windows[meta.uid],
        leaves=image.leaves,
    )
    space.epoch = meta.epoch
    space.lvc = meta.lvc
    space.size = meta.size
    space.pages = meta.pages
    space.log_seq = meta.log_seq
    space.forked_from = meta.forked_from
    space.interval_due_ms = meta.interval_due_ms
    space.set_context(meta.context)
    for snapshot_image in image.snapshots:
        known = snapshot_image.meta
        snapshot = Snapshot(known.facts, snapshot_image.leaves, known.after, known.due_ms)
        snapshot.root = known.root
        space.add_snapshot(snapshot)
    space.snapshot_seq = meta.snapshot_seq
    space.snapshot_lvc = meta.snapshot_lvc
    return space


def _restore_idempotency(book: IdempotencyBook, state: FrozenState) -> None:
    book.session_seq = state.meta.session_seq
    rows = sorted(state.keys.items(), key=lambda item: item[1].due_ms)
    book.keys = {key: KeyRow(row.fingerprint, row.result, row.due_ms) for key, row in rows}
    for number, image in state.sessions.items():
        session = book.sessions[number] = Session(image.used_ms)
        session.ack = image.ack
        session.results = dict(image.results)


COLUMN_TYPES = tuple(column.typecode for column in UndoWindow(0, 1).columns())


def empty_columns() -> tuple[array[int], ...]:
    """Arrays of the types of a window's columns."""
    return tuple(array(code) for code in COLUMN_TYPES)
