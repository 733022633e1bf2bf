"""The engine's module, checked and loaded apart.

Every core executes its own copy of `pysyncobj/syncobj.py` with its own clock, chance and journal in the module's
globals, so nothing is patched in the library that other code imports. Before that the installed library must be
exactly the one that this adapter was written and tested against: version, hash, and every private name.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import CodeType, ModuleType, SimpleNamespace
from typing import Any, Final, NoReturn

from wal.checks import FailStop

PACKAGE: Final = "pysyncobj"
VERSION: Final = "0.3.17"  # of the distribution; the library's own constant is not to be trusted
SOURCE_SHA256: Final = "e8bdf06797085d734df86e24ab4802fe87893dff77268565ec036f7ad4a1cfe4"

# Methods that the adapter overrides or calls, then attributes that it reads or sets.
PRIVATE_METHODS: Final = (
    "__connectedToAnyone",
    "__applyLogEntries",
    "__getCurrentLogIndex",
    "__doApplyCommand",
    "__sendAppendEntries",
    "__loadDumpFile",
    "__onMessageReceived",
    "__generateRaftTimeout",
    "__tryLogCompaction",
)
PRIVATE_ATTRIBUTES: Final = (
    "__raftLog",
    "__raftState",
    "__raftLeader",
    "__raftLastApplied",
    "__raftCommitIndex",
    "__raftCurrentTerm",
    "__raftNextIndex",
    "__raftMatchIndex",
    "__raftElectionDeadline",
    "__connectedNodes",
    "__lastResponseTime",
    "__serializer",
    "__transferInProgress",
    "__newAppendEntriesTime",
)
GLOBALS: Final = ("monotonicTime", "random", "time", "pickle", "createJournal", "createPoller", "PIPE_NOTIFIER_ENABLED")


class WrongEngine(Exception):
    """The installed PySyncObj is not the one that this adapter makes safe; the text says what differs."""


class _Refusing:
    """Stands where the engine imports pickle: the adapter sends and journals raw bytes only."""

    def __getattr__(self, name: str) -> NoReturn:
        raise FailStop("the engine asked for pickle", function=name)


class _NoPoller:
    """The host waits for events; the engine only ticks."""

    def subscribe(self, *_: object) -> None: ...

    def unsubscribe(self, *_: object) -> None: ...

    def poll(self, _timeout: float) -> None: ...


def check_source(source: bytes, version: str) -> None:
    """Raise WrongEngine unless version, hash and private names are those that the adapter knows."""
    if version != VERSION:
        raise WrongEngine(f"{PACKAGE} {version} is installed, this adapter is made for exactly {VERSION}")
    text = source.decode()
    missing = [name for name in PRIVATE_METHODS if f"def {name}(self" not in text]
    missing += [name for name in PRIVATE_ATTRIBUTES if f"self.{name}" not in text]
    missing += [name for name in GLOBALS if name not in text]
    if missing:
        raise WrongEngine(f"{PACKAGE} {version} lacks {', '.join(missing)}")
    found = hashlib.sha256(source).hexdigest()
    if found != SOURCE_SHA256:
        raise WrongEngine(f"{PACKAGE}/syncobj.py has sha256 {found}, this adapter is made for {SOURCE_SHA256}")


@lru_cache(maxsize=1)
def _checked_code() -> tuple[CodeType, str]:
    package = importlib.util.find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise WrongEngine(f"{PACKAGE} is not installed")
    path = Path(package.submodule_search_locations[0]) / "syncobj.py"
    source = path.read_bytes()
    check_source(source, importlib.metadata.version(PACKAGE))
    return compile(source, str(path), "exec"), str(path)


def check_installed() -> None:
    """Raise WrongEngine unless the engine may be used; called at node start, before anything opens."""
    _checked_code()


def load_engine(*, now: Callable[[], float], random: Callable[[], float], journal: object) -> Any:
    """A fresh copy of the engine's module whose clock, chance and journal are the given ones."""
    code, path = _checked_code()
    module = ModuleType(f"{PACKAGE}.syncobj_of_lastgood")
    module.__package__ = PACKAGE
    module.__file__ = path
    exec(code, module.__dict__)  # the library's own file, hash checked
    engine: Any = module
    engine.monotonicTime = now
    engine.random = SimpleNamespace(random=random)
    engine.time = SimpleNamespace(time=now, sleep=_never_sleep)
    engine.pickle = _Refusing()
    engine.createJournal = lambda _path: journal
    engine.createPoller = lambda _kind: _NoPoller()
    engine.PIPE_NOTIFIER_ENABLED = False
    engine.logger.disabled = True
    return engine


def _never_sleep(seconds: float) -> NoReturn:
    raise FailStop("the engine wanted to sleep", seconds=seconds)
