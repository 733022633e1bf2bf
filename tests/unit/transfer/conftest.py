"""A small world for transfers: states of random pages, a source that serves one, and a node that receives it."""

from __future__ import annotations

import socket
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from cluster.consensus.seams import Base
from cluster.transfer.bulk_client import BulkClient, Link, PeerAddress, TransferSettings
from cluster.transfer.bulk_server import BulkServer
from cluster.transfer.held import HeldCheckpoint, entries_of, leaf_row
from cluster.transfer.landing import Landing
from cluster.transfer.limiter import Bucket
from cluster.transfer.manifest import CHUNK_ROW, LEAF_ROW, META, UNDO, build_manifest
from cluster.transfer.progress import ProgressFile
from cluster.transfer.registry import Registry
from cluster.transfer.source import Spool
from node.digest import page_digest
from node.hashing import hash_leaf
from node.heap import HASHED, HeapSet
from node.table import Leaf
from wal.disk import RealDisk

PAGE = 4096


class Source:
    """One node's leaves, and the checkpoint that it serves (None = not yet)."""

    def __init__(self, folder, seed=1, page_size=PAGE):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.rng = np.random.default_rng(seed)
        self.heaps = HeapSet(RealDisk(), str(folder))
        self.page_size = page_size
        self.heap = self.heaps.get(page_size)
        self.leaves = {}  # leaf_no -> Leaf
        self.held = None
        self.chosen = 0

    def fill(self, leaf_count, pages=256, version=1):
        for leaf_no in range(leaf_count):
            self.write(leaf_no, range(pages), version)
        return self

    def write(self, leaf_no, positions, version, page=None):
        old = self.leaves.get(leaf_no)
        leaf = Leaf.adopt(self.heap, old.block if old else bytes(16 * 256))
        for position in positions:
            self.heap.ensure(1)
            slot = self.heap.alloc()
            at = slot * self.page_size
            self.heap.view[at : at + self.page_size] = page or self.rng.bytes(self.page_size)
            if leaf.slot_of[position]:
                self.heap.drop(leaf.slot_of[position])
            leaf.slot_of[position] = slot
            leaf.version_of[position] = version
            leaf.mark_of[position] = version % 7
        self.leaves[leaf_no] = leaf

    def publish(self, index=10, meta=b"state", undo=b""):
        leaves = [self.leaves[no] for no in sorted(self.leaves)]
        rows = [leaf_row(leaf, 1, no)[0] for no, leaf in sorted(self.leaves.items())]
        spool = Spool(str(self.folder))
        for purpose, raw in ((META, meta), (UNDO, undo)):
            spool.add(purpose, raw)
            spool.end(purpose)
        manifest = build_manifest(
            index=index,
            term=3,
            prev_index=index - 1,
            prev_term=3,
            content=page_digest(meta + b"".join(rows)),
            leaves=np.frombuffer(b"".join(rows), LEAF_ROW),
            chunks=np.frombuffer(bytes(spool.rows), CHUNK_ROW),
        )
        self.held = HeldCheckpoint(manifest, leaves, spool.read)
        return self.held

    def choose(self, index_min):
        self.chosen += 1
        return self.held if self.held is not None and self.held.manifest.index >= index_min else None


class LocalLeaves:
    """What a receiver holds: leaves of space 1 at `lvc`."""

    def __init__(self, heaps, leaves=None, lvc=0):
        self.heaps, self.leaves, self.lvc = heaps, leaves or {}, lvc
        self.by_digest = {}
        for leaf in self.leaves.values():
            self.by_digest[hash_leaf(leaf.heap, leaf) + entries_of(leaf).meta_digest()] = leaf

    def leaf(self, digest, meta):
        return self.by_digest.get(digest + meta)

    def near(self, uid, leaf_no):
        leaf = self.leaves.get(leaf_no)
        return (self.lvc, entries_of(leaf)) if uid == 1 and leaf is not None else None

    def pages(self, page_size):
        slots = [leaf.slots[leaf.slots != 0] for leaf in self.leaves.values() if leaf.heap.page_size == page_size]
        joined = np.unique(np.concatenate(slots)) if slots else np.empty(0, np.uint32)
        heap = self.heaps.get(page_size)
        joined = joined[heap.flags[joined] & HASHED != 0]
        return heap.digests[joined], joined.astype(np.uint32)


class Node:
    """A receiver with a heap of its own. One lock stands for the thread that applies."""

    def __init__(self, folder, leaves=None, lvc=0, disk=None):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.disk = disk or RealDisk()
        self.heaps = HeapSet(self.disk, str(folder))
        self.apply_lock = threading.Lock()
        self.progress = ProgressFile(self.disk, str(folder))
        self.local = LocalLeaves(self.heaps)
        self.events = []
        self.registry = Registry(
            now=time.monotonic, wall_ms=lambda: 0, emit=lambda kind, facts: self.events.append((kind, facts))
        )

    def on_loop(self, work):
        with self.apply_lock:
            return work()

    def open(self):
        self.landing = Landing(heaps=self.heaps, progress=self.progress, on_loop=self.on_loop)
        self.landing.open()
        return self

    def freeze_local(self):
        return self.local

    def client(self, addresses, want, rate=0, settings=None, transfer="t1"):
        peers = [PeerAddress(f"n{at}", host, port) for at, (host, port) in enumerate(addresses, 1)]
        return BulkClient(
            want=want,
            transfer=transfer,
            purpose="install",
            peers=lambda: peers,
            landing=self.landing,
            local=self,
            registry=self.registry,
            link=Link("c", "me", Bucket(rate, time.monotonic), time.monotonic, settings or TransferSettings()),
        )

    def image(self, manifest):
        """leaf_no -> 256 pages (None = absent), versions and marks: what a state machine would be made of."""
        found = {}
        for leaf_id, row in enumerate(manifest.leaves):
            got = self.landing.leaf(leaf_id)
            if isinstance(got, Leaf):
                slots, versions, marks = got.slots, got.versions, got.marks
            else:
                entries, slots = got
                versions, marks = entries.versions, entries.marks
            found[int(row["leaf_no"])] = pages_of(self.heaps.get(1 << int(row["page_shift"])), slots, versions, marks)
        return found


class Proxy:
    """Forwards connections to `target`. `plan` says for each connection after how many bytes back it is cut (None =
    never),
    or, as ("flip", n), which byte of the answer is damaged; connections beyond the plan pass."""

    def __init__(self, target, plan=()):
        self.target = target
        self.plan = list(plan)
        self.passed = []
        self.at_cut = lambda number: None
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.address = self.listener.getsockname()
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:
                return
            number = len(self.passed)
            self.passed.append(0)
            try:
                far = socket.create_connection(self.target)
            except OSError:
                near.close()
                continue
            threading.Thread(target=self.forward, args=(near, far), daemon=True).start()
            threading.Thread(target=self.back, args=(far, near, number), daemon=True).start()

    def forward(self, near, far):
        try:
            while got := near.recv(65536):
                far.sendall(got)
            far.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def back(self, far, near, number):
        rule = self.plan[number] if number < len(self.plan) else None
        try:
            while got := far.recv(262144):
                start = self.passed[number]
                if isinstance(rule, int) and start + len(got) >= rule:
                    near.sendall(got[: rule - start])
                    self.at_cut(number)
                    break
                if isinstance(rule, tuple) and start <= rule[1] < start + len(got):
                    got = bytearray(got)
                    got[rule[1] - start] ^= 0x40
                near.sendall(got)
                self.passed[number] += len(got)
        except OSError:
            pass
        for sock in (near, far):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass
            sock.close()

    def stop(self):
        try:
            self.listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self.listener.close()


def pages_of(heap, slots, versions, marks):
    size = heap.page_size
    pages = [bytes(heap.view[slot * size : (slot + 1) * size]) if slot else None for slot in slots.tolist()]
    return pages, versions.tolist(), marks.tolist()


def image_of(source):
    return {no: pages_of(leaf.heap, leaf.slots, leaf.versions, leaf.marks) for no, leaf in source.leaves.items()}


def base_of(held, digest=True):
    manifest = held.manifest
    wanted = manifest.content if digest else b""
    return Base(manifest.index, manifest.term, manifest.prev_index, manifest.prev_term, wanted)


@pytest.fixture
def world(tmp_path):
    """Makers of sources, servers and receivers; whatever was started is stopped at the end."""
    servers = []

    def serve(source, port=0, node="n1"):
        registry = Registry(now=time.monotonic, wall_ms=lambda: 0, emit=lambda kind, facts: None)
        server = BulkServer(
            ("127.0.0.1", port), source, cluster_id="c", node=node, registry=registry, now=time.monotonic
        )
        server.start()
        servers.append(server)
        return server

    def proxy(target, plan=()):
        made = Proxy(target, plan)
        servers.append(made)
        return made

    yield SimpleNamespace(
        proxy=proxy,
        folder=tmp_path,
        source=lambda name="source", **options: Source(tmp_path / name, **options),
        node=lambda name="node", **options: Node(tmp_path / name, **options),
        serve=serve,
        base_of=base_of,
        image_of=image_of,
        local=LocalLeaves,
        settings=TransferSettings,
        page_digest=page_digest,
    )
    for server in servers:
        server.stop()
