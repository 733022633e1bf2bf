"""Calls from transfer threads to the thread that applies."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeout
from typing import Any, Final

CHECK_S: Final = 0.5


class LoopGone(Exception):
    """The loop has been closed: the node is stopping."""


class LoopCalls:
    """`on_loop` over an asyncio loop: runs a function there and waits for what it returns."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the loop's own thread."""
        self._loop = loop
        self._thread = threading.get_ident()
        self._closed = threading.Event()

    def __call__(self, work: Callable[[], Any]) -> Any:
        """Returns or raises what `work` does. Raises LoopGone when the loop ends first."""
        if threading.get_ident() == self._thread:
            return work()
        future: Future[Any] = Future()

        def run() -> None:
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)

        try:
            self._loop.call_soon_threadsafe(run)
        except RuntimeError as error:
            raise LoopGone from error
        while True:
            try:
                return future.result(CHECK_S)
            except FutureTimeout:
                if future.done():
                    raise
                if self._closed.is_set():
                    raise LoopGone from None

    def close(self) -> None:
        """The loop will not run much longer: threads that wait give up."""
        self._closed.set()
