"""Changing operations on the leader: request → operation → pipeline → answer."""

from __future__ import annotations

from collections.abc import Callable
from time import perf_counter
from typing import Any

from cluster.api import args as api
from cluster.api.answer import About, Answer
from cluster.service import conditions, render
from cluster.service.host import Host
from cluster.service.outcomes import refusal, with_roots
from node import commands as ops
from node.results import (
    Outcome,
    Refused,
    Replayed,
    RollbackDone,
    SessionDone,
    SnapshotInfo,
    SnapshotsDone,
    SpaceDone,
    TxDone,
)

Reply = Callable[[Answer], None]


class Writes:
    """One method for each changing operation. All run on the leader's loop."""

    def __init__(self, host: Host) -> None:
        self._host = host

    # ------------------------------------------------------------ bytes

    def put_data(self, args: api.PutData, reply: Reply) -> None:
        self.submit_tx(conditions.tx_of_put(args), len(args.data), reply)

    def submit_tx(self, tx: ops.Tx, data_bytes: int, reply: Reply) -> None:
        """A transaction whose bytes fit into one command, or whose parts are staged already."""

        def decided(outcome: Outcome) -> None:
            if type(outcome) is TxDone:
                reply(self._tx_answer(outcome))
            else:
                self._answer(outcome, self._tx_answer, reply)

        self._host.pipeline.submit(tx, data_bytes, decided)

    def _tx_answer(self, done: TxDone) -> Answer:
        return Answer(200, render.tx_body(done), None, self._about(done.lvc, done.epoch))

    # ------------------------------------------------------------ spaces

    def put_space(self, args: api.PutSpace, reply: Reply) -> None:
        self._submit(conditions.create_space(args), self._space_answer, reply)

    def _space_answer(self, done: SpaceDone) -> Answer:
        info = done.info
        status = 201 if done.created else 200
        return Answer(status, render.space_body(info), about=self._about(info.lvc, info.epoch))

    def delete_space(self, args: api.DeleteSpace, reply: Reply) -> None:
        ident = conditions.identity("deleteSpace", args)
        self._submit(ops.DeleteSpace(args.space, ident, args.epoch), lambda done: Answer(204, None), reply)

    # ------------------------------------------------------------ snapshots

    def create_snapshot(self, args: api.CreateSnapshot, reply: Reply) -> None:
        started = perf_counter()

        def decided(outcome: Outcome) -> None:
            result = outcome.result if isinstance(outcome, Replayed) else outcome
            replayed = isinstance(outcome, Replayed)
            if isinstance(result, SnapshotsDone):
                result = result.snapshots[0]
            self._host.metrics.snapshot_done(perf_counter() - started, ok=isinstance(result, SnapshotInfo))
            if isinstance(result, SnapshotInfo):
                info = result
                with_roots(self._host, [info], lambda roots: reply(self._snapshot_answer(info, roots[0], replayed)))
            else:
                self._answer(outcome, self._never, reply)

        self._host.pipeline.submit(conditions.take_snapshot(args), 0, decided)

    def _snapshot_answer(self, info: SnapshotInfo, root: bytes | None, replayed: bool) -> Answer:
        about = self._about(info.lvc, info.epoch)
        return Answer(201, render.snapshot_body(info, root), about=about, replayed=replayed)

    def create_snapshots(self, args: api.CreateSnapshots, reply: Reply) -> None:
        def decided(outcome: Outcome) -> None:
            replayed = isinstance(outcome, Replayed)
            result = outcome.result if isinstance(outcome, Replayed) else outcome
            if not isinstance(result, SnapshotsDone):
                self._answer(outcome, self._never, reply)
                return
            done = result

            def send(roots: list[bytes | None]) -> None:
                bodies = [render.snapshot_body(info, root) for info, root in zip(done.snapshots, roots, strict=True)]
                reply(Answer(201, {"index": done.index, "snapshots": bodies}, replayed=replayed))

            with_roots(self._host, done.snapshots, send)

        self._host.pipeline.submit(conditions.take_snapshots(args), 0, decided)

    def delete_snapshot(self, args: api.DeleteSnapshot, reply: Reply) -> None:
        operation = ops.DeleteSnapshot(
            args.space,
            conditions.snapshot_ref(args.snapshot),
            conditions.identity("deleteSnapshot", args),
            args.epoch,
        )
        self._submit(operation, lambda done: Answer(204, None, about=self._about_space(args.space)), reply)

    def pin_snapshot(self, args: api.PinSnapshot, reply: Reply) -> None:
        self._pin("pinSnapshot", args, True, reply)

    def unpin_snapshot(self, args: api.PinSnapshot, reply: Reply) -> None:
        self._pin("unpinSnapshot", args, False, reply)

    def _pin(self, op: str, args: api.PinSnapshot, pin: bool, reply: Reply) -> None:
        operation = ops.PinSnapshot(
            space=args.space,
            snapshot=conditions.snapshot_ref(args.snapshot),
            holder=args.holder,
            pin=pin,
            ident=conditions.identity(op, args),
            epoch=args.epoch,
        )

        def decided(outcome: Outcome) -> None:
            replayed = isinstance(outcome, Replayed)
            info = outcome.result if isinstance(outcome, Replayed) else outcome
            if not isinstance(info, SnapshotInfo):
                self._answer(outcome, self._never, reply)
                return

            def send(roots: list[bytes | None]) -> None:
                about = self._about(info.lvc, info.epoch)
                reply(Answer(200, render.snapshot_body(info, roots[0]), about=about, replayed=replayed))

            with_roots(self._host, [info], send)

        self._host.pipeline.submit(operation, 0, decided)

    # ------------------------------------------------------------ rollback and sessions

    def post_rollback(self, args: api.PostRollback, reply: Reply) -> None:
        started = perf_counter()

        def decided(outcome: Outcome) -> None:
            took_ms = (perf_counter() - started) * 1000
            if type(outcome) is not Replayed:
                self._host.metrics.rollback_done(took_ms / 1000, ok=isinstance(outcome, RollbackDone))

            def render_done(done: RollbackDone) -> Answer:
                took = None if isinstance(outcome, Replayed) else took_ms
                return Answer(200, render.rollback_body(done, took), about=self._about(done.lvc, done.epoch))

            self._answer(outcome, render_done, reply)

        self._host.pipeline.submit(conditions.rollback(args), 0, decided)

    def post_session(self, args: api.PostSession, reply: Reply) -> None:
        def render_done(done: SessionDone) -> Answer:
            return Answer(201, {"session": done.session, "window": done.window, "idle_s": done.idle_ms // 1000})

        self._submit(ops.OpenSession(conditions.identity("postSession", args)), render_done, reply)

    # ------------------------------------------------------------ shared

    def _submit(self, operation: ops.Operation, to_answer: Callable[[Any], Answer], reply: Reply) -> None:
        self._host.pipeline.submit(operation, 0, lambda outcome: self._answer(outcome, to_answer, reply))

    def _answer(self, outcome: Outcome, to_answer: Callable[[Any], Answer], reply: Reply) -> None:
        if isinstance(outcome, Replayed):
            inner = outcome.result
            answer = refusal(inner) if isinstance(inner, Refused) else to_answer(inner)
            answer.replayed = True
            reply(answer)
        elif isinstance(outcome, Refused):
            reply(refusal(outcome))
        else:
            reply(to_answer(outcome))

    def _never(self, result: Any) -> Answer:
        raise TypeError(f"unexpected result {type(result).__name__}")

    def _about_space(self, name: str) -> About | None:
        info = self._host.machine.space(name)
        return None if isinstance(info, Refused) else self._about(info.lvc, info.epoch)

    def _about(self, lvc: int, epoch: int) -> About:
        return About(lvc, epoch, self._host.machine.applied_index)
