"""Every operation of the API, on the node that was asked: through the log, read here, or passed on.

`dispatch` is the only door. It answers exactly once and never raises; a hot write takes no task of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, Final

from cluster.api import args as api
from cluster.api.answer import Answer
from cluster.api.problem import problem
from cluster.api.service import Event
from cluster.log import get_log
from cluster.service import conditions
from cluster.service.conditions import BadArgument
from cluster.service.host import Host
from cluster.service.reads import Reads
from cluster.service.staging import Stager
from cluster.service.views import Views
from cluster.service.writes import Writes

log = get_log("cluster.service")
Reply = Callable[[Answer], None]
Handler = Callable[[Any, Reply], None]

TX_BYTES_MAX: Final = 64 * 1024 * 1024
TX_RANGES_MAX: Final = 1024
CLUSTER_WAIT_S: Final = 1.0  # for the leader's view of the cluster


class NodeService:
    """The Service of one node. `host` gives consensus, state machine and pipeline; see `cluster.service.host`."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._reads = Reads(host)
        self._views = Views(host)
        writes = self._writes = Writes(host)
        self._stager = Stager(host)
        self._tasks: set[asyncio.Task[None]] = set()
        self._changing: dict[str, Handler] = {
            "putData": writes.put_data,
            "postTx": self._post_tx,
            "putSpace": writes.put_space,
            "deleteSpace": writes.delete_space,
            "createSnapshot": writes.create_snapshot,
            "createSnapshots": writes.create_snapshots,
            "deleteSnapshot": writes.delete_snapshot,
            "pinSnapshot": writes.pin_snapshot,
            "unpinSnapshot": writes.unpin_snapshot,
            "postRollback": writes.post_rollback,
            "postSession": writes.post_session,
        }
        self._local: dict[str, Handler] = {
            "getData": self._reads.get_data,
            "getSnapshotData": self._reads.get_snapshot_data,
            "getSpace": self._reads.get_space,
            "listSpaces": self._reads.list_spaces,
            "getPages": self._reads.get_pages,
            "getWal": self._reads.get_wal,
            "listSnapshots": self._reads.list_snapshots,
            "getSnapshot": self._reads.get_snapshot,
            "diffSnapshots": self._reads.diff_snapshots,
            "listTransfers": self._views.list_transfers,
            "getLivez": self._views.livez,
            "getReadyz": self._views.readyz,
        }

    @property
    def views(self) -> Views:
        """Health, cluster view and events."""
        return self._views

    def dispatch(self, op: str, args: Any, reply: Reply, *, forwarded: bool = False) -> None:
        """Answers `op`. `forwarded`: another node passed it on, so it is decided here or not at all."""
        try:
            handler = self._changing.get(op)
            if handler is not None:
                if op == "postRollback" and args.dry_run:
                    self._reads.dry_run(args, reply)
                else:
                    self._change(op, handler, args, reply, forwarded)
                return
            local = self._local.get(op)
            if local is not None:
                local(args, reply)
            elif op == "getCluster":
                self._cluster(args, reply, forwarded)
            elif op == "getEvents":
                self._spawn(self._views.get_events(args, reply))
            else:
                reply(problem("not_found", f"there is no operation {op!r}"))
        except BadArgument as error:
            reply(problem(error.code, error.detail))
        except Exception as error:
            log.error("service.failed", op=op, error=error)
            reply(problem("internal", f"{op} failed; see the node's log"))

    async def subscribe_events(self, args: api.GetEvents) -> AsyncIterator[Event] | Answer:
        """See `cluster.api.service.Service`."""
        return await self._views.subscribe(args)

    def _change(self, op: str, handler: Handler, args: Any, reply: Reply, forwarded: bool) -> None:
        replica = self._host.replica
        if replica.role == "leader":
            if not replica.accepting_writes:
                reply(
                    problem("no_leader", "the cluster does not accept writes before every member has its first entry")
                )
                return
            handler(args, reply)
        elif forwarded:
            reply(problem("no_leader", f"{self._host.config.id} was taken for the leader and is not"))
        elif replica.leader is None:
            reply(problem("no_leader", "no leader is known at the moment"))
        else:
            self._host.forwarder.call(replica.leader, op, args, reply)

    def _cluster(self, args: Any, reply: Reply, forwarded: bool) -> None:
        leader = self._host.replica.leader
        if forwarded or leader is None or leader == self._host.config.id:
            self._views.get_cluster(args, reply)
            return

        waiting = [True]

        def relay(answer: Answer | None) -> None:
            if not waiting:
                return
            waiting.clear()
            timer.cancel()
            if answer is not None and answer.status == 200:
                reply(answer)
            else:  # the leader can't be asked, or hangs: the own view is better than none
                self._views.get_cluster(args, reply)

        timer = asyncio.get_running_loop().call_later(CLUSTER_WAIT_S, relay, None)
        self._host.forwarder.call(leader, "getCluster", args, relay)

    def _post_tx(self, args: api.PostTx, reply: Reply) -> None:
        total = sum(len(write.data) for write in args.writes)
        if total > TX_BYTES_MAX:
            raise BadArgument(f"the transaction has {total} bytes, at most {TX_BYTES_MAX}", "too_large")
        if len(args.writes) > TX_RANGES_MAX:
            raise BadArgument(f"the transaction has {len(args.writes)} ranges, at most {TX_RANGES_MAX}", "too_large")
        tx = conditions.tx_of_post(args)
        if total <= self._host.config.batch_bytes_max:
            self._writes.submit_tx(tx, total, reply)
        else:
            self._spawn(self._stager.run(tx, lambda staged: self._writes.submit_tx(staged, 0, reply), reply))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancels what still waits; its clients learn it from their connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
