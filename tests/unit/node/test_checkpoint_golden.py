"""Rows of the checkpoint are those of docs/format.md. File: tests/golden/node/checkpoint-rows.txt."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

from node.checkpoint_rows import LEAF, LZ4_BLOCK, RAW_BLOCK, TABLES, pack_leaf, unpack_leaf, unseal
from node.commands import CreateSpace, Key, OpenSession, Rollback, Seat, StagePart, TakeSnapshots, Tx
from node.hashing import hash_leaf
from node.heap import HeapSet
from node.table import FROZEN, Leaf
from tests.unit.node.durable import DurableNode
from tests.unit.node.rig import HEAP_OPTIONS
from wal.disk import RealDisk

GOLDEN = Path(__file__).parents[2] / "golden" / "node" / "checkpoint-rows.txt"


def every_kind_of_row(folder: Path) -> DurableNode:
    node = DurableNode(str(folder), [])
    node.apply(CreateSpace("a"), OpenSession(), now_ms=1_000)
    node.apply(
        Tx("a", [(0, memoryview(b"page 0")), (5000, memoryview(b"page 1"))], ident=Key("k", b"f" * 16)), now_ms=1_001
    )
    node.apply(TakeSnapshots(["a"], label="base", pin="me"), now_ms=1_002)
    node.apply(Tx("a", [(0, memoryview(b"PAGE"))], ident=Seat(1, 1, 1)), now_ms=1_003)
    node.apply(Rollback("a", snapshot="1"), now_ms=1_004)
    node.apply(StagePart("s", 0, [(7, memoryview(b"staged"))]), now_ms=1_005)
    node.checkpoint()
    return node


def listing(node: DurableNode) -> str:
    store = node.storage.store
    lines = [f"{table} {key.hex()} {value.hex()}" for table in TABLES for key, value in store.rows(table)]
    return "\n".join(lines) + "\n"


def test_rows(tmp_path):
    node = every_kind_of_row(tmp_path / "n")
    found = listing(node)
    assert {line.split()[0] for line in found.splitlines()} == set(TABLES)
    assert found == GOLDEN.read_text(), "the checkpoint is written differently now: that needs a new version"


def test_a_leaf_by_hand(tmp_path):
    """docs/format.md read by a second implementation."""
    rows = [line.split() for line in GOLDEN.read_text().splitlines()]
    key, stored = next((bytes.fromhex(key), bytes.fromhex(value)) for table, key, value in rows if table == LEAF)
    assert int.from_bytes(stored[-4:], "big") == crc32(stored[:-4], crc32(key))
    value = stored[:-4]
    assert value[0] == 12 and value[1] == LZ4_BLOCK
    pages, block_bytes = int.from_bytes(value[2:4], "big"), int.from_bytes(value[4:8], "big")
    assert pages == 2 and len(value) == 8 + block_bytes + pages * 16 + 16
    leaf = unpack_leaf(unseal("p", LEAF, key, stored), "p")
    assert leaf.page_size == 4096 and len(leaf.slots) == 2 and leaf.digest == value[-16:]


def test_a_leaf_that_does_not_compress(tmp_path):
    disk = RealDisk()
    disk.makedirs(str(tmp_path / "h"))
    heap = HeapSet(disk, str(tmp_path / "h"), **HEAP_OPTIONS).get(4096)
    heap.ensure(256)
    noise = (tmp_path / "noise").read_bytes() if (tmp_path / "noise").exists() else disk.entropy(2048 + 1024)
    slots = b"".join(heap.alloc().to_bytes(4, "little") for _ in range(256))
    leaf = Leaf(heap, bytearray(noise[:2048] + slots + noise[2048:]), FROZEN)
    hash_leaf(heap, leaf)
    raw = pack_leaf(leaf)
    stored = unpack_leaf(memoryview(raw), "p")
    assert stored.block == bytes(leaf.block) and stored.digest == leaf.digest
    assert raw[1] in (RAW_BLOCK, LZ4_BLOCK) and len(stored.digests) == 256
