"""Bytes of frames, manifests, leaf entries and the progress file: what is damaged is refused, whatever the byte."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.transfer import frames
from cluster.transfer.frames import Codec, Damaged, GetManifest, Hello, Kind, RefusedBody, Tell, Welcome
from cluster.transfer.index import DigestIndex, first_of_each
from cluster.transfer.leaves import LeafEntries, decode_leaves, empty_entries, encode_leaf, merge
from cluster.transfer.manifest import CHUNK_ROW, LEAF_ROW, build_manifest, decode_manifest, encode_manifest
from cluster.transfer.progress import ProgressFile, Record, spans_of
from cluster.transfer.sender import Close, Sender, Stage
from wal.disk import RealDisk


def entries(seed, present=100):
    rng = np.random.default_rng(seed)
    made = empty_entries()
    at = rng.choice(256, present, replace=False)
    made.present[at] = True
    made.versions[at] = rng.integers(1, 2**40, present)
    made.marks[at] = rng.integers(0, 9, present)
    made.digests[at] = rng.integers(0, 256, (present, 16))
    made.versions[rng.integers(0, 256, 5)] = 77  # absent pages can have a version
    return made


def same(left: LeafEntries, right: LeafEntries) -> bool:
    return all(
        np.array_equal(getattr(left, name), getattr(right, name))
        for name in ("present", "versions", "marks", "digests")
    )


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.HELLO, Hello("c", "n1", "t", "install")),
        (Kind.WELCOME, Welcome("n2")),
        (Kind.GET_MANIFEST, GetManifest(7, b"x" * 16)),
        (Kind.REFUSED, RefusedBody("gone", "…")),
        (Kind.TELL, Tell(10, 3)),
    ],
)
def test_control_frames_read_back_and_no_flipped_bit_passes(kind, body):
    raw = frames.encode_control(kind, body, 5)
    header = frames.decode_header(raw[: frames.HEADER.size])
    frames.check_body(header, raw[frames.HEADER.size :])
    assert (header.kind, header.request) == (kind, 5)
    assert frames.decode_control(kind, raw[frames.HEADER.size :]) == body
    for at in range(len(raw)):
        for bit in (1, 128):
            bad = bytearray(raw)
            bad[at] ^= bit
            with pytest.raises(Damaged):
                frames.check_body(frames.decode_header(bad[: frames.HEADER.size]), bad[frames.HEADER.size :])


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_crash_a_decoder(raw):
    decoders = [
        lambda: frames.decode_header(raw.ljust(24, b"\0")),
        lambda: frames.decode_manifest_part(raw),
        lambda: frames.decode_places(raw),
        lambda: frames.decode_leaf_asks(raw),
        lambda: frames.decode_chunk_asks(raw),
        lambda: decode_leaves(raw),
        lambda: decode_manifest(raw),
        *(lambda kind=kind: frames.decode_control(kind, raw) for kind in frames.CONTROL),
    ]
    for decode in decoders:
        try:
            decode()
        except Damaged:
            pass


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 256), st.booleans())
def test_leaf_entries_read_back(seed, present, compress):
    made = entries(seed, present)
    ((leaf_id, _, read, _),) = decode_leaves(encode_leaf(9, made, compress=compress))
    assert leaf_id == 9 and same(read, made) and read.meta_digest() == made.meta_digest()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 100), st.lists(st.integers(0, 255), unique=True, max_size=40))
def test_entries_above_a_version_complete_an_older_leaf(seed, since, changed):
    old = entries(seed)
    old.versions[:] = np.minimum(old.versions, since)
    new = merge(old, np.arange(256), old)
    for position in changed:
        new.present[position] = position % 3 > 0
        new.versions[position] = since + 1 + position
        new.digests[position] = position if position % 3 else 0
    ((_, at, read, _),) = decode_leaves(encode_leaf(1, new, since=since))
    assert same(merge(old, at, read), new)
    assert sorted(at.tolist()) == sorted(changed)


def test_a_manifest_reads_back_and_no_flipped_bit_passes():
    leaves = np.zeros(3, LEAF_ROW)
    leaves["page_shift"], leaves["pages"] = 12, 256
    chunks = np.zeros(2, CHUNK_ROW)
    chunks["raw_bytes"] = 1000
    made = build_manifest(index=9, term=2, prev_index=8, prev_term=1, content=bytes(16), leaves=leaves, chunks=chunks)
    raw = encode_manifest(made)
    read = decode_manifest(raw)
    assert (read.index, read.term, read.prev_index, read.prev_term, read.digest) == (9, 2, 8, 1, made.digest)
    assert np.array_equal(read.leaves, leaves) and np.array_equal(read.chunks, chunks)
    for at in range(len(raw)):
        bad = bytearray(raw)
        bad[at] ^= 4
        with pytest.raises(Damaged):
            decode_manifest(bytes(bad))


def test_the_progress_file_loses_a_torn_tail_only(tmp_path):
    file = ProgressFile(RealDisk(), str(tmp_path))
    assert file.open() == []
    payloads = [b"one", b"two" * 100, b"three"]
    for payload in payloads:
        file.append(Record.CHUNK, payload[:2], payload[2:])
    file.sync()
    file.close()
    whole = (tmp_path / "transfer-in").read_bytes()
    for cut in range(len(whole) - 36, len(whole)):
        (tmp_path / "transfer-in").write_bytes(whole[:cut])
        again = ProgressFile(RealDisk(), str(tmp_path))
        assert [bytes(record.payload) for record in again.open()] == payloads[:2]
        again.append(Record.CHUNK, b"four")
        again.close()
        assert [bytes(record.payload) for record in again.open()] == [*payloads[:2], b"four"]
        again.close()
    again.remove()
    assert not again.exists


@given(st.lists(st.integers(0, 300), unique=True))
def test_spans_cover_exactly_the_ordinals(ordinals):
    covered = [
        number for start, stop in spans_of(np.array(ordinals, np.int64)).tolist() for number in range(start, stop)
    ]
    assert covered == sorted(ordinals)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), max_size=40), st.lists(st.integers(0, 30), max_size=40))
def test_the_index_finds_what_a_dict_finds(held, asked):
    """Digests that share their first half on purpose are told apart."""

    def digests(numbers):
        rows = [bytes(8) + bytes([n] * 8) if n % 2 else bytes([n] * 16) for n in numbers]
        return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 16)

    slots = np.arange(1, len(held) + 1, dtype=np.uint32)
    twin = {}
    for number, slot in zip(held, slots.tolist(), strict=True):
        twin.setdefault(number, slot)
    found = DigestIndex(digests(held), slots).find(digests(asked))
    assert found.tolist() == [twin.get(number, 0) for number in asked]
    assert first_of_each(digests(held)).tolist() == [slot - 1 for slot in twin.values()]


def header(kind, request=1, codec=Codec.RAW):
    return frames.Header(kind, codec, request, 0, 0)


def test_a_sender_answers_nothing_before_it_was_greeted():
    for kind in Kind:
        if kind is not Kind.HELLO:
            core = Sender(cluster_id="c", node="n")
            assert isinstance(core.on(header(kind), b"")[0], Close)
    core = Sender(cluster_id="c", node="n")
    effects = core.on(header(Kind.HELLO), frames._encode(Hello("other", "n", "t", "p")))
    assert effects[0].body.code == "wrong_cluster" and isinstance(effects[1], Close)


def serving(leaf_count=2):
    leaves = np.zeros(leaf_count, LEAF_ROW)
    leaves["page_shift"] = [12, 13][:leaf_count]
    made = build_manifest(
        index=9, term=2, prev_index=8, prev_term=1, content=bytes(16), leaves=leaves, chunks=np.zeros(1, CHUNK_ROW)
    )
    core = Sender(cluster_id="c", node="n")
    core.on(header(Kind.HELLO), frames._encode(Hello("c", "n", "t", "p")))
    core.chosen(1, GetManifest(0, b""), made)
    assert core.stage is Stage.SERVING
    return core


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (Kind.GET_PAGES, frames.encode_places(np.array([2]), np.array([0]))),  # no such leaf
        (Kind.GET_PAGES, frames.encode_places(np.array([0, 1]), np.array([0, 0]))),  # two page sizes
        (Kind.GET_PAGES, frames.encode_places(np.zeros(65), np.arange(65))),  # more than a frame
        (Kind.GET_PAGES, b""),
        (Kind.GET_LEAVES, frames.encode_leaf_asks(np.array([5]), np.array([0]))),
        (Kind.GET_CHUNKS, frames.encode_chunk_asks(np.array([1]))),
        (Kind.GET_CHUNKS, b"123"),
        (Kind.HELLO, b""),
        (Kind.PAGES, b""),
        (Kind.GET_MANIFEST, b"\xc1"),
    ],
)
def test_a_sender_refuses_what_it_does_not_have(kind, body):
    assert isinstance(serving().on(header(kind), body)[0], Close)
