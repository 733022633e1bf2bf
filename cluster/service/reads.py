"""Reading operations, answered by the node that was asked."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from cluster.api import args as api
from cluster.api.answer import About, Answer, DataBody, DataStream
from cluster.api.etags import live_etag, snapshot_etag
from cluster.api.ranges import Span
from cluster.api.reading import plan_read
from cluster.api.times import rfc3339
from cluster.service import conditions, render
from cluster.service.barrier import Barrier
from cluster.service.host import Host
from cluster.service.outcomes import refusal, with_roots
from node.hold import Held, hold_live, hold_snapshot
from node.results import Refused, SpaceInfo
from node.views import ReadResult, WalRow

Reply = Callable[[Answer], None]
READ_WHOLE_BYTES_MAX: Final = 1024 * 1024  # longer answers are read in pieces from a held version
PIECE_BYTES: Final = 256 * 1024


class Reads:
    """One method for each reading operation. Loop thread only."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._barrier = Barrier(host)

    # ------------------------------------------------------------ bytes

    def get_data(self, args: api.GetData, reply: Reply) -> None:
        self._barrier.run(args.consistency, lambda: self._get_data(args, reply), reply)

    def _get_data(self, args: api.GetData, reply: Reply) -> None:
        if args.at_lvc is not None:
            self._get_past(args, args.at_lvc, reply)
            return
        held = hold_live(self._host.machine.registry, args.space, for_long=False)
        if isinstance(held, Refused):
            reply(refusal(held))
            return
        etag = live_etag(held.uid, held.epoch, held.lvc)
        span = plan_read(args, size=held.size, etag=etag, about=self._about(held.lvc, held.epoch))
        if isinstance(span, Answer):
            reply(span)
            return
        if span.stop - span.start > READ_WHOLE_BYTES_MAX:
            frozen = hold_live(self._host.machine.registry, args.space, for_long=True)
            held = held if isinstance(frozen, Refused) else frozen
        reply(self._bytes(held, span, etag))

    def _get_past(self, args: api.GetData, lvc: int, reply: Reply) -> None:
        """A state of the undo window: made whole first, because nothing holds it."""
        machine = self._host.machine
        probe = machine.read(args.space, 0, 0, at_lvc=lvc)
        if isinstance(probe, Refused):
            reply(refusal(probe))
            return
        etag = live_etag(probe.uid, probe.epoch, lvc)
        span = plan_read(args, size=probe.size, etag=etag, about=self._about(lvc, probe.epoch))
        if isinstance(span, Answer):
            reply(span)
            return
        found: ReadResult | Refused = probe
        if span.stop > span.start:
            found = machine.read(args.space, span.start, span.stop - span.start, at_lvc=lvc)
        if isinstance(found, Refused):
            reply(refusal(found))
            return
        index = machine.applied_index
        body = DataBody(found.data, span.start, found.size, lvc, found.epoch, index, found.uid, etag)
        reply(Answer(span.status, body))

    def get_snapshot_data(self, args: api.GetSnapshotData, reply: Reply) -> None:
        ref = conditions.snapshot_ref(args.snapshot)

        def look() -> Answer | None:
            held = hold_snapshot(self._host.machine.registry, args.space, ref)
            if isinstance(held, Refused):
                return refusal(held)
            snapshot = held.snapshot
            if snapshot is None or not self._host.machine.on_root(held.uid, snapshot.id, lambda root: send(held, root)):
                return refusal(Refused("not_found", f"snapshot {ref} of space {args.space!r} has just gone"))
            return None

        def send(held: Held, root: bytes) -> None:
            etag = snapshot_etag(root)
            span = plan_read(args, size=held.size, etag=etag, about=self._about(held.lvc, held.epoch))
            reply(span if isinstance(span, Answer) else self._bytes(held, span, etag))

        self._find(args.consistency, look, reply)

    def _bytes(self, held: Held, span: Span, etag: str) -> Answer:
        index = self._host.machine.applied_index
        if span.stop - span.start <= READ_WHOLE_BYTES_MAX:
            piece = held.read(span.start, span.stop)
            return Answer(
                span.status,
                DataBody(piece, span.start, held.size, held.lvc, held.epoch, index, held.uid, etag),
            )
        stream = DataStream(
            chunks=_pieces(held, span.start, span.stop),
            length=span.stop - span.start,
            offset=span.start,
            size=held.size,
            uid=held.uid,
            etag=etag,
            about=About(held.lvc, held.epoch, index),
        )
        return Answer(span.status, stream)

    # ------------------------------------------------------------ spaces and pages

    def get_space(self, args: api.GetSpace, reply: Reply) -> None:
        def look() -> None:
            info = self._host.machine.space(args.space)
            reply(refusal(info) if isinstance(info, Refused) else self._space_answer(info))

        self._barrier.run(args.consistency, look, reply)

    def _space_answer(self, info: SpaceInfo) -> Answer:
        return Answer(200, render.space_body(info), about=self._about(info.lvc, info.epoch))

    def list_spaces(self, args: api.ListSpaces, reply: Reply) -> None:
        def look() -> None:
            infos = self._host.machine.list_spaces(after=args.after, prefix=args.prefix, limit=args.limit + 1)
            more = len(infos) > args.limit
            infos = infos[: args.limit]
            following = f"after={infos[-1].name}" if more else None
            reply(Answer(200, [render.space_body(info) for info in infos], next=following))

        self._barrier.run(args.consistency, look, reply)

    def get_pages(self, args: api.GetPages, reply: Reply) -> None:
        def look() -> None:
            machine = self._host.machine
            info = machine.space(args.space)
            rows = machine.pages(args.space, start=args.from_, limit=args.limit + 1)
            if isinstance(rows, Refused) or isinstance(info, Refused):
                reply(refusal(rows if isinstance(rows, Refused) else info))  # type: ignore[arg-type]
                return
            following = f"from={rows[args.limit].page}" if len(rows) > args.limit else None
            body = [
                {
                    "page": row.page,
                    "version": row.version,
                    "digest": None if row.digest is None else row.digest.hex(),
                    "dirty": row.dirty,
                }
                for row in rows[: args.limit]
            ]
            reply(Answer(200, body, about=self._about(info.lvc, info.epoch), next=following))

        self._barrier.run(args.consistency, look, reply)

    def get_wal(self, args: api.GetWal, reply: Reply) -> None:
        def look() -> None:
            machine = self._host.machine
            info = machine.space(args.space)
            rows = machine.wal(args.space, from_seq=args.from_seq, limit=args.limit)
            if isinstance(rows, Refused) or isinstance(info, Refused):
                reply(refusal(rows if isinstance(rows, Refused) else info))  # type: ignore[arg-type]
                return
            last = rows[-1].log_seq if rows else 0
            following = None
            if rows and machine.wal(args.space, from_seq=last + 1, limit=1):
                following = f"from_seq={last + 1}"
            body = [_wal_body(row) for row in rows]
            reply(Answer(200, body, about=self._about(info.lvc, info.epoch), next=following))

        self._barrier.run(args.consistency, look, reply)

    # ------------------------------------------------------------ snapshots

    def list_snapshots(self, args: api.ListSnapshots, reply: Reply) -> None:
        def look() -> None:
            infos = self._host.machine.snapshots(args.space, before=args.before, limit=args.limit + 1)
            if isinstance(infos, Refused):
                reply(refusal(infos))
                return
            following = f"before={infos[args.limit - 1].id}" if len(infos) > args.limit else None
            shown = infos[: args.limit]

            def send(roots: list[bytes | None]) -> None:
                body = [render.snapshot_body(info, root) for info, root in zip(shown, roots, strict=True)]
                reply(Answer(200, body, about=self._about_space(args.space), next=following))

            with_roots(self._host, shown, send)

        self._barrier.run(args.consistency, look, reply)

    def get_snapshot(self, args: api.GetSnapshot, reply: Reply) -> None:
        ref = conditions.snapshot_ref(args.snapshot)

        def look() -> Answer | None:
            info = self._host.machine.snapshot(args.space, ref)
            if isinstance(info, Refused):
                return refusal(info)
            about = self._about(info.lvc, info.epoch)

            def send(roots: list[bytes | None]) -> None:
                reply(Answer(200, render.snapshot_body(info, roots[0]), about=about))

            with_roots(self._host, [info], send)
            return None

        self._find(args.consistency, look, reply)

    def diff_snapshots(self, args: api.DiffSnapshots, reply: Reply) -> None:
        a = args.a if args.a == "live" else conditions.snapshot_ref(args.a)
        b = args.b if args.b == "live" else conditions.snapshot_ref(args.b)

        def look() -> Answer | None:
            found = self._host.machine.diff(args.space, a, b)
            if isinstance(found, Refused):
                return refusal(found)
            body = {
                "pages_changed": found.pages_changed,
                "bytes_changed": found.bytes_changed,
                "ranges": [list(span) for span in found.ranges],
            }
            reply(Answer(200, body, about=self._about_space(args.space)))
            return None

        self._find(args.consistency, look, reply)

    def dry_run(self, args: api.PostRollback, reply: Reply) -> None:
        """A rollback that only says what it would change: a linearizable read."""
        rollback = conditions.rollback(args)

        def look() -> None:
            found = self._host.machine.dry_run(rollback)
            if isinstance(found, Refused):
                reply(refusal(found))
            else:
                ranges = [list(span) for span in found.ranges]
                body = {"dry_run": True, "pages_changed": found.pages_changed, "ranges": ranges}
                reply(Answer(200, body, about=self._about_space(args.space)))

        self._barrier.run("linearizable", look, reply)

    # ------------------------------------------------------------ shared

    def _find(self, consistency: str, look: Callable[[], Answer | None], reply: Reply) -> None:
        """`look` replies itself, or gives back a refusal. A stale 404 is asked again behind a ReadIndex: a snapshot
        that another node acknowledged may not have come here yet."""

        def surely() -> None:
            refused = look()
            if refused is not None:
                reply(refused)

        def maybe() -> None:
            refused = look()
            if refused is None:
                return
            if refused.status == 404:
                self._barrier.run("linearizable", surely, reply)
            else:
                reply(refused)

        self._barrier.run(consistency, maybe if consistency == "stale" else surely, reply)

    def _about_space(self, name: str) -> About | None:
        """Where the space stands now; None when it has just gone."""
        info = self._host.machine.space(name)
        return None if isinstance(info, Refused) else self._about(info.lvc, info.epoch)

    def _about(self, lvc: int, epoch: int) -> About:
        return About(lvc, epoch, self._host.machine.applied_index)


async def _pieces(held: Held, start: int, stop: int) -> AsyncIterator[bytes]:
    for at in range(start, stop, PIECE_BYTES):
        yield held.read(at, min(stop, at + PIECE_BYTES))


def _wal_body(row: WalRow) -> dict[str, Any]:
    body: dict[str, Any] = {
        "kind": row.kind,
        "log_seq": row.log_seq,
        "tx_id": row.tx_id,
        "lvc": row.lvc,
        "epoch": row.epoch,
        "index": row.index,
        "offset": row.offset,
        "length": row.length,
        "before": row.before,
        "size_before": row.size_before,
        "before_crc": row.before_crc,
        "after_crc": row.after_crc,
        "at": rfc3339(row.at_ms),
    }
    if row.kind == "rollback":
        body |= {
            "from_lvc": row.from_lvc,
            "to_lvc": row.to_lvc,
            "snapshot": row.snapshot,
            "left_snapshot": row.left_snapshot,
        }
    return body
