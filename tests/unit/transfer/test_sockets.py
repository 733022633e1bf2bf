"""Transfers over real sockets in one process: whole, delta, nothing to do, damaged, cut, throttled, peers that go."""

from __future__ import annotations

import threading

import pytest


def fetch(node, client):
    manifest = client.run()
    client.finished("done")
    return node.image(manifest)


def test_an_empty_node_gets_everything(world):
    source = world.source().fill(5).fill(1, pages=7)
    held = source.publish(meta=b"m" * 700_000, undo=b"u" * 10)
    server = world.serve(source)
    node = world.node().open()
    client = node.client([server.address], world.base_of(held))
    assert fetch(node, client) == world.image_of(source)
    assert node.landing.chunks(range(len(held.manifest.chunks))) == b"m" * 700_000 + b"u" * 10
    (row,) = node.registry.rows()
    assert (row.state, row.done_bytes, row.resent_bytes, row.resumes) == ("done", row.total_bytes, 0, 0)
    assert row.total_bytes == 5 * 256 * 4096
    assert [kind for kind, _ in node.events] == ["transfer.started", "transfer.finished"]


def test_pages_that_are_here_anywhere_are_not_asked_for(world):
    source = world.source().fill(2)
    same = bytes(range(256)) * 16
    source.write(0, range(100), 5, page=same)
    source.write(1, range(50), 6, page=same)
    held = source.publish()
    server = world.serve(source)
    node = world.node().open()
    fetch(node, node.client([server.address], world.base_of(held)))
    (row,) = node.registry.rows()
    assert row.total_bytes == (256 - 100 + 256 - 50 + 1) * 4096


def test_a_delta_sends_what_changed_and_hardly_more(world):
    source = world.source().fill(8)
    node = world.node()
    node.open()
    server = world.serve(source)
    first = source.publish(index=10)
    image = fetch(node, node.client([server.address], world.base_of(first)))
    assert image == world.image_of(source)
    import numpy as np

    from node.table import Leaf

    leaves = {}
    for leaf_id in range(len(first.manifest.leaves)):
        entries, slots = node.landing.leaf(leaf_id)
        block = entries.versions.tobytes() + slots.astype(np.uint32).tobytes() + entries.marks.tobytes()
        leaves[leaf_id] = Leaf.adopt(node.heaps.get(4096), block)
    node.landing.discard()
    node.local = world.local(node.heaps, leaves, lvc=1)
    for leaf_no in range(8):
        source.write(leaf_no, range(leaf_no, 256, 7), version=2)
    second = source.publish(index=20)
    node.open()
    sent_before = server.registry.counters.sent_bytes
    image = fetch(node, node.client([server.address], world.base_of(second), transfer="t2"))
    assert image == world.image_of(source)
    changed = sum(len(range(leaf_no, 256, 7)) for leaf_no in range(8)) * 4096
    assert node.registry.rows()[0].total_bytes == changed
    assert server.registry.counters.sent_bytes - sent_before <= 1.02 * changed


@pytest.mark.parametrize("rate", [0, 4_000_000])
def test_a_limit_of_rate_is_kept(world, rate):
    import time

    source = world.source().fill(2)
    held = source.publish()
    server = world.serve(source)
    node = world.node().open()
    began = time.monotonic()
    assert fetch(node, node.client([server.address], world.base_of(held), rate=rate)) == world.image_of(source)
    if rate:
        assert time.monotonic() - began > 2 * 256 * 4096 / rate * 0.7
        assert node.registry.rows()[0].limit_bytes_per_s == rate


def test_a_peer_of_another_cluster_or_without_a_checkpoint_is_left_for_the_next(world):
    empty, full = world.source("empty"), world.source("full").fill(1)
    held = full.publish()
    node = world.node().open()
    client = node.client([world.serve(empty).address, world.serve(full).address], world.base_of(held))
    assert fetch(node, client) == world.image_of(full)


def test_close_ends_run_and_keeps_the_progress(world):
    from cluster.transfer.bulk_client import Stopped

    source = world.source()
    server = world.serve(source)
    node = world.node().open()
    source.fill(1)
    held = source.publish()
    source.held = None
    client = node.client([server.address], world.base_of(held))
    ended = []

    def run():
        with pytest.raises(Stopped):
            client.run()
        ended.append(True)

    thread = threading.Thread(target=run)
    thread.start()
    client.close()
    thread.join(5)
    assert ended == [True]
