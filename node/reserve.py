"""Room: whether applying an entry is covered before it is journalled, so that a full disk refuses and never crashes.

Estimates are upper bounds. What frees space (deletes, unpins, rollbacks, ticks) is admitted even where only the ballast
is left, so that a full cluster can be emptied.
"""

from __future__ import annotations

from typing import Final

from node.commands import CreateSpace, Operation, StagePart, Tx, decode_command
from node.registry import Registry
from wal.disk import Disk

PAGE_SIZE_DEFAULT: Final = 4096
UNDO_HEAD_BYTES: Final = 512  # of an undo record beside its before-images: head, id, one page, one range
UNDO_RANGE_BYTES: Final = 96  # of each further range and its pages
TAKING: Final = (Tx, StagePart, CreateSpace)  # all others are small, and free space or make it visible


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
    """Answers whether an entry may be journalled. The disk is asked each time: what an earlier look saw may have become
    an extent of the heap, a segment or a checkpoint meanwhile.

    A heap that grows must leave `spare_bytes`, which are for what comes and goes: journal, undo log, checkpoint,
    entries on their way. A command that finds its slots free may use half of them: a checkpoint gives them back, and
    slots that a delete freed are of use only if commands still get in.
    """

    def __init__(self, registry: Registry, disk: Disk, folder: str, *, spare_bytes: int) -> None:
        self.registry = registry
        self.disk = disk
        self.folder = folder
        self.spare_bytes = spare_bytes

    def can_accept(self, raw: bytes | memoryview) -> bool:
        """Whether applying the command is covered. Raises BadCommand.

        The first look is cheap and pessimistic: it takes the whole command for writes of one byte.
        """
        free = self.disk.free_bytes(self.folder)
        heaps = self.registry.heaps.heaps
        pessimistic = len(raw) * 2 * max((heap.page_size for heap in heaps.values()), default=PAGE_SIZE_DEFAULT) // 8
        if pessimistic < free - self.spare_bytes:
            return True
        operations = decode_command(raw).operations
        if not any(type(operation) in TAKING for operation in operations):
            return True
        growth = 0
        for page_size, slots in slots_needed(self.registry, operations).items():
            heap = heaps.get(page_size)
            if heap is not None and heap.free_slots < slots:
                heap.settle()  # what a delete or a checkpoint let go counts
            growth += max(0, slots - (heap.free_slots if heap is not None else 0)) * page_size
        passing = len(raw) + undo_bytes(operations)  # kept by journal and undo log until a checkpoint covers it
        spare = self.spare_bytes if growth else self.spare_bytes // 2
        return growth + passing <= free - spare
