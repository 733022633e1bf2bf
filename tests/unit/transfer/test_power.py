"""The power goes while a transfer lands: what is durable is believed and not asked for again, the rest is no harm."""

from __future__ import annotations

import random

import numpy as np
import pytest

from chaos.sim.disk import PowerCut, SimDisk
from cluster.transfer.frames import Codec, Kind, decode_chunk_asks, decode_leaf_asks, decode_places
from cluster.transfer.landing import Landing
from cluster.transfer.leaves import encode_leaf
from cluster.transfer.progress import ProgressFile
from node.heap import HeapSet

OPTIONS = {"address_bytes": 1 << 26, "extent_bytes": 1 << 18}


class Receiver:
    """A landing on a disk that can lose power, without sockets or threads."""

    def __init__(self, disk, world):
        self.disk = disk
        disk.makedirs("/n")
        self.heaps = HeapSet(disk, "/n", **OPTIONS)
        self.landing = Landing(heaps=self.heaps, progress=ProgressFile(disk, "/n"), on_loop=lambda work: work())
        self.local = world.local(self.heaps)
        self.asked = []

    def run(self, held, chance=None):
        """All of a transfer in order; durable at moments that `chance` picks, and at the end."""
        landing = self.landing
        landing.open()
        waiting = list(landing.compare(held.manifest, self.local))
        while waiting:
            ask = waiting.pop(0)
            body = landing.body_of(ask)
            if ask.kind is Kind.GET_LEAVES:
                rows = decode_leaf_asks(body).tolist()
                sent = b"".join(encode_leaf(leaf_id, held.entries(leaf_id), since=since) for leaf_id, since in rows)
                waiting += landing.take_leaves(ask, sent)
            else:
                landing.take_chunk(ask, held.chunk(int(decode_chunk_asks(body)[0])), Codec.RAW)
        for ask in landing.plan():
            places = decode_places(landing.body_of(ask))
            self.asked += places.tolist()
            landing.take_pages(ask, memoryview(b"".join(held.views(places, 12))), Codec.RAW)
            if chance is not None and chance.random() < 0.4:
                landing.sync()
        landing.sync()

    def image(self, manifest):
        found = {}
        heap = self.heaps.get(4096)
        for leaf_id, row in enumerate(manifest.leaves):
            entries, slots = self.landing.leaf(leaf_id)
            pages = [bytes(heap.page(slot)) if slot else None for slot in slots.tolist()]
            found[int(row["leaf_no"])] = pages, entries.versions.tolist(), entries.marks.tolist()
        return found


@pytest.fixture
def held(world):
    source = world.source()
    for leaf_no in range(6):
        source.write(leaf_no, range(leaf_no, 256, 3), 1 + leaf_no)
    return source, source.publish(meta=b"m" * 3000)


def effects_of_a_whole_run(held, world):
    disk = SimDisk(1)
    effects = []
    disk.effect = lambda text: effects.append(text)
    Receiver(disk, world).run(held, random.Random(1))
    return len(effects)


@pytest.mark.parametrize("part", range(4))
def test_the_power_goes_before_any_effect(held, world, part):
    source, checkpoint = held
    image = world.image_of(source)
    total = sum(1 for pages, _, _ in image.values() for page in pages if page)
    saved = 0
    for cut in range(part, effects_of_a_whole_run(checkpoint, world), 4):
        disk = SimDisk(cut)
        first = Receiver(disk, world)
        disk.cut_after = cut
        durable = 0
        try:
            first.run(checkpoint, random.Random(1))
        except PowerCut:
            pool = first.landing._pools.get(4096)
            durable = int(np.count_nonzero(pool.durable)) if pool is not None else 0
        disk.cut_after = None
        disk.restart()
        again = Receiver(disk, world)
        again.run(checkpoint)
        assert again.image(checkpoint.manifest) == image
        assert again.landing.chunk(0) == b"m" * 3000
        assert len(again.asked) <= total - durable, "a durable page was asked for twice"
        saved += total - len(again.asked)
    assert saved > 0


def test_received_pages_that_rotted_in_the_file_are_found_when_first_used(held, world):
    from node.heap import RottenSlot

    _, checkpoint = held
    disk = SimDisk(3)
    Receiver(disk, world).run(checkpoint)
    disk.restart()
    again = Receiver(disk, world)
    again.landing.open()
    slot = int(again.landing._pools[4096].slots[5])
    disk.flip("/n/pages-4096", slot * 4096 + 100)
    fresh = Receiver(disk, world)
    fresh.run(checkpoint)
    with pytest.raises(RottenSlot):
        fresh.image(checkpoint.manifest)
