"""What the service is given: one object that joins the parts of a node. Filled by `cluster.runtime`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cluster.config import NodeConfig
    from cluster.consensus.replica import Replica
    from cluster.metrics import Metrics
    from cluster.service.feed import EventFeed
    from cluster.service.forward import Forwarder
    from cluster.service.pipeline import WritePipeline
    from cluster.transfer.registry import Registry
    from node.state import StateMachine


@dataclass
class Host:
    """The parts of one running node, as the service uses them. Loop thread only."""

    config: NodeConfig
    replica: Replica
    machine: StateMachine
    pipeline: WritePipeline
    forwarder: Forwarder
    metrics: Metrics
    feed: EventFeed
    transfers: Registry
    caught_up: bool = False  # everything that was committed when the node started is applied here
