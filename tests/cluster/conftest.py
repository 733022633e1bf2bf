"""The cluster that the tests of the contract share, a client for it, and a space to try things on."""

from __future__ import annotations

import itertools

import pytest

from cluster.local import LocalCluster
from tests.cluster.contract_client import Client

SETTINGS = {
    "events_kept": 64,
    "undo_records_max": 12,
    "request_timeout_ms": 1500,
    "journal_bytes_max": 4 * 1024 * 1024,
}
NAMES = (f"room-{number}" for number in itertools.count(1))


@pytest.fixture(scope="package")
def contract_cluster(tmp_path_factory):
    made = LocalCluster.create(tmp_path_factory.mktemp("contract"), nodes=3, settings=SETTINGS)
    made.start()
    try:
        made.wait_ready(timeout_s=60)
        yield made
    finally:
        made.stop()


@pytest.fixture(scope="package")
def api(contract_cluster):
    return Client({node.id: node.http for node in contract_cluster.nodes})


@pytest.fixture
def room(api):
    """A space with three writes, snapshot 1 `@v1`, one more write, snapshot 2 `@v2`. LVC 4, size 9000."""
    name = next(NAMES)
    api.good("PUT", f"/v1/spaces/{name}", {"policy": {"dirty_ratio": 1}})
    for at in (0, 4096, 8990):
        api.good("PUT", f"/v1/spaces/{name}/data?offset={at}", b"0123456789")
    api.good("POST", f"/v1/spaces/{name}/snapshots", {"label": "v1"})
    api.good("PUT", f"/v1/spaces/{name}/data?offset=4096", b"changed")
    api.good("POST", f"/v1/spaces/{name}/snapshots", {"label": "v2"})
    return name
