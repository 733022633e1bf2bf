"""The engine must be exactly the one that the adapter was made for, and every core has a copy of its own."""

from __future__ import annotations

from pathlib import Path

import pysyncobj.syncobj
import pytest

from cluster.consensus import guard
from wal.checks import FailStop

SOURCE = Path(pysyncobj.syncobj.__file__).read_bytes()


def test_the_installed_engine_is_the_known_one() -> None:
    guard.check_installed()


def test_another_version_is_refused() -> None:
    with pytest.raises(guard.WrongEngine, match=r"0\.3\.18 is installed"):
        guard.check_source(SOURCE, "0.3.18")


@pytest.mark.parametrize("name", [*guard.PRIVATE_METHODS, *guard.PRIVATE_ATTRIBUTES])
def test_a_missing_private_name_is_named(name: str) -> None:
    with pytest.raises(guard.WrongEngine, match=f"lacks .*{name}"):
        guard.check_source(SOURCE.replace(name.encode(), b"__elsewhere"), guard.VERSION)


def test_one_changed_byte_is_refused() -> None:
    with pytest.raises(guard.WrongEngine, match="sha256"):
        guard.check_source(SOURCE + b"\n", guard.VERSION)


def test_cores_share_no_globals_with_each_other_or_the_library() -> None:
    one = guard.load_engine(now=lambda: 1.0, random=lambda: 0.5, journal="one")
    two = guard.load_engine(now=lambda: 2.0, random=lambda: 0.5, journal="two")
    assert (one.monotonicTime(), two.monotonicTime()) == (1.0, 2.0)
    assert (one.createJournal(None), two.createJournal(None)) == ("one", "two")
    assert pysyncobj.syncobj.SyncObj is not one.SyncObj is not two.SyncObj
    assert pysyncobj.syncobj.pickle.__name__ == "pysyncobj.pickle"


@pytest.mark.parametrize("call", [lambda engine: engine.pickle.loads(b""), lambda engine: engine.time.sleep(1)])
def test_pickle_and_sleep_stop_the_node(call: object) -> None:
    engine = guard.load_engine(now=lambda: 1.0, random=lambda: 0.5, journal=None)
    with pytest.raises(FailStop):
        call(engine)
