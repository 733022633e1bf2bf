"""A handle on one space. It sends the epoch that it was opened with: a write after somebody's rollback is refused."""

from __future__ import annotations

import os
from asyncio import Future, ensure_future
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import msgspec

from lastgood import files, requests
from lastgood.answers import (
    Diff,
    DryRun,
    Exported,
    Imported,
    PageState,
    Read,
    RolledBack,
    Snapshot,
    SpaceInfo,
    WalRecord,
    Written,
)
from lastgood.calls import Decode
from lastgood.errors import TooLarge
from lastgood.files import Progress
from lastgood.requests import GetData, GetSnapshotData, If, PostTx, PutData, Write

if TYPE_CHECKING:
    from lastgood.store import Store

Bytes = bytes | bytearray | memoryview
SnapshotLike = Snapshot | int | str

WRITE_BYTES_MAX: Final = 1024 * 1024
TX_BYTES_MAX: Final = 64 * 1024 * 1024
TX_RANGES_MAX: Final = 1024
STREAM_BYTES_MAX: Final = 4 * 1024 * 1024 - 64 * 1024
READ_BYTES_MAX: Final = 1024 * 1024
_CALL_BYTES: Final = 512
_PAGE: Final = 1000


def _decoder(kind: Any) -> Decode:
    return msgspec.msgpack.Decoder(kind).decode


_WRITTEN: Final = _decoder(Written)
_READ: Final = _decoder(Read)
_SPACE: Final = _decoder(SpaceInfo)
_SNAPSHOT: Final = _decoder(Snapshot)
_SNAPSHOTS: Final = _decoder(list[Snapshot])
_DIFF: Final = _decoder(Diff)
_ROLLED_BACK: Final = _decoder(RolledBack)
_DRY_RUN: Final = _decoder(DryRun)
_WAL: Final = _decoder(list[WalRecord])
_PAGES: Final = _decoder(list[PageState])
_written_json: Final = msgspec.json.Decoder(Written).decode
_encode: Final = msgspec.msgpack.Encoder().encode


def _nothing(_body: Any) -> None:
    return None


def snapshot_ref(target: SnapshotLike) -> str:
    """How a snapshot is named to a node: its id, or "@label". A text that is not all digits is a label."""
    if isinstance(target, Snapshot):
        return str(target.id)
    if isinstance(target, int):
        return str(target)
    return target if target.isdigit() or target.startswith("@") else f"@{target}"


class Space:
    """One space. `epoch` is the one this handle is bound to; only `resync()` and its own rollback change it."""

    def __init__(self, store: Store, opened: SpaceInfo) -> None:
        self.store = store
        self.name = opened.name
        self.uid = opened.uid
        self.page_size = opened.page_size
        self.epoch = opened.epoch
        self._call = store.stream.call

    def __repr__(self) -> str:
        return f"<lastgood.Space {self.name} uid={self.uid} epoch={self.epoch}>"

    # ------------------------------------------------------------ writing

    def write(self, offset: int, data: Bytes) -> Awaitable[Written]:
        """Writes `data` at `offset`: one transaction, on disk on a majority when the awaited answer comes.

        It starts at once; calls that start together travel together. RateLimited (too many calls wait) is
        raised at once; StaleEpoch, Conflict, StorageFull, UnknownOutcome … when awaited.
        """
        if type(data) is not bytes:
            data = bytes(data)
        length = len(data)
        if length > WRITE_BYTES_MAX:
            return self.tx([(offset, data)])
        args = PutData(space=self.name, offset=offset, data=data, epoch=self.epoch)
        return self._call("putData", args, _WRITTEN, size=length + _CALL_BYTES, changing=True)

    def tx(
        self,
        writes: Sequence[tuple[int, Bytes]] = (),
        *,
        size: int | None = None,
        if_lvc: int | None = None,
        if_pages: Mapping[int, int] | None = None,
        tx_id: str | None = None,
    ) -> Awaitable[Written]:
        """All ranges or none, in order, later ones win; `size` sets the space's size.

        `if_lvc`, `if_pages` (page → the LVC of its last change, 0 = never): Conflict where they do not hold.
        """
        ranges = [Write(offset, data if type(data) is bytes else bytes(data)) for offset, data in writes]
        if not ranges and size is None:
            raise ValueError("a transaction needs a write or a size")
        total = sum(len(one.data) for one in ranges)
        if total > TX_BYTES_MAX or len(ranges) > TX_RANGES_MAX:
            raise TooLarge(
                f"a transaction of {total} bytes in {len(ranges)} ranges, at most {TX_BYTES_MAX} in {TX_RANGES_MAX}"
            )
        condition = None
        if if_lvc is not None or if_pages is not None:
            pages = None if if_pages is None else {str(page): version for page, version in if_pages.items()}
            condition = If(lvc=if_lvc, pages=pages)
        args = PostTx(space=self.name, writes=ranges, size=size, if_=condition, epoch=self.epoch, tx_id=tx_id)
        estimate = total + 32 * (len(ranges) + len(if_pages or ())) + _CALL_BYTES
        if estimate > STREAM_BYTES_MAX:
            return ensure_future(self._tx_by_http(args))  # starts at once too
        return self._call("postTx", args, _WRITTEN, size=estimate, changing=True)

    async def _tx_by_http(self, args: PostTx) -> Written:
        body: dict[str, Any] = {"writes": args.writes}
        if args.size is not None:
            body["size"] = args.size
        if args.if_ is not None:
            body["if"] = args.if_
        if args.tx_id is not None:
            body["tx_id"] = args.tx_id
        reply = await self.store.door.request(
            "POST",
            f"/v1/spaces/{quote(self.name)}/tx",
            params={"epoch": str(args.epoch)},
            headers={"Content-Type": "application/msgpack", "Idempotency-Key": self.store.idempotency_key()},
            body=_encode(body),
            changing=True,
        )
        return _written_json(reply.body)

    # ------------------------------------------------------------ reading

    async def read(
        self,
        offset: int = 0,
        length: int | None = None,
        *,
        at_lvc: int | None = None,
        snapshot: SnapshotLike | None = None,
        stale: bool = False,
    ) -> bytes:
        """Bytes of one version: `length` of them, or up to the end; fewer at the end of the space.

        `at_lvc`: the state right after that LVC (OutsideWindow if it is not kept). `snapshot`: that one's bytes.
        `stale`: what the asked node has, without asking the leader. Raises RangeNotSatisfiable beyond the end.
        """
        got = await self.read_version(offset, length, at_lvc=at_lvc, snapshot=snapshot, stale=stale)
        return got.data

    def read_version(
        self,
        offset: int = 0,
        length: int | None = None,
        *,
        at_lvc: int | None = None,
        snapshot: SnapshotLike | None = None,
        stale: bool = False,
    ) -> Awaitable[Read]:
        """As `read`, with the version that the bytes are of."""
        if snapshot is not None and at_lvc is not None:
            raise ValueError("name a snapshot or an LVC, not both")
        consistency = "stale" if stale else None
        if length is None or length > READ_BYTES_MAX:
            return ensure_future(self._read_by_http(offset, length, at_lvc, snapshot, consistency))
        size = _CALL_BYTES
        if snapshot is not None:
            ref = snapshot_ref(snapshot)
            wanted = GetSnapshotData(
                space=self.name, snapshot=ref, offset=offset, length=length, consistency=consistency
            )
            return self._call("getSnapshotData", wanted, _READ, size=size, changing=False)
        args = GetData(space=self.name, offset=offset, length=length, at_lvc=at_lvc, consistency=consistency)
        return self._call("getData", args, _READ, size=size, changing=False)

    async def _read_by_http(
        self,
        offset: int,
        length: int | None,
        at_lvc: int | None,
        snapshot: SnapshotLike | None,
        consistency: str | None,
    ) -> Read:
        path = f"/v1/spaces/{quote(self.name)}"
        if snapshot is not None:
            path += f"/snapshots/{quote(snapshot_ref(snapshot), safe='@')}"
        wanted = {"offset": offset, "length": length, "at_lvc": at_lvc, "consistency": consistency}
        params = {name: str(value) for name, value in wanted.items() if value is not None}
        reply = await self.store.door.request("GET", path + "/data", params=params)
        numbers = [reply.headers.get(f"X-Lastgood-{name}") for name in ("LVC", "Epoch", "Index")]
        lvc, epoch, index = (int(text) if text and text.isdigit() else None for text in numbers)
        return Read(data=reply.body, offset=offset, lvc=lvc, epoch=epoch, index=index, etag=reply.headers.get("ETag"))

    async def info(self, *, stale: bool = False) -> SpaceInfo:
        """The space now. Does not change this handle's epoch."""
        return await self.store.space_info(self.name, stale=stale)

    async def resync(self) -> SpaceInfo:
        """Takes over the present epoch: for after a StaleEpoch, when the program has looked at what is there."""
        found = await self.store.space_info(self.name)
        self.uid, self.epoch, self.page_size = found.uid, found.epoch, found.page_size
        return found

    async def pages(self, start: int = 0) -> AsyncIterator[PageState]:
        """Page versions and digests from page `start` on, fetched piece by piece (not of one moment)."""
        while True:
            args = requests.GetPages(space=self.name, from_=start, limit=_PAGE)
            found: list[PageState] = await self._call("getPages", args, _PAGES, changing=False)
            for page in found:
                yield page
            if len(found) < _PAGE:
                return
            start = found[-1].page + 1

    async def wal(self, from_seq: int = 0, *, limit: int | None = None) -> AsyncIterator[WalRecord]:
        """Before-images of the undo window, oldest first, from `log_seq` `from_seq` on, at most `limit`."""
        left = limit
        while left is None or left > 0:
            asked = _PAGE if left is None else min(_PAGE, left)
            args = requests.GetWal(space=self.name, from_seq=from_seq, limit=asked)
            records: list[WalRecord] = await self._call("getWal", args, _WAL, changing=False)
            for record in records:
                yield record
            if not records:
                return
            # A short page is not the end: an answer is bounded in bytes too.
            from_seq = records[-1].log_seq + 1
            if left is not None:
                left -= len(records)

    # ------------------------------------------------------------ snapshots

    def snapshot(
        self, label: str | None = None, *, kind: str = "auto", ttl_s: float | None = None, pin: bool = False
    ) -> Awaitable[Snapshot]:
        """Takes a snapshot; copies nothing. `kind`: auto, incremental or full. `pin`: as holder `default`."""
        args = requests.CreateSnapshot(space=self.name, label=label, kind=kind, ttl_s=ttl_s, pin=pin, epoch=self.epoch)
        return self._call("createSnapshot", args, _SNAPSHOT, changing=True)

    async def snapshots(self) -> AsyncIterator[Snapshot]:
        """Living snapshots, newest first."""
        before: int | None = None
        while True:
            args = requests.ListSnapshots(space=self.name, limit=_PAGE, before=before)
            page: list[Snapshot] = await self._call("listSnapshots", args, _SNAPSHOTS, changing=False)
            for found in page:
                yield found
            if len(page) < _PAGE:
                return
            before = page[-1].id

    def get_snapshot(self, snapshot: SnapshotLike) -> Awaitable[Snapshot]:
        """One snapshot by id or label. Raises NotFound."""
        args = requests.GetSnapshot(space=self.name, snapshot=snapshot_ref(snapshot))
        return self._call("getSnapshot", args, _SNAPSHOT, changing=False)

    def delete_snapshot(self, snapshot: SnapshotLike) -> Awaitable[None]:
        """Deletes a snapshot. Raises Pinned, NotFound."""
        args = requests.DeleteSnapshot(space=self.name, snapshot=snapshot_ref(snapshot), epoch=self.epoch)
        return self._call("deleteSnapshot", args, _nothing, changing=True)

    def pin(self, snapshot: SnapshotLike, holder: str = "default") -> Awaitable[Snapshot]:
        """Keeps a snapshot until `holder` unpins it. Idempotent."""
        return self._pin("pinSnapshot", snapshot, holder)

    def unpin(self, snapshot: SnapshotLike, holder: str = "default") -> Awaitable[Snapshot]:
        """Takes `holder`'s pin off. Idempotent."""
        return self._pin("unpinSnapshot", snapshot, holder)

    def _pin(self, op: str, snapshot: SnapshotLike, holder: str) -> Future[Any]:
        ref = snapshot_ref(snapshot)
        args = requests.PinSnapshot(space=self.name, snapshot=ref, holder=holder, epoch=self.epoch)
        return self._call(op, args, _SNAPSHOT, changing=True)

    def diff(self, a: SnapshotLike, b: SnapshotLike | None = None) -> Awaitable[Diff]:
        """Pages that differ between two snapshots; between one and the live space when `b` is None."""
        other = "live" if b is None else snapshot_ref(b)
        args = requests.DiffSnapshots(space=self.name, a=snapshot_ref(a), b=other)
        return self._call("diffSnapshots", args, _DIFF, changing=False)

    # ------------------------------------------------------------ going back

    async def rollback(
        self,
        to: SnapshotLike | None = None,
        *,
        lvc: int | None = None,
        if_lvc: int | None = None,
        reason: str | None = None,
    ) -> RolledBack:
        """Brings the space back to a snapshot (`to`) or to the state right after an LVC; this handle follows.

        What was there is kept as `left_snapshot`. Raises StaleEpoch, Conflict (`if_lvc`), NotFound, OutsideWindow.
        """
        args = self._rollback_args(to, lvc, if_lvc, reason, dry_run=False)
        done: RolledBack = await self._call("postRollback", args, _ROLLED_BACK, changing=True)
        self.epoch = done.epoch
        return done

    def rollback_dry_run(self, to: SnapshotLike | None = None, *, lvc: int | None = None) -> Awaitable[DryRun]:
        """What `rollback` would change; nothing happens."""
        args = self._rollback_args(to, lvc, None, None, dry_run=True)
        return self._call("postRollback", args, _DRY_RUN, changing=False)

    def _rollback_args(
        self, to: SnapshotLike | None, lvc: int | None, if_lvc: int | None, reason: str | None, *, dry_run: bool
    ) -> requests.PostRollback:
        if (to is None) == (lvc is None):
            raise ValueError("name either a snapshot or an LVC to go back to")
        target: int | str | None = None
        if to is not None:
            ref = snapshot_ref(to)
            target = int(ref) if ref.isdigit() else ref
        condition = None if if_lvc is None else requests.RollbackIf(lvc=if_lvc)
        return requests.PostRollback(
            space=self.name, to=target, lvc=lvc, if_=condition, epoch=self.epoch, reason=reason, dry_run=dry_run
        )

    # ------------------------------------------------------------ files

    async def import_file(
        self, path: str | os.PathLike[str], *, in_flight_bytes_max: int = 16 << 20, progress: Progress | None = None
    ) -> Imported:
        """Makes the space's bytes those of a file, by a row of transactions. See `files.import_file`."""
        return await files.import_file(self, path, in_flight_bytes_max=in_flight_bytes_max, progress=progress)

    async def export_file(
        self,
        path: str | os.PathLike[str],
        *,
        snapshot: SnapshotLike | None = None,
        in_flight_bytes_max: int = 16 << 20,
        progress: Progress | None = None,
    ) -> Exported:
        """Writes the bytes of one moment to a file, through a snapshot. See `files.export_file`."""
        return await files.export_file(
            self, path, snapshot=snapshot, in_flight_bytes_max=in_flight_bytes_max, progress=progress
        )

    def delete(self) -> Awaitable[None]:
        """Deletes the space with its snapshots and undo window. Raises Pinned, StaleEpoch."""
        args = requests.DeleteSpace(space=self.name, epoch=self.epoch)
        return self._call("deleteSpace", args, _nothing, changing=True)
