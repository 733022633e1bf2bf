"""What a node says about itself and its cluster: health, the view of all nodes, transfers, events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec

from cluster.api import args as api
from cluster.api.answer import Answer
from cluster.api.times import parse_wait_ms, rfc3339
from cluster.config import Peer
from cluster.consensus.replica import PeerStatus
from cluster.service.host import Host
from cluster.service.outcomes import refusal
from node.events import Event
from node.results import Refused

Reply = Callable[[Answer], None]
EVENTS_A_TURN: Final = 500


class Views:
    """Loop thread only."""

    def __init__(self, host: Host) -> None:
        self._host = host

    # ------------------------------------------------------------ health

    def livez(self, args: api.NoArgs, reply: Reply) -> None:
        """Alive = the loop answers. It does not depend on a leader."""
        reply(Answer(200, [{"name": "loop", "ok": True, "detail": None}]))

    def readyz(self, args: api.NoArgs, reply: Reply) -> None:
        checks = self.ready_checks()
        reply(Answer(200 if all(check["ok"] for check in checks) else 503, checks))

    def ready_checks(self) -> list[dict[str, Any]]:
        """Ready = knows a leader, has applied what was committed at start, is not installing, has its own disk."""
        host, replica = self._host, self._host.replica
        checks = [
            {
                "name": "leader",
                "ok": replica.leader is not None,
                "detail": f"leader is {replica.leader}" if replica.leader else "no leader is known",
            },
            {
                "name": "caught_up",
                "ok": host.caught_up,
                "detail": f"applied {_applied(host)} of {replica.commit_index}",
            },
            {
                "name": "installing",
                "ok": not replica.installing,
                "detail": "a checkpoint is being installed" if replica.installing else None,
            },
        ]
        if replica.lost_disk is not None:
            checks.append({"name": "disk", "ok": False, "detail": replica.lost_disk})
        return checks

    # ------------------------------------------------------------ the cluster

    def get_cluster(self, args: api.NoArgs, reply: Reply) -> None:
        """This node's view; on the leader it is the cluster's."""
        host, replica = self._host, self._host.replica
        last = replica.last_index
        seen = {status.id: status for status in replica.peers()}
        nodes = [self._self_row(last)]
        nodes.extend(self._peer_row(peer, seen[peer.id], last) for peer in host.config.others)
        nodes.sort(key=lambda row: row["id"])
        reply(
            Answer(
                200,
                {
                    "cluster_id": host.config.cluster_id,
                    "leader": replica.leader,
                    "term": replica.term,
                    "commit_index": replica.commit_index,
                    "applied_index": _applied(host),
                    "nodes": nodes,
                },
            )
        )

    def _self_row(self, last: int) -> dict[str, Any]:
        host, replica = self._host, self._host.replica
        return {
            **_addresses(host.config.advertised),
            "role": replica.role,
            "reachable": True,
            "match_index": last,
            "lag_entries": max(0, replica.commit_index - _applied(host)),
            "state": "down" if replica.lost_disk else "installing" if replica.installing else "ready",
        }

    def _peer_row(self, peer: Peer, seen: PeerStatus, last: int) -> dict[str, Any]:
        replica = self._host.replica
        match = seen.match_index
        state = "down" if not seen.reachable or not seen.counts else "installing" if seen.installing else "ready"
        return {
            **_addresses(peer),
            "role": "leader" if replica.leader == peer.id else "follower",
            "reachable": seen.reachable,
            "match_index": match,
            "lag_entries": None if match is None else max(0, last - match),
            "state": state,
        }

    def list_transfers(self, args: api.NoArgs, reply: Reply) -> None:
        reply(Answer(200, [msgspec.structs.asdict(row) for row in self._host.transfers.rows()]))

    # ------------------------------------------------------------ events

    async def get_events(self, args: api.GetEvents, reply: Reply) -> None:
        """An array: at once what is there after `index`, else what comes within `wait`."""
        follower = _Follower(self._host, args, after=args.index or 0)
        deadline = asyncio.get_running_loop().time() + (parse_wait_ms(args.wait) / 1000 if args.wait else 0)
        while True:
            found = follower.take(args.limit)
            left = deadline - asyncio.get_running_loop().time()
            if isinstance(found, Answer):
                reply(found)
                return
            if found or left <= 0 or self._host.feed.closed:
                seqs = [event["seq"] for event in found if "seq" in event]
                following = f"index={seqs[-1]}" if len(seqs) == args.limit else None
                reply(Answer(200, found, next=following))
                return
            await self._host.feed.wait(left)

    async def subscribe(self, args: api.GetEvents) -> AsyncIterator[dict[str, Any]] | Answer:
        """A feed from now on, or after the resume point; an answer when that is no longer kept."""
        after = self._host.machine.event_seq
        if args.last_event_id is not None:
            after = int(args.last_event_id)
        elif args.index is not None:
            after = args.index
        follower = _Follower(self._host, args, after=after)
        first = follower.take(EVENTS_A_TURN)
        return first if isinstance(first, Answer) else self._follow(follower, first)

    async def _follow(self, follower: _Follower, first: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
        found: list[dict[str, Any]] | Answer = first
        while not isinstance(found, Answer):
            for event in found:
                yield event
            if not found:
                await self._host.feed.wait(None)
                if self._host.feed.closed:
                    return
            found = follower.take(EVENTS_A_TURN)


class _Follower:
    """One reader's place in the events of the log and in this node's own."""

    def __init__(self, host: Host, args: api.GetEvents, *, after: int) -> None:
        self._host = host
        self._types = frozenset(args.types.split(",")) if args.types else None
        self._space = args.space
        self._after = after
        self._own_after = host.feed.own_count

    def take(self, limit: int) -> list[dict[str, Any]] | Answer:
        """The next events, replicated ones first; a problem when some that were asked for are no longer kept."""
        newest = self._host.machine.event_seq
        found = self._host.machine.events(self._after, types=self._types, space=self._space, limit=limit)
        if isinstance(found, Refused):
            return refusal(found)
        # Events that the filter leaves out are passed too, so that a resume point never falls behind for nothing.
        self._after = found[-1].seq if len(found) == limit else max(newest, self._after)
        return [event_body(event) for event in found] + self._own()

    def _own(self) -> list[dict[str, Any]]:
        taken = []
        for number, event in self._host.feed.own_after(self._own_after):
            self._own_after = number
            if (self._types is None or event["type"] in self._types) and self._space in (None, event["space"]):
                taken.append(event)
        return taken


def _applied(host: Host) -> int:
    """The newest index whose effects are complete here; a leader's first entry, which has none, counts too."""
    return max(host.machine.applied_index, host.replica.applied_index)


def event_body(event: Event) -> dict[str, Any]:
    """A replicated event as users see it."""
    return {
        "seq": event.seq,
        "index": event.index,
        "type": event.type,
        "space": event.space or None,
        "at": rfc3339(event.at_ms),
        **event.body,
    }


def _addresses(peer: Peer) -> dict[str, str]:
    return {"id": peer.id, "http": peer.http, "raft": peer.raft, "bulk": peer.bulk}
