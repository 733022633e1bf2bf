"""The two codes of the contract that need a cluster of their own: `installing` and `storage_full`."""

import os
import shutil
import subprocess
import time

import pytest

from cluster.local import NODE_COMMAND, LocalCluster
from tests.cluster.contract_client import Client

pytestmark = pytest.mark.cluster

MIB = 1024 * 1024


def unshare_command():
    """How this machine gives a process its own mounts; None when it does not."""
    for flags in (["-m"], ["-Urm"]):
        tried = ["unshare", *flags, "sh", "-c", "mount -t tmpfs -o size=1m none /mnt"]
        if shutil.which("unshare") and subprocess.run(tried, capture_output=True, check=False).returncode == 0:
            return ["unshare", *flags]
    return None


def until(reached, what, seconds=60):
    deadline = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def test_storage_full_and_room_again_after_deletes(tmp_path):
    """The data folder is a small disk: writes are refused by name, deletes are not, and then there is room again."""
    alone = unshare_command()
    if alone is None:
        pytest.skip("no small disk here: neither root nor user namespaces")
    folder = tmp_path / "full"
    script = f'mount -t tmpfs -o size=160m none "{folder}/n1/data" && exec "$@"'
    settings = {
        "journal_bytes_max": 2 * MIB,
        "segment_bytes": 512 * 1024,
        "checkpoint_bytes": MIB,
        "checkpoint_interval_ms": 200,
        "ballast_bytes": 2 * MIB,
        "heap_step_bytes": MIB,
        "undo_bytes_total": 4 * MIB,
    }
    command = [*alone, "sh", "-c", script, "sh", *NODE_COMMAND]
    made = LocalCluster.create(folder, nodes=1, settings=settings, command=command)
    os.makedirs(folder / "n1" / "data", exist_ok=True)
    made.start()
    try:
        made.wait_ready(timeout_s=60)
        api = Client({node.id: node.http for node in made.nodes})
        api.good("PUT", "/v1/spaces/big", {"policy": {"undo_bytes": 0}})
        api.good("PUT", "/v1/spaces/small", {"policy": {"undo_bytes": 0}})
        api.good("PUT", "/v1/spaces/small/data?offset=0", b"kept")
        written, refused = 0, None
        while refused is None:
            reply = api.ask("PUT", f"/v1/spaces/big/data?offset={written}", os.urandom(MIB))
            if reply.status == 200:
                written += MIB
                assert written < 200 * MIB
            else:
                refused = reply
        assert (refused.status, refused.code, refused.body["retryable"]) == (507, "storage_full", True)
        assert written > 4 * MIB
        assert api.good("GET", "/v1/spaces/small/data") == b"kept"
        assert api.good("GET", "/v1/spaces/big")["size"] == written  # what was refused left nothing
        assert api.ask("DELETE", "/v1/spaces/big").status == 204
        until(
            lambda: api.ask("PUT", "/v1/spaces/small/data?offset=0", bytes(MIB)).status == 200,
            "there is no room again after the delete",
        )
    finally:
        made.stop()


def test_installing_is_said_until_the_install_is_done(tmp_path):
    """A follower whose journal no longer leads to the leader's fetches the state slowly, and says so meanwhile."""
    settings = {
        "journal_bytes_max": 512 * 1024,
        "segment_bytes": 128 * 1024,
        "checkpoint_bytes": 128 * 1024,
        "checkpoint_interval_ms": 100,
        "transfer_bytes_per_s_max": 2 * MIB,
        "transfer_frame_bytes": 64 * 1024,
    }
    made = LocalCluster.create(tmp_path / "c", nodes=3, settings=settings)
    made.start()
    try:
        made.wait_ready(timeout_s=60)
        api = Client({node.id: node.http for node in made.nodes})
        api.good("PUT", "/v1/spaces/a")
        behind = next(node for node in made.ids if node != made.leader())
        ahead = next(node for node in made.ids if node != behind)
        made.stop([behind])
        for at in range(12):
            api.good("PUT", f"/v1/spaces/a/data?offset={at * MIB}", os.urandom(MIB), node=ahead)
        made.start([behind])
        seen = None

        def says_so():
            nonlocal seen
            try:
                seen = api.ask("GET", "/v1/spaces/a", node=behind)
            except OSError:
                return False
            return seen.code == "installing"

        until(says_so, "no answer said that the node installs")
        assert (seen.status, seen.body["retryable"]) == (503, True)
        ready = api.raw("GET", "/readyz", node=behind)
        assert ready.status == 503
        assert {key: ready.body[2][key] for key in ("name", "ok")} == {"name": "installing", "ok": False}

        def moves():
            (row,) = [row for row in api.good("GET", "/v1/transfers", node=behind) if row["direction"] == "in"]
            assert row["total_bytes"] > 0 or row["done_bytes"] == 0  # known before the first page
            return row["done_bytes"] > 0

        until(moves, "no bytes of the install come")
        until(lambda: api.raw("GET", "/readyz", node=behind).status == 200, "the install does not end")
        whole = [api.good("GET", "/v1/spaces/a/data", node=node) for node in (ahead, behind)]
        assert whole[0] == whole[1]
    finally:
        made.stop()
