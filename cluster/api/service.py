"""The seam between the API and what stands behind it. The API calls only this; `cluster/service` implements it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol, TypeAlias

from cluster.api.answer import Answer
from cluster.api.args import Args, GetEvents

Reply: TypeAlias = Callable[[Answer], None]
Event: TypeAlias = dict[str, Any]  # replicated ones have `seq`; a node's own have `node` and no `seq`


class Service(Protocol):
    """One node as its API sees it. Every call is made on the node's event loop."""

    def dispatch(self, op: str, args: Args, reply: Reply, *, forwarded: bool = False) -> None:
        """Does the operation `op` (an operationId) with arguments that are already checked for type and form.

        Calls `reply` exactly once, at once or later on the loop, and never raises. `forwarded`: the request was passed
        on by another node already, so it must not be passed on again.
        """

    async def subscribe_events(self, args: GetEvents) -> AsyncIterator[Event] | Answer:
        """Events of the asked types and space: from now, or after `last_event_id`, else after `index`.

        Answers a problem (`gone`) when the resume point is no longer kept. The iterator ends when the reader has fallen
        behind what is kept, or when the node stops; the reader then resumes by the last `seq` that it saw.
        """
