"""Every command against a fake cluster: what it does, what it prints for people and as JSON."""

from __future__ import annotations

import base64
import os
from pathlib import Path

import click
import pytest

from cluster.cli.main import cli
from cluster.cli.output import size_text
from tests.unit.cli.conftest import Run
from tests.unit.sdk.fake_server import FakeCluster


def walk(command: click.Command, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], click.Command]]:
    found = [(path, command)]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None, name
            found += walk(child, (*path, name))
    return found


@pytest.mark.parametrize("path", [path for path, _ in walk(cli)])
def test_every_command_has_help_with_an_example(run: Run, path: tuple[str, ...]) -> None:
    done = run(*path, "--help")
    assert done.code == 0
    assert "Example" in done.text


def test_every_leaf_takes_json() -> None:
    for path, command in walk(cli):
        if not isinstance(command, click.Group) and path and path[0] not in ("chaos", "demo"):
            assert any(option.name == "as_json" for option in command.params), path


def test_spaces(run: Run) -> None:
    made = run("space", "create", "room", "--ring", 3, "--json")
    assert (made.code, made.json["name"], made.json["policy"]["ring"]) == (0, "room", 3)
    run("space", "create", "other", "--page-size", 8192)
    assert [one["name"] for one in run("space", "list", "--json").json] == ["other", "room"]
    table = run("space", "list", "--prefix", "ro").text.splitlines()
    assert table[0].split()[:2] == ["SPACE", "SIZE"] and len(table) == 2
    assert "page size      8192" in run("space", "show", "other").text
    refused = run("space", "create", "other", "--page-size", 4096)
    assert refused.code == 1 and "conflict" in refused.err
    assert run("space", "delete", "room", "--json").json == {"deleted": "room"}
    assert run("space", "show", "room").code == 1


def test_write_and_read(run: Run, tmp_path: Path) -> None:
    run("space", "create", "room")
    (tmp_path / "f").write_bytes(b"from a file")
    assert run("write", "room", "--offset", 3, tmp_path / "f", "--json").json["lvc"] == 1
    assert "lvc 2" in run("write", "room", "--offset", 0, "-", input=b"abc").text
    assert run("read", "room", "--offset", 2, "--length", 5).out == b"cfrom"
    assert run("read", "room").out == b"abcfrom a file"
    assert run("read", "room", "--at-lvc", 1, "--length", 4).out == b"\0\0\0f"
    got = run("read", "room", "--length", 3, "--json").json
    assert (base64.b64decode(got["data"]), got["length"]) == (b"abc", 3)
    assert run("read", "room", "-o", tmp_path / "out", "--json").json["length"] == 14
    assert (tmp_path / "out").read_bytes() == b"abcfrom a file"
    assert run("snapshot", "list", "room", "--json").json == []  # a long read leaves nothing behind
    assert run("read", "room", "--offset", 14, "--length", 1).out == b""
    assert run("read", "room", "--offset", 15, "--length", 1).code == 1
    assert run("read", "room", "--offset", 15).code == 1
    assert run("write", "room", "--offset", 0, "--if-lvc", 7, "-", input=b"x").code == 1
    assert run("write", "room", "--offset", 0, "-", input=b"").code == 2


def test_import_and_export(run: Run, tmp_path: Path) -> None:
    run("space", "create", "room")
    content = os.urandom((2 << 20) + 5)
    (tmp_path / "in").write_bytes(content)
    done = run("import", "room", tmp_path / "in", "--json").json
    assert (done["bytes"], done["rollback_lvc"]) == (len(content), 0)
    run("snapshot", "create", "room", "--label", "v1")
    run("write", "room", "--offset", 0, "-", input=b"later")
    assert run("export", "room@v1", tmp_path / "out").code == 0
    assert (tmp_path / "out").read_bytes() == content
    assert run("export", "room", tmp_path / "live", "--json").json["bytes"] == len(content)
    assert (tmp_path / "live").read_bytes()[:5] == b"later"
    assert run("export", "room", tmp_path / "no" / "folder").code == 2
    assert run("export", "room@v2", tmp_path / "x").code == 1
    assert not (tmp_path / "x").exists()


def test_a_failed_import_names_the_lvc_to_go_back_to(run: Run, cluster: FakeCluster, tmp_path: Path) -> None:
    run("space", "create", "room")
    run("write", "room", "--offset", 0, "-", input=b"x")
    (tmp_path / "in").write_bytes(os.urandom(3 << 20))
    cluster.fail_writes_from = 1 << 20
    failed = run("import", "room", tmp_path / "in", "--json")
    assert failed.code == 1
    assert failed.json["error"]["rollback_lvc"] == 1
    assert "roll back to LVC 1" in failed.err


def test_snapshots(run: Run) -> None:
    run("space", "create", "room")
    made = run("snapshot", "create", "room", "--label", "v1", "--json").json
    assert (made["id"], made["label"], made["pins"]) == (1, "v1", [])
    run("write", "room", "--offset", 5000, "-", input=b"x")
    run("snapshot", "create", "room")
    assert [one["id"] for one in run("snapshot", "list", "room", "--json").json] == [2, 1]
    assert [one["id"] for one in run("snapshot", "list", "room", "--limit", 1, "--json").json] == [2]
    assert "label        v1" in run("snapshot", "show", "room", "@v1").text
    assert run("snapshot", "diff", "room", "@v1", "2", "--json").json["pages_changed"] == 2
    assert "2 pages changed (8.0 KiB)" in run("snapshot", "diff", "room", "1").text
    assert "pinned by me" in run("snapshot", "pin", "room", "1", "--holder", "me").text
    assert run("snapshot", "delete", "room", "1").code == 1
    assert run("snapshot", "unpin", "room", "1", "--holder", "me", "--json").json["pins"] == []
    assert run("snapshot", "delete", "room", "1", "--json").json == {"space": "room", "deleted": "1"}
    run("space", "create", "room-2")
    cut = run("snapshot", "create", "room", "room-2", "--label", "cut", "--json").json
    assert [one["space"] for one in cut["snapshots"]] == ["room", "room-2"]
    assert "room-2" in run("snapshot", "create", "--prefix", "room-").text


def test_rollback_and_wal(run: Run) -> None:
    run("space", "create", "room")
    run("write", "room", "--offset", 0, "-", input=b"good")
    run("snapshot", "create", "room", "--label", "v1")
    run("write", "room", "--offset", 0, "-", input=b"bad!")
    dry = run("rollback", "room", "@v1", "--dry-run", "--json").json
    assert (dry["dry_run"], dry["pages_changed"], dry["ranges"]) == (True, 1, [[0, 1]])
    assert "1 pages would change" in run("rollback", "room", "@v1", "--dry-run").text
    done = run("rollback", "room", "@v1", "--json").json
    assert (done["from_lvc"], done["to_lvc"], done["lvc"], done["snapshot"]) == (2, 1, 3, 1)
    assert run("read", "room", "--length", 4).out == b"good"
    assert "to lvc          2" in run("rollback", "room", "--lvc", 2).text
    assert run("read", "room", "--length", 4).out == b"bad!"
    outside = run("rollback", "room", "--lvc", 99, "--json")
    assert (outside.code, outside.json["error"]["newest_lvc"]) == (1, 4)
    records = run("wal", "room", "--json").lines
    assert [base64.b64decode(one["before"]) for one in records] == [b"", b"good"]
    assert len(run("wal", "room", "--limit", 1).text.splitlines()) == 2


def test_status_watch_and_transfers(run: Run, cluster: FakeCluster, url: str) -> None:
    assert run("status", "--json").json["leader"] == "n1"
    assert url in run("status").text
    cluster.events = [
        {"seq": 1, "index": 5, "type": "snapshot.created", "space": "a", "at": "t", "snapshot": 7},
        {"seq": 2, "index": 6, "type": "rollback.confirmed", "space": "a", "at": "t", "to_lvc": 3},
    ]
    seen = run("watch", "--after", 0, "--count", 2, "--json").lines
    assert seen == cluster.events
    only = run("watch", "--after", 0, "--count", 1, "--types", "rollback.confirmed").text
    assert "rollback.confirmed" in only and "to_lvc=3" in only
    assert run("transfers", "--json").json == []


def test_bench_prints_figures(run: Run, cluster: FakeCluster) -> None:
    done = run("bench", "--seconds", 0.2, "--pages", 32)
    assert done.code == 0
    names = [line.partition(":")[0] for line in done.text.splitlines()]
    for in_flight in (1, 16, 64, 256):
        assert f"writes_256B_{in_flight}_in_flight_per_s" in names
    assert "snapshots_1_page_64_in_flight_per_s" in names
    assert "rollback_32_pages_15pct_p99" in names
    assert cluster.spaces == {}
    figures = run("bench", "--seconds", 0.2, "--only", "reads", "--json").lines
    assert all(set(one) == {"name", "value", "unit"} for one in figures)
    assert run("bench", "--only", "nothing").code == 2


def test_sizes_for_people() -> None:
    assert [size_text(n) for n in (0, 1023, 4096, 3 << 30, None)] == ["0 B", "1023 B", "4.0 KiB", "3.0 GiB", None]
