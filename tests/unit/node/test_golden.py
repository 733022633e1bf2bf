"""The bytes of commands, undo records and digests are those of docs/format.md. Files: tests/golden/node."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from blake3 import blake3

from node.commands import (
    BadCommand,
    CreateSpace,
    DeleteSnapshot,
    DeleteSpace,
    InitCluster,
    Key,
    OpenSession,
    PinSnapshot,
    Rollback,
    Seat,
    StagePart,
    TakeSnapshots,
    Tick,
    Tx,
    decode_command,
    encode_command,
)
from node.digest import leaf_digest, page_digest, root_digest, zero_leaf_digest
from node.events import Event
from node.faults import LocalCorruption
from node.undo_record import ROLLBACK, TX, decode_record
from tests.unit.node.rig import Rig

GOLDEN = Path(__file__).parents[2] / "golden" / "node"


def golden(name: str, found: bytes) -> None:
    assert (GOLDEN / name).read_bytes() == found, f"{name} is written differently now: that needs a new version"


def every_operation() -> bytes:
    operations = [
        InitCluster("c-1", {"n1": "aa", "n2": "bb"}, {"keys_max": 10}),
        CreateSpace("a", Key("key", b"\x01" * 16), 4096, 100, {"ring": 3, "ttl_s": None, "dirty_ratio": 0.5}),
        CreateSpace("b", from_space="a", from_snapshot="@v1"),
        Tx("a", [(5, b"bytes"), (70_000, b"\x00\xff")], Seat(1, 2, 1), 1, 0, (1, 1, 0), {3: 0}, 9000, "mine", "up", 1),
        StagePart("up", 0, [(1, b"part")]),
        TakeSnapshots(["a", "b"], None, Key("k2", b"\x02" * 16), "v1", "full", 5000, "default", 1),
        TakeSnapshots(prefix="a"),
        DeleteSnapshot("a", "1", None, 2),
        PinSnapshot("a", "@v1", "zoe", False),
        Rollback("a", "@v1", None, None, 1, 7, "why"),
        Rollback("a", to_lvc=3),
        DeleteSpace("a", epoch=4),
        OpenSession(),
        Tick(),
    ]
    return encode_command(operations, stamp_ms=0x0102030405, wall_ms=0x060708090A)


def test_commands():
    raw = every_operation()
    golden("command-every-operation.bin", raw)
    command = decode_command((GOLDEN / "command-every-operation.bin").read_bytes())
    assert encode_command(command.operations, stamp_ms=command.stamp_ms, wall_ms=command.wall_ms) == raw


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_command_of_another_version_is_refused(at):
    raw = bytearray(every_operation())
    raw[at] ^= 3
    with pytest.raises(BadCommand):
        decode_command(bytes(raw))


def records() -> list[memoryview]:
    rig = Rig()
    rig.apply(CreateSpace("a"))
    rig.apply(Tx("a", [(4090, b"0123456789")]), TakeSnapshots(["a"]))
    rig.apply(Tx("a", [(4092, b"abcdefghij"), (0, b"x")], size=4094, tx_id="mine"))
    rig.apply(Rollback("a", snapshot="1"))
    registry = rig.machine.registry
    return [registry.book.raw(registry.by_name["a"].window, lvc) for lvc in (1, 2, 3)]


def test_undo_records():
    found = records()
    golden("undo-records.bin", b"".join(found))
    first, second, turn = [decode_record(raw) for raw in found]
    assert (first.kind, first.tx_id, first.lvc, first.seq, first.size_before) == (TX, "2-0", 1, 1, 0)
    assert (second.tx_id, second.sets_size, second.size_after, second.seq_stop) == ("mine", True, 4094, 5)
    assert [(image.offset, image.length, bytes(image.before)) for image in second.ranges] == [
        (4092, 10, b"23456789"),
        (0, 1, b"\0"),
    ]
    assert (turn.kind, turn.turn, turn.seq) == (ROLLBACK, (2, 1, 1, 2, 2), 5)


def test_an_undo_record_of_another_version_is_refused():
    raw = bytearray(records()[0])
    raw[7] ^= 2
    with pytest.raises(LocalCorruption, match="version"):
        decode_record(memoryview(bytes(raw)))


def story_events() -> bytes:
    """One event of each type that apply makes."""
    rig = Rig()
    rig.apply(CreateSpace("a"), Tx("a", [(0, b"x")]), TakeSnapshots(["a"], label="v1", ttl_ms=10))
    rig.apply(Tx("a", [(0, b"y")]), Rollback("a", "@v1", reason="bad"))
    rig.now_ms += 10
    rig.apply(Tick())
    return msgspec.msgpack.encode(rig.machine.events(0))


def test_events():
    golden("events.bin", story_events())
    found = msgspec.msgpack.decode((GOLDEN / "events.bin").read_bytes(), type=list[Event])
    types = ["snapshot.created", "snapshot.created", "rollback.confirmed", "snapshot.expired"]
    assert [(event.seq, event.type) for event in found] == list(enumerate(types, 1))


def test_digests():
    def digest(context: str, content: bytes) -> bytes:
        return blake3(content, derive_key_context=context).digest(length=16)

    page = b"p" * 4096
    assert page_digest(page) == digest("lastgood v1 page", page)
    leaf = leaf_digest(page_digest(page) * 256)
    assert leaf == digest("lastgood v1 leaf", page_digest(page) * 256)
    root = root_digest(4096, 77, [(0, zero_leaf_digest(4096)), (3, leaf)])
    body = (4096).to_bytes(8, "big") + (77).to_bytes(8, "big") + (3).to_bytes(8, "big") + leaf
    assert root == digest("lastgood v1 root", body)
    golden("digests.bin", page_digest(page) + leaf + root)


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    (GOLDEN / "command-every-operation.bin").write_bytes(every_operation())
    (GOLDEN / "undo-records.bin").write_bytes(b"".join(records()))
    (GOLDEN / "events.bin").write_bytes(story_events())
    page = page_digest(b"p" * 4096)
    leaf = leaf_digest(page * 256)
    (GOLDEN / "digests.bin").write_bytes(page + leaf + root_digest(4096, 77, [(3, leaf)]))
