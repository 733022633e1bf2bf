"""Room: whether applying an entry is covered before it is journalled, so that a full disk refuses and never crashes.

Estimates are upper bounds. What frees space (deletes, unpins, rollbacks, ticks) is admitted even where only the ballast
is left, so that a full cluster can be emptied.
"""

from __future__ import annotations

from typing import Final

from node.commands import CreateSpace, Operation, Tx, decode_command
from node.registry import Registry
from wal.disk import Disk

PAGE_SIZE_DEFAULT: Final = 4096
UNDO_HEAD_BYTES: Final = 512  # of an undo record beside its before-images: head, id, one page, one range
UNDO_RANGE_BYTES: Final = 96  # of each further range and its pages
CHECK_BYTES: Final = 16 << 20  # the disk is asked again after so many bytes were admitted


def slots_needed(registry: Registry, operations: list[Operation]) -> dict[int, int]:
    """Per page size: an upper bound of the slots that applying the operations takes from the heap."""
    needed: dict[int, int] = {}
    created: dict[str, int] = {}
    for operation in operations:
        if type(operation) is CreateSpace:
            created[operation.space] = operation.page_size or PAGE_SIZE_DEFAULT
            needed.setdefault(created[operation.space], 1)
        if type(operation) is not Tx:
            continue
        space = registry.by_name.get(operation.space)
        page_size = space.page_size if space is not None else created.get(operation.space, PAGE_SIZE_DEFAULT)
        slots = 2 * len(operation.writes) + sum(len(block) for _, block in operation.writes) // page_size
        if operation.stage is not None and operation.stage in registry.stages.stages:
            for writes in registry.stages.stages[operation.stage].parts.values():
                slots += 2 * len(writes) + sum(len(block) for _, block in writes) // page_size
        needed[page_size] = needed.get(page_size, 0) + slots + (operation.size is not None)
    return needed


def undo_bytes(operations: list[Operation]) -> int:
    """An upper bound of the undo log's growth by these transactions (staged parts count when they are committed)."""
    total = 0
    for operation in operations:
        if type(operation) is Tx:
            total += UNDO_HEAD_BYTES + UNDO_RANGE_BYTES * len(operation.writes)
            total += sum(len(block) for _, block in operation.writes)
    return total


class Reserve:
    """Answers whether an entry may be journalled. `ballast_bytes` is the size of the file that one checkpoint may use.

    The free space of the disk is asked for at most once per `CHECK_BYTES` of admitted entries, with that much to spare.
    """

    def __init__(self, registry: Registry, disk: Disk, folder: str, *, spare_bytes: int) -> None:
        self.registry = registry
        self.disk = disk
        self.folder = folder
        self.spare_bytes = spare_bytes  # kept free for the journal, the checkpoint and the undo log's next segment
        self._admitted = CHECK_BYTES
        self._room = 0

    def can_accept(self, raw: bytes | memoryview) -> bool:
        """Whether applying the command is covered. Raises BadCommand.

        The first look is cheap and pessimistic: it takes the whole command for writes of one byte.
        """
        room = self._look()
        pessimistic = (
            len(raw) * 2 * max((heap.page_size for heap in self.registry.heaps.heaps.values()), default=4096) // 8
        )
        if pessimistic < room:
            self._admitted += pessimistic
            return True
        operations = decode_command(raw).operations
        transactions = [operation for operation in operations if type(operation) is Tx]
        if not transactions and not any(type(operation) is CreateSpace for operation in operations):
            return True
        missing = undo_bytes(operations)
        for page_size, slots in slots_needed(self.registry, operations).items():
            heap = self.registry.heaps.heaps.get(page_size)
            free = heap.free_slots if heap is not None else 0
            missing += max(0, slots - free) * page_size
        if missing > room:
            self._admitted = CHECK_BYTES
            return False
        self._admitted += missing
        return True

    def _look(self) -> int:
        """Bytes that the disk still has for heaps and undo log, at least."""
        if self._admitted >= CHECK_BYTES:
            self._room = self.disk.free_bytes(self.folder) - self.spare_bytes
            self._admitted = 0
        return self._room - self._admitted
