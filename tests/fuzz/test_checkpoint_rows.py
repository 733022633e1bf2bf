"""Any bytes may stand in a row of the checkpoint, even under a checksum that holds: they are refused as damage."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.checkpoint_rows import LEAF, Head, SnapshotRow, SpaceRow, WindowRow, decode, seal, unpack_leaf, unseal
from node.image import KeyImage, Pieces, SessionImage, StageImage
from wal.checks import Corrupt

GOLDEN = Path(__file__).parents[1] / "golden" / "node" / "checkpoint-rows.txt"
LEAF_ROW = next(
    bytes.fromhex(value)[:-4] for table, _, value in map(str.split, GOLDEN.read_text().splitlines()) if table == LEAF
)


def refused_or_whole(raw: bytes) -> bool:
    try:
        leaf = unpack_leaf(memoryview(raw), "p")
    except Corrupt as damage:
        assert damage.path == "p"
        return False
    assert len(leaf.block) == 4096 and len(leaf.slots) == len(leaf.digests) and len(leaf.digest) == 16
    return True


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_leaf(raw):
    refused_or_whole(raw)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(LEAF_ROW) - 1), st.integers(0, 255)), max_size=4), st.integers(0, 99))
def test_a_leaf_changed_and_cut(changes, cut):
    raw = bytearray(LEAF_ROW)
    for at, byte in changes:
        raw[at] = byte
    refused_or_whole(bytes(raw[: len(raw) - cut]))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([Head, SpaceRow, SnapshotRow, WindowRow, KeyImage, SessionImage, StageImage, Pieces]), st.binary()
)
def test_any_struct(kind, raw):
    try:
        decode(raw, kind, "p")
    except Corrupt as damage:
        assert damage.path == "p"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=20), st.binary(max_size=200), st.data())
def test_a_sealed_value_shows_every_change(key, value, data):
    stored = bytearray(seal(key, value))
    assert unseal("p", "t", key, bytes(stored)) == value
    stored[data.draw(st.integers(0, len(stored) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(Corrupt):
        unseal("p", "t", key, bytes(stored))


def test_canary():
    assert refused_or_whole(LEAF_ROW)
    assert not refused_or_whole(LEAF_ROW[:-1])
