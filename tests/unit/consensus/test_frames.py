"""Bytes between members: what goes in comes out, in pieces of any size, and nothing else gets through."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.consensus import frames
from cluster.consensus.frames import BadFrame, EntryEncoder, Hello, Kind
from cluster.consensus.link import DEAD_S, PING_S, Link

GOLDEN = Path(__file__).parents[2] / "golden" / "consensus" / "raft-frames.bin"
HELLO = Hello(1, "test", "b", "a", "b-1", "0f", 3, {"a": "a-1", "b": "b-1"})
APPEND: dict[str, Any] = {
    "type": "append_entries",
    "term": 7,
    "seq": 12,
    "prevLogIdx": 40,
    "prevLogTerm": 6,
    "commit_index": 39,
    "entries": [(b"first", 41, 6), (b"\x01", 42, 7)],
}
INTEGERS = {name: 3 for fields in frames._INT_FIELDS.values() for name in fields}
OTHERS: dict[str, Any] = {
    "base": [5, 4, 3, 2, b"digest"],
    "success": True,
    "reset": False,
    "inc": "x",
    "granted": True,
    "index": None,
    "entries": [],
}


def whole(message: dict[str, Any], *, compress: bool = False) -> bytes:
    return b"".join(frames.encode_message(message, EntryEncoder(), compress=compress))


class FakeTransport:
    def __init__(self) -> None:
        self.written = bytearray()
        self.closed = False

    def set_write_buffer_limits(self, **_: int) -> None: ...

    def get_extra_info(self, _name: str) -> None: ...

    def writelines(self, parts: Any) -> None:
        for part in parts:
            self.written += part

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.closed

    def abort(self) -> None:
        self.closed = True

    close = abort


class Events:
    def __init__(self) -> None:
        self.hellos: list[Hello] = []
        self.messages: list[Any] = []
        self.lost: list[str] = []

    def on_open(self, link: Link) -> None: ...

    def on_hello(self, link: Link, hello: Hello) -> None:
        self.hellos.append(hello)
        link.peer = hello.node_id

    def on_message(self, link: Link, message: Any) -> None:
        self.messages.append(message)

    def on_life(self, link: Link, in_message: bool) -> None: ...

    def on_lost(self, link: Link, reason: str) -> None:
        self.lost.append(reason)


class End:
    """One link with its transport and its clock."""

    def __init__(self, *, greeted: bool = True) -> None:
        self.now, self.events, self.transport = 5.0, Events(), FakeTransport()
        self.link = Link(self.events, EntryEncoder(), lambda: self.now, None)
        self.link.connection_made(self.transport)
        if greeted:
            self.link.peer = "b"


def test_golden_bytes() -> None:
    made = frames.encode_hello(HELLO) + frames.PING_FRAME
    for frame in frames.into_frames(Kind.MESSAGE, frames.encode_message(APPEND, EntryEncoder(), compress=False)):
        made += b"".join(frame)
    assert made == GOLDEN.read_bytes()
    end = End(greeted=False)
    end.link.data_received(made)
    assert end.events.hellos == [HELLO] and end.events.messages == [APPEND]


@pytest.mark.parametrize("kind", sorted(frames._INT_FIELDS))
def test_every_type_comes_back(kind: str) -> None:
    message: dict[str, Any] = {"type": kind}
    message |= {name: INTEGERS[name] for name in frames._INT_FIELDS[kind]}
    message |= {name: OTHERS[name] for name in frames._OTHER_FIELDS.get(kind, {})}
    assert frames.decode_message(whole(message)) == message
    for name in message:
        if name == "index" or name == "entries":
            continue
        with pytest.raises(BadFrame):
            frames.decode_message(whole({key: value for key, value in message.items() if key != name}))
        with pytest.raises(BadFrame):
            frames.decode_message(whole(message | {name: 1.5}))


@given(
    commands=st.lists(st.binary(min_size=1, max_size=200_000), max_size=4),
    cuts=st.lists(st.integers(1, 70_000), min_size=1, max_size=20),
    compress=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_a_message_comes_back_whatever_pieces_the_socket_makes(
    commands: list[bytes], cuts: list[int], compress: bool
) -> None:
    message = APPEND | {"entries": [(command, index, 9) for index, command in enumerate(commands)]}
    parts = frames.encode_message(message, EntryEncoder(), compress=compress)
    wire = b"".join(b"".join(frame) for frame in frames.into_frames(Kind.MESSAGE, parts))
    end, at, turn = End(), 0, 0
    while at < len(wire):
        step = cuts[turn % len(cuts)]
        end.link.data_received(wire[at : at + step])
        at, turn = at + step, turn + 1
    assert end.events.messages == [message]


def test_an_urgent_message_overtakes_the_rest_of_a_large_one() -> None:
    here, there = End(), End()
    large = APPEND | {"entries": [(bytes(300_000), 41, 7)]}
    here.link.pause_writing()
    here.link.send(large)
    here.link.send({"type": "ping", "term": 7, "round": 1})
    here.link.resume_writing()
    there.link.data_received(bytes(here.transport.written))
    assert [message["type"] for message in there.events.messages] == ["ping", "append_entries"]


def test_a_backlog_makes_entries_small() -> None:
    end = End()
    end.link.pause_writing()
    for index in range(10):
        end.link.send(APPEND | {"entries": [(bytes(200_000), index, 7)]})
    assert end.link.backlog_bytes < 5 * 200_100
    end.link.resume_writing()
    there = End()
    there.link.data_received(bytes(end.transport.written))
    assert [message["entries"][0][0] for message in there.events.messages] == [bytes(200_000)] * 10


def test_a_command_is_hashed_and_compressed_once_for_all() -> None:
    encoder = EntryEncoder(bytes_max=250_000)
    command = bytes(100_000)
    first, crc = encoder.wire(command, 5, True)
    assert encoder.wire(command, 5, True)[0] is first and crc == crc32(first)
    other = bytes(100_001)
    assert encoder.wire(other, 5, False) == (other, crc32(other))  # another entry took the index
    for index in range(10):
        encoder.wire(command, index, False)
    assert len(encoder._known) == 2


@pytest.mark.parametrize("at", range(12))
def test_a_damaged_head_closes_the_link(at: int) -> None:
    end = End()
    wire = bytearray(frames.PING_FRAME)
    wire[at] ^= 0x40
    end.link.data_received(bytes(wire) + bytes(70_000))
    assert end.transport.closed and not end.events.messages


def test_a_damaged_command_is_no_message() -> None:
    wire = bytearray(whole(APPEND))
    wire[-3] ^= 1
    with pytest.raises(BadFrame, match="entry 41"):
        frames.decode_message(bytes(wire))


def test_a_message_before_the_hello_closes_the_link() -> None:
    end = End(greeted=False)
    for frame in frames.into_frames(Kind.MESSAGE, [whole(APPEND)]):
        end.link.data_received(b"".join(frame))
    assert end.transport.closed and not end.events.messages


def test_a_message_without_an_end_closes_the_link() -> None:
    end = End()
    piece = frames.frame_head(Kind.MESSAGE, 65536, frames.MORE) + bytes(65536)
    for _ in range(frames.MESSAGE_BYTES_MAX // 65536 + 1):
        end.link.data_received(piece)
    assert end.transport.closed


def test_signs_of_life() -> None:
    end = End()
    end.link.watch(end.now + PING_S / 2)
    assert not end.transport.written
    end.link.watch(end.now + PING_S + 0.001)
    assert end.transport.written == frames.PING_FRAME
    end.now += DEAD_S
    end.link.data_received(frames.PING_FRAME)
    end.link.watch(end.now + DEAD_S)
    assert not end.transport.closed
    end.link.watch(end.now + DEAD_S + 0.01)
    assert end.transport.closed


@given(st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_message_or_a_bad_frame(payload: bytes) -> None:
    try:
        message = frames.decode_message(payload)
    except BadFrame:
        return
    assert message["type"] in frames._INT_FIELDS


@given(header=st.dictionaries(st.sampled_from(["type", *INTEGERS, *OTHERS]), st.none() | st.integers() | st.text()))
@settings(max_examples=300, deadline=None)
def test_any_header_is_a_message_or_a_bad_frame(header: dict[str, Any]) -> None:
    try:
        body = frames._encode(header)
    except OverflowError:
        return
    try:
        message = frames.decode_message(frames.MESSAGE_HEAD.pack(len(body), crc32(body)) + body)
    except BadFrame:
        return
    assert all(message[name] >= -1 for name in frames._INT_FIELDS[message["type"]])
