"""The same client for programs without an event loop: a loop in a thread of its own, blocking methods in front.

    with lastgood.sync.connect("http://127.0.0.1:7801") as store:
        room = store.space("room-17", create=True)
        room.write(0, b"...")

Any number of threads may share a store and its handles; what they send at the same time travels together.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from lastgood import requests
from lastgood import store as asynchronous
from lastgood.answers import (
    ClusterStatus,
    Cut,
    Diff,
    DryRun,
    Event,
    Exported,
    Imported,
    PageState,
    Read,
    RolledBack,
    Snapshot,
    SpaceInfo,
    Transfer,
    WalRecord,
    Written,
)
from lastgood.files import Progress
from lastgood.space import Bytes, SnapshotLike
from lastgood.space import Space as AsyncSpace

T = TypeVar("T")


def connect(endpoints: str | Iterable[str], **options: Any) -> Store:
    """A blocking client; options as for `lastgood.connect`. Close it, or use it in a `with`."""
    return Store(asynchronous.connect(endpoints, **options))


class _Worker:
    """An event loop in a daemon thread."""

    def __init__(self) -> None:
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="lastgood", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def run(self, start: Callable[[], Awaitable[T]]) -> T:
        """Starts the work on the loop and waits for its outcome. An interrupt of the waiting thread cancels it."""

        async def outcome() -> T:
            return await start()

        work: Coroutine[Any, Any, T] = outcome()
        if not self._thread.is_alive():
            work.close()
            raise RuntimeError("this client is closed")
        future: Future[T] = asyncio.run_coroutine_threadsafe(work, self.loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    def iterate(self, start: Callable[[], AsyncIterator[T]]) -> Iterator[T]:
        async def make() -> AsyncIterator[T]:
            return start()

        source = self.run(make)

        async def following() -> tuple[bool, Any]:
            try:
                return True, await source.__anext__()
            except StopAsyncIteration:
                return False, None

        async def end() -> None:
            close = getattr(source, "aclose", None)
            if close is not None:
                await close()

        try:
            while True:
                more, value = self.run(following)
                if not more:
                    return
                yield value
        finally:
            if self._thread.is_alive():
                self.run(end)

    def stop(self) -> None:
        if not self._thread.is_alive():
            return
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()


class Store:
    """See `lastgood.Store`; every method blocks until the outcome is known."""

    def __init__(self, store: asynchronous.Store) -> None:
        self._store = store
        self._worker = _Worker()
        self._worker.run(store.open)

    def close(self) -> None:
        """Ends all connections and the thread. Idempotent."""
        try:
            self._worker.run(self._store.close)
        except RuntimeError:
            return
        self._worker.stop()

    def __enter__(self) -> Store:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def space(
        self,
        name: str,
        *,
        create: bool = False,
        page_size: int | None = None,
        max_pages: int | None = None,
        policy: requests.Policy | None = None,
        fork: Snapshot | tuple[str, str] | None = None,
    ) -> Space:
        opened = self._worker.run(
            lambda: self._store.space(
                name, create=create, page_size=page_size, max_pages=max_pages, policy=policy, fork=fork
            )
        )
        return Space(self._worker, opened)

    def space_info(self, name: str, *, stale: bool = False) -> SpaceInfo:
        return self._worker.run(lambda: self._store.space_info(name, stale=stale))

    def spaces(self, prefix: str | None = None) -> Iterator[SpaceInfo]:
        return self._worker.iterate(lambda: self._store.spaces(prefix))

    def snapshot_many(
        self,
        spaces: Sequence[str] | None = None,
        *,
        prefix: str | None = None,
        label: str | None = None,
        ttl_s: float | None = None,
        pin: bool = False,
    ) -> Cut:
        return self._worker.run(
            lambda: self._store.snapshot_many(spaces, prefix=prefix, label=label, ttl_s=ttl_s, pin=pin)
        )

    def cluster(self) -> ClusterStatus:
        return self._worker.run(self._store.cluster)

    def transfers(self) -> list[Transfer]:
        return self._worker.run(self._store.transfers)

    def events(
        self, *, space: str | None = None, types: Sequence[str] | None = None, after: int | None = None
    ) -> Iterator[Event]:
        return self._worker.iterate(lambda: self._store.events(space=space, types=types, after=after))


class Space:
    """See `lastgood.Space`; every method blocks until the outcome is known."""

    def __init__(self, worker: _Worker, space: AsyncSpace) -> None:
        self._worker = worker
        self._space = space

    @property
    def name(self) -> str:
        return self._space.name

    @property
    def uid(self) -> int:
        return self._space.uid

    @property
    def epoch(self) -> int:
        return self._space.epoch

    @property
    def page_size(self) -> int:
        return self._space.page_size

    def write(self, offset: int, data: Bytes) -> Written:
        return self._worker.run(lambda: self._space.write(offset, data))

    def tx(
        self,
        writes: Sequence[tuple[int, Bytes]] = (),
        *,
        size: int | None = None,
        if_lvc: int | None = None,
        if_pages: Mapping[int, int] | None = None,
        tx_id: str | None = None,
    ) -> Written:
        return self._worker.run(
            lambda: self._space.tx(writes, size=size, if_lvc=if_lvc, if_pages=if_pages, tx_id=tx_id)
        )

    def read(
        self,
        offset: int = 0,
        length: int | None = None,
        *,
        at_lvc: int | None = None,
        snapshot: SnapshotLike | None = None,
        stale: bool = False,
    ) -> bytes:
        return self.read_version(offset, length, at_lvc=at_lvc, snapshot=snapshot, stale=stale).data

    def read_version(
        self,
        offset: int = 0,
        length: int | None = None,
        *,
        at_lvc: int | None = None,
        snapshot: SnapshotLike | None = None,
        stale: bool = False,
    ) -> Read:
        return self._worker.run(
            lambda: self._space.read_version(offset, length, at_lvc=at_lvc, snapshot=snapshot, stale=stale)
        )

    def info(self, *, stale: bool = False) -> SpaceInfo:
        return self._worker.run(lambda: self._space.info(stale=stale))

    def resync(self) -> SpaceInfo:
        return self._worker.run(self._space.resync)

    def pages(self, start: int = 0) -> Iterator[PageState]:
        return self._worker.iterate(lambda: self._space.pages(start))

    def wal(self, from_seq: int = 0, *, limit: int | None = None) -> Iterator[WalRecord]:
        return self._worker.iterate(lambda: self._space.wal(from_seq, limit=limit))

    def snapshot(
        self, label: str | None = None, *, kind: str = "auto", ttl_s: float | None = None, pin: bool = False
    ) -> Snapshot:
        return self._worker.run(lambda: self._space.snapshot(label, kind=kind, ttl_s=ttl_s, pin=pin))

    def snapshots(self) -> Iterator[Snapshot]:
        return self._worker.iterate(self._space.snapshots)

    def get_snapshot(self, snapshot: SnapshotLike) -> Snapshot:
        return self._worker.run(lambda: self._space.get_snapshot(snapshot))

    def delete_snapshot(self, snapshot: SnapshotLike) -> None:
        self._worker.run(lambda: self._space.delete_snapshot(snapshot))

    def pin(self, snapshot: SnapshotLike, holder: str = "default") -> Snapshot:
        return self._worker.run(lambda: self._space.pin(snapshot, holder))

    def unpin(self, snapshot: SnapshotLike, holder: str = "default") -> Snapshot:
        return self._worker.run(lambda: self._space.unpin(snapshot, holder))

    def diff(self, a: SnapshotLike, b: SnapshotLike | None = None) -> Diff:
        return self._worker.run(lambda: self._space.diff(a, b))

    def rollback(
        self,
        to: SnapshotLike | None = None,
        *,
        lvc: int | None = None,
        if_lvc: int | None = None,
        reason: str | None = None,
    ) -> RolledBack:
        return self._worker.run(lambda: self._space.rollback(to, lvc=lvc, if_lvc=if_lvc, reason=reason))

    def rollback_dry_run(self, to: SnapshotLike | None = None, *, lvc: int | None = None) -> DryRun:
        return self._worker.run(lambda: self._space.rollback_dry_run(to, lvc=lvc))

    def import_file(
        self, path: str | os.PathLike[str], *, in_flight_bytes_max: int = 16 << 20, progress: Progress | None = None
    ) -> Imported:
        return self._worker.run(
            lambda: self._space.import_file(path, in_flight_bytes_max=in_flight_bytes_max, progress=progress)
        )

    def export_file(
        self,
        path: str | os.PathLike[str],
        *,
        snapshot: SnapshotLike | None = None,
        in_flight_bytes_max: int = 16 << 20,
        progress: Progress | None = None,
    ) -> Exported:
        return self._worker.run(
            lambda: self._space.export_file(
                path, snapshot=snapshot, in_flight_bytes_max=in_flight_bytes_max, progress=progress
            )
        )

    def delete(self) -> None:
        self._worker.run(self._space.delete)
