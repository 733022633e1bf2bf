"""A transfer that is interrupted goes on where it stopped: cuts, damage, killed receivers, senders that are gone."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import threading

import pytest

MIB = 1 << 20
PROCESS = pathlib.Path(__file__).with_name("receiver_process.py")


def fetch(node, client):
    manifest = client.run()
    client.finished("done")
    return node.image(manifest)


def only_row(registry):
    (row,) = registry.rows()
    return row


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_cut_costs_at_most_a_mebibyte(world, percent):
    source = world.source().fill(32)
    held = source.publish()
    server = world.serve(source)
    proxy = world.proxy(server.address, [percent * 32 * MIB // 100])
    node = world.node().open()
    image = fetch(node, node.client([proxy.address], world.base_of(held)))
    assert image == world.image_of(source)
    sent, received = only_row(server.registry), only_row(node.registry)
    assert sent.resent_bytes <= MIB and received.resent_bytes <= MIB
    assert (sent.done_bytes, received.done_bytes, received.resumes) == (32 * MIB, 32 * MIB, 1)
    assert [kind for kind, _ in node.events] == ["transfer.started", "transfer.resumed", "transfer.finished"]
    assert len(proxy.passed) == 2


def test_many_cuts_each_cost_at_most_a_mebibyte(world):
    source = world.source().fill(24)
    held = source.publish(meta=os.urandom(3 * MIB))
    server = world.serve(source)
    proxy = world.proxy(server.address, [700_000 + 611_111 * number for number in range(12)])
    node = world.node().open()
    image = fetch(node, node.client([proxy.address], world.base_of(held)))
    assert image == world.image_of(source)
    cuts = len(proxy.passed) - 1
    assert cuts >= 5
    assert only_row(server.registry).resent_bytes <= cuts * MIB


def test_every_frame_damaged_in_turn_is_refused(world):
    """One damaged byte a connection, spread over all frames of a small transfer: the result is right all the same."""
    source = world.source().fill(1, pages=20)
    held = source.publish(meta=os.urandom(30_000))
    server = world.serve(source)
    clean = world.node("clean").open()
    counting = world.proxy(server.address)
    fetch(clean, clean.client([counting.address], world.base_of(held)))
    total = counting.passed[0]
    for flip in [*range(0, 200, 7), *range(200, total, total // 25)]:
        proxy = world.proxy(server.address, [("flip", flip)])
        node = world.node(f"flip{flip}").open()
        image = fetch(node, node.client([proxy.address], world.base_of(held), transfer=f"t{flip}"))
        assert image == world.image_of(source)
        assert node.landing.chunk(0) == source.held.chunk(0)
        assert len(proxy.passed) == 2, f"byte {flip} was damaged and believed"
        node.heaps.close()


@pytest.mark.parametrize("percent", [10, 50, 90])
def test_a_killed_receiver_goes_on_where_it_stopped(world, percent):
    source = world.source().fill(48)
    held = source.publish(meta=b"m" * 100_000)
    server = world.serve(source)
    reached = threading.Event()
    proxy = world.proxy(server.address, [percent * 48 * MIB // 100])
    folder = world.folder / "killed"
    child = subprocess.Popen(
        [sys.executable, str(PROCESS), str(folder), str(proxy.address[1]), "10"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    proxy.at_cut = lambda number: (child.kill(), reached.set())
    assert reached.wait(60)
    child.wait()
    child.stdout.close()
    before = only_row(server.registry).done_bytes
    node = world.node("killed").open()
    assert node.landing.held is not None
    image = fetch(node, node.client([proxy.address], world.base_of(held)))
    assert image == world.image_of(source)
    assert only_row(server.registry).resent_bytes <= MIB
    assert before <= node.registry.rows()[0].done_bytes == 48 * MIB


def test_slots_of_an_interrupted_transfer_are_not_given_to_others(world):
    """After a kill the node goes on living: what it writes must not land in slots that hold received pages."""
    from cluster.transfer.bulk_client import Stopped

    source = world.source().fill(8)
    held = source.publish()
    server = world.serve(source)
    proxy = world.proxy(server.address, [5 * MIB])
    node = world.node().open()
    client = node.client([proxy.address], world.base_of(held))
    proxy.at_cut = lambda number: client.close()
    with pytest.raises(Stopped):
        client.run()
    received = node.landing.done_bytes
    assert received >= 3 * MIB
    node.heaps.close()
    again = world.node().open()
    heap = again.heaps.get(4096)
    for _ in range(2000):
        slot = heap.alloc()
        heap.view[slot * 4096 : slot * 4096 + 4096] = b"\xee" * 4096
    image = fetch(again, again.client([server.address], world.base_of(held)))
    assert image == world.image_of(source)
    assert only_row(server.registry).resent_bytes <= MIB
    again.landing.discard()
    assert not again.progress.exists


def test_a_sender_that_is_gone_is_replaced_and_nothing_verified_comes_twice(world):
    """Another peer with the same checkpoint goes on: its slots differ, its manifest does not."""
    first, second = world.source("first", seed=5).fill(24), world.source("second", seed=5)
    second.heap.ensure(9)
    second.spare = [second.heap.alloc() for _ in range(9)]
    second.fill(24)
    held = first.publish()
    assert second.publish().manifest.digest == held.manifest.digest
    gone, stays = world.serve(first), world.serve(second, node="n2")
    proxy = world.proxy(gone.address, [12 * MIB])
    node = world.node().open()
    proxy.at_cut = lambda number: (gone.stop(), proxy.stop())
    image = fetch(node, node.client([proxy.address, stays.address], world.base_of(held)))
    assert image == world.image_of(first)
    assert only_row(node.registry).resent_bytes <= MIB
    assert only_row(stays.registry).done_bytes <= 24 * MIB - (12 * MIB - 2 * MIB)


def test_a_newer_checkpoint_is_taken_and_everything_received_is_kept(world):
    source = world.source().fill(24)
    held = source.publish(index=10)
    server = world.serve(source)
    proxy = world.proxy(server.address, [12 * MIB])
    node = world.node().open()

    def restart(number):
        server.stop()
        source.write(3, range(5), version=9)
        source.write(30, range(40), version=9)
        source.publish(index=50)
        proxy.target = world.serve(source).address

    proxy.at_cut = restart
    client = node.client([proxy.address], world.base_of(held))
    manifest = client.run()
    assert manifest.index == 50
    assert node.image(manifest) == world.image_of(source)
    assert client.tracked.row.resent_bytes <= MIB
    assert proxy.passed[1] <= 24 * MIB - 12 * MIB + 3 * MIB


def test_a_page_that_rotted_at_the_sender_comes_from_another(world):
    first, second = world.source("first", seed=5).fill(2), world.source("second", seed=5).fill(2)
    held = first.publish()
    second.publish()
    slot = int(first.leaves[1].slots[17])
    image = world.image_of(second)
    first.heap.view[slot * 4096] ^= 1
    node = world.node().open()
    client = node.client([world.serve(first).address, world.serve(second, node="n2").address], world.base_of(held))
    assert fetch(node, client) == image
    assert node.registry.counters.rejected_frames >= 1
