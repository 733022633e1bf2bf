"""The bytes of a transfer are those of docs/format.md, whatever the code becomes. Files: tests/golden/transfer."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from chaos.sim.disk import SimDisk
from cluster.transfer import frames
from cluster.transfer.frames import GetManifest, Hello, Kind, RefusedBody, Tell, Welcome
from cluster.transfer.leaves import decode_leaves, empty_entries, encode_leaf
from cluster.transfer.manifest import CHUNK_ROW, LEAF_ROW, build_manifest, decode_manifest, encode_manifest
from cluster.transfer.progress import Plan, ProgressFile, Record, encode_plan, spans_of

GOLDEN = Path(__file__).parents[2] / "golden" / "transfer"


def golden(name: str, found: bytes) -> None:
    assert (GOLDEN / name).read_bytes() == found, f"{name} is written differently now: that needs a new version"


def every_frame() -> bytes:
    leaf_ids, positions = np.array([0, 7]), np.array([255, 3])
    return b"".join(
        (
            frames.encode_control(Kind.HELLO, Hello("c", "n2", "t1", "install")),
            frames.encode_control(Kind.WELCOME, Welcome("n1")),
            frames.encode_control(Kind.GET_MANIFEST, GetManifest(70_000, bytes(range(16)))),
            frames.encode_frame(Kind.MANIFEST, 0, frames.encode_manifest_part(100, 40, b"part")),
            frames.encode_frame(Kind.GET_LEAVES, 1, frames.encode_leaf_asks(leaf_ids, np.array([0, 70_000]))),
            frames.encode_frame(Kind.LEAVES, 1, b"entries"),
            frames.encode_frame(Kind.GET_CHUNKS, 2, frames.encode_chunk_asks(np.array([5]))),
            frames.encode_frame(Kind.CHUNKS, 2, b"packed", frames.Codec.LZ4),
            frames.encode_frame(Kind.GET_PAGES, 3, frames.encode_places(leaf_ids, positions), frames.Codec.LZ4),
            frames.encode_frame(Kind.PAGES, 3, b"pages"),
            frames.encode_frame(Kind.PING, 0),
            frames.encode_frame(Kind.WAIT, 0),
            frames.encode_frame(Kind.BYE, 0),
            frames.encode_control(Kind.REFUSED, RefusedBody("gone", "restarted"), 3),
            frames.encode_control(Kind.TELL, Tell(1 << 30, 4096)),
        )
    )


def entries():
    made = empty_entries()
    for position in (0, 1, 255):
        made.present[position] = True
        made.versions[position] = 1000 + position
        made.marks[position] = position + 1
        made.digests[position] = position
    made.versions[9] = 77  # absent, changed once
    return made


def manifest():
    leaves = np.zeros(2, LEAF_ROW)
    leaves["digest"], leaves["meta"] = 1, 2
    leaves["uid"], leaves["leaf_no"] = [3, 70_000], [0, 9]
    leaves["page_shift"], leaves["pages"] = [12, 16], [256, 1]
    chunks = np.zeros(2, CHUNK_ROW)
    chunks["digest"], chunks["raw_bytes"], chunks["purpose"] = 5, [262_144, 10], [0, 1]
    return build_manifest(
        index=80_000, term=7, prev_index=79_999, prev_term=6, content=b"c" * 16, leaves=leaves, chunks=chunks
    )


class FixedSalt(SimDisk):
    def entropy(self, nbytes: int) -> bytes:
        return b"\x11\x22\x33\x44\x55\x66\x77\x88"[:nbytes]


def progress() -> bytes:
    disk = FixedSalt()
    disk.makedirs("/t")
    file = ProgressFile(disk, "/t")
    file.open()
    file.append(Record.NAME, b"t1")
    file.append(Record.MANIFEST, encode_manifest(manifest()))
    file.append(Record.LEAF, b"d" * 16, b"m" * 16, encode_leaf(0, entries()))
    file.append(Record.CHUNK, b"d" * 16, b"raw")
    slots, digests = np.array([5, 6, 70_000], np.uint32), np.full((3, 16), 9, np.uint8)
    file.append(Record.PLAN, encode_plan(Plan(4096, slots, digests)))
    file.append(Record.DURABLE, (4096).to_bytes(4, "big"), spans_of(np.array([0, 2])).tobytes())
    file.close()
    opened = disk.open("/t/transfer-in")
    return opened.pread(opened.size(), 0)


def test_frames():
    golden("frames.bin", every_frame())


def test_manifest():
    raw = encode_manifest(manifest())
    golden("manifest.bin", raw)
    assert decode_manifest((GOLDEN / "manifest.bin").read_bytes()).digest == manifest().digest


def test_leaf_entries():
    raw = encode_leaf(7, entries(), compress=False) + encode_leaf(8, entries(), since=1000)
    golden("leaf-entries.bin", raw)
    assert [leaf_id for leaf_id, *_ in decode_leaves((GOLDEN / "leaf-entries.bin").read_bytes())] == [7, 8]


def test_progress_file():
    golden("progress.bin", progress())
