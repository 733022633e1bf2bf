"""Installs: brings a checkpoint here and puts it in place of this node's state, or leaves the old one untouched.

The order: all of it verified and durable → the image committed as this node's checkpoint (one transaction) → the
progress
file gone, durably → the machine takes the state over. A crash anywhere comes up with the old state or the new one;
before
the commit everything received is kept for the next try.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from cluster.consensus.seams import Base
from cluster.log import get_log
from cluster.transfer.bulk_client import BulkClient, Link, PeerAddress, Stopped
from cluster.transfer.frames import Damaged
from cluster.transfer.image_codec import build_frozen, decode_state
from cluster.transfer.landing import Landing
from cluster.transfer.local_state import FrozenLocal
from cluster.transfer.loop_calls import LoopCalls, LoopGone
from cluster.transfer.manifest import META, UNDO, Manifest
from cluster.transfer.progress import ProgressFile
from cluster.transfer.registry import Registry
from node.checkpoint import Checkpointer, Run
from node.checkpoint_digest import ContentDigest
from node.checkpoint_store import NoRoom
from node.heap import Heap, HeapSet
from node.image import FrozenState
from node.state import StateMachine
from node.table import Leaf
from wal.checks import FailStop, invariant
from wal.disk import Disk

log = get_log("cluster.transfer")

PURPOSE: Final = "install"
LEAVES_A_TURN: Final = 256  # made in one turn of the loop
SLOTS_A_TURN: Final = 4096  # let go in one turn of the loop
BUSY_RETRY_S: Final = 0.01
NO_ROOM_RETRY_S: Final = 1.0
FAILED_RETRY_S: Final = 0.5


class Fetcher:
    """Incoming installs of one node, one at a time. Made on the loop thread, after recovery and before the first apply.

    `peers()` lists all other members; the one that the consensus message came from is asked first. `new_id()` makes
    a name
    that no other transfer has.
    """

    def __init__(
        self,
        *,
        machine: StateMachine,
        checkpointer: Checkpointer,
        heaps: HeapSet,
        disk: Disk,
        folder: str,
        calls: LoopCalls,
        peers: Callable[[], Sequence[PeerAddress]],
        registry: Registry,
        link: Link,
        new_id: Callable[[], str],
    ) -> None:
        self._machine = machine
        self._checkpointer = checkpointer
        self._heaps = heaps
        self._calls = calls
        self._peers = peers
        self._registry = registry
        self._link = link
        self._new_id = new_id
        self._stopping = threading.Event()
        self._client: BulkClient | None = None
        self._active = False
        self._landing = Landing(heaps=heaps, progress=ProgressFile(disk, folder), on_loop=calls)
        if self._landing.exists:
            self._landing.open()

    # ------------------------------------------------------------ the host's side

    async def fetch(self, want: Base, source: str) -> Base:
        """Brings the checkpoint `want`, or a newer one, here and into the machine. Returns what the machine now has.

        Tries for ever. Raises only what must stop the process (FailStop, InvariantViolation, OSError of the own disk).
        """
        invariant(not self._active, "one install at a time", index=want.index)
        self._active = True
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Base] = loop.create_future()

        def settle(base: Base | None, error: BaseException | None) -> None:
            self._active = False
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            elif base is not None:
                done.set_result(base)

        def work() -> None:
            try:
                base = self._fetch(want, source)
            except (Stopped, LoopGone):
                return
            except BaseException as error:
                loop.call_soon_threadsafe(settle, None, error)
                return
            loop.call_soon_threadsafe(settle, base, None)

        threading.Thread(target=work, name="install", daemon=True).start()
        try:
            return await done
        except asyncio.CancelledError:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends a running fetch; what was received is kept. Any thread."""
        self._stopping.set()
        self._calls.close()
        client = self._client
        if client is not None:
            client.close()

    def drop_leftovers(self) -> None:
        """Lets go what an unfinished install left: this node has caught up without it. Loop thread."""
        if not self._active and self._landing.exists:
            self._landing.discard()

    def freeze_local(self) -> FrozenLocal:
        """What is here now. Worker thread."""
        while True:
            frozen = self._calls(lambda: None if self._machine.busy else self._machine.freeze(whole=True))
            if frozen is not None:
                return FrozenLocal(frozen, self._heaps)
            self._pause(BUSY_RETRY_S)

    # ------------------------------------------------------------ the install thread

    def _pause(self, seconds: float) -> None:
        if self._stopping.wait(seconds):
            raise Stopped("the node is stopping")

    def _fetch(self, want: Base, source: str) -> Base:
        avoid = ""
        while True:
            manifest, client = self._receive(want, source, avoid)
            try:
                base = self._install(manifest)
            except Damaged as error:
                # The peer's pages were what their digests say, but together they are not the state that it named.
                log.error("transfer.not_the_state", peer=client.tracked.row.peer, reason=str(error))
                self._registry.count(snap_save_failures=1)
                client.finished("failed")
                avoid = client.tracked.row.peer or ""
                self._pause(FAILED_RETRY_S)
                continue
            client.finished("done")
            return base

    def _receive(self, want: Base, source: str, avoid: str) -> tuple[Manifest, BulkClient]:
        landing = self._landing
        if landing.transfer is None:
            self._calls(lambda: landing.open() if not landing.is_open else None)
            landing.name(self._new_id())

        def peers() -> list[PeerAddress]:
            return sorted(self._peers(), key=lambda peer: (peer.id == avoid, peer.id != source))

        client = self._client = BulkClient(
            want=want,
            transfer=landing.transfer or "",
            purpose=PURPOSE,
            peers=peers,
            landing=landing,
            local=self,
            registry=self._registry,
            link=self._link,
        )
        if self._stopping.is_set():
            client.close()
        try:
            return client.run(), client
        except OSError as error:
            raise FailStop("an incoming transfer cannot be stored", error=str(error)) from error
        finally:
            self._client = None

    def _install(self, manifest: Manifest) -> Base:
        """Commits the complete image and hands it to the machine. Raises Damaged when it is not what it says."""
        base = Base(manifest.index, manifest.term, manifest.prev_index, manifest.prev_term, manifest.content)
        frozen = self._build(manifest)
        found = ContentDigest().of(frozen)
        if (frozen.meta.applied_index, found) != (manifest.index, manifest.content):
            raise Damaged(f"state {found.hex()} at {frozen.meta.applied_index}, named {manifest.content.hex()}")
        run = self._begin(frozen, manifest)
        if run is None:
            self._let_go()  # the log was faster
            newest = self._checkpointer.base
            if newest is None:
                return base
            return Base(newest.index, newest.term, newest.prev_index, newest.prev_term, newest.digest)
        self._landing.remove_file()  # durably, before any of its slots can be written
        self._calls(lambda: self._finish(run))
        self._let_go()
        return base

    def _let_go(self) -> None:
        """Ends the landing's hold, a little in each turn of the loop."""
        self._landing.remove_file()
        while self._calls(lambda: self._landing.release_some(SLOTS_A_TURN)):
            pass
        self._landing.forget()

    def _begin(self, frozen: FrozenState, manifest: Manifest) -> Run | None:
        """The committed run; None when this node has applied as much meanwhile."""
        while True:
            found = self._calls(lambda: self._begin_now(frozen, manifest))
            if found is False:
                return None
            if found is None:
                self._pause(BUSY_RETRY_S)
                continue
            run: Run = found
            try:
                self._checkpointer.commit_install(run)
                return run
            except NoRoom as error:
                log.error("transfer.no_room_to_install", reason=str(error))
                self._registry.count(snap_save_failures=1)
                self._calls(self._checkpointer.give_up_install)
                self._pause(NO_ROOM_RETRY_S)

    def _begin_now(self, frozen: FrozenState, manifest: Manifest) -> Run | bool | None:
        if self._machine.applied_index >= manifest.index:
            return False
        if self._machine.busy or self._checkpointer.running:
            return None
        return self._checkpointer.begin_install(
            frozen, prev_index=manifest.prev_index, prev_term=manifest.prev_term, digest=manifest.content
        )

    def _finish(self, run: Run) -> None:
        """Loop thread."""
        index = run.frozen.meta.applied_index
        if self._machine.applied_index > index:
            # Disk has the installed state and the journal after it, memory has a newer one: a restart joins them.
            raise FailStop("entries were applied beside an install", applied=self._machine.applied_index, index=index)
        self._checkpointer.finish_install(run)

    # ------------------------------------------------------------ the image

    def _build(self, manifest: Manifest) -> FrozenState:
        landing = self._landing
        purposes = manifest.chunks["purpose"]
        wire = decode_state(landing.chunks(np.flatnonzero(purposes == META).tolist()))
        leaves = self._make_leaves(manifest)
        stream = _Stream(landing, np.flatnonzero(purposes == UNDO).tolist())
        undo = self._checkpointer.storage.undo

        def append(parts: list[bytes]) -> list[int]:
            positions: list[int] = self._calls(lambda: undo.append_many(parts))
            return positions

        frozen = build_frozen(wire, leaves.__getitem__, stream.take, append)
        invariant(stream.at_end, "all undo records that came are in a window", index=manifest.index)
        return frozen

    def _make_leaves(self, manifest: Manifest) -> list[Leaf]:
        """Leaves by id; their slots are referred to from here on."""
        made: list[Leaf] = []
        waiting: list[tuple[Heap, bytes, bytes] | Leaf] = []
        for leaf_id, row in enumerate(manifest.leaves):
            found: Any = self._landing.leaf(leaf_id)
            if isinstance(found, Leaf):
                waiting.append(found)
            else:
                entries, slots = found
                block = entries.versions.tobytes() + slots.tobytes() + entries.marks.tobytes()
                waiting.append((self._heaps.get(1 << int(row["page_shift"])), block, row["digest"].tobytes()))
            if len(waiting) == LEAVES_A_TURN:
                made += self._calls(partial(_adopt, waiting))
                waiting = []
        made += self._calls(partial(_adopt, waiting))
        return made


def _adopt(batch: Sequence[tuple[Heap, bytes, bytes] | Leaf]) -> list[Leaf]:
    """Loop thread: references to slots are taken here."""
    made = []
    for item in batch:
        if isinstance(item, Leaf):
            made.append(item)
            continue
        heap, block, digest = item
        leaf = Leaf.adopt(heap, block)
        leaf.digest = digest
        made.append(leaf)
    return made


class _Stream:
    """The undo chunks as one row of bytes."""

    def __init__(self, landing: Landing, numbers: list[int]) -> None:
        self._landing = landing
        self._numbers = iter(numbers)
        self._buffer = bytearray()
        self._more = True

    def take(self, nbytes: int) -> bytes:
        while len(self._buffer) < nbytes:
            number = next(self._numbers, None)
            if number is None:
                raise Damaged(f"the undo records end {nbytes - len(self._buffer)} bytes early")
            self._buffer += self._landing.chunk(number)
        taken = bytes(self._buffer[:nbytes])
        del self._buffer[:nbytes]
        return taken

    @property
    def at_end(self) -> bool:
        return not self._buffer and next(self._numbers, None) is None
