"""The journal as a list: short, slow, obviously right. What wal.journal must agree with."""

from __future__ import annotations

import copy
from random import Random

from wal.journal import JournalConfig, RaftJournal

SMALL = JournalConfig(bytes_max=4 * 8192, segment_bytes=8192, cache_bytes=2000)


class Twin:
    def __init__(self) -> None:
        self.log: list[tuple[bytes, int, int]] = []
        self.term = 0
        self.vote: str | None = None
        self.base = 0
        self.committed = 0

    def copy(self) -> Twin:
        return copy.deepcopy(self)

    @property
    def last(self) -> int:
        return self.log[-1][1] if self.log else 0


def random_step(rng: Random, twin: Twin, journal: RaftJournal, command_bytes_max: int = 600) -> str:
    """One random operation on both. Returns its name."""
    chance = rng.random()
    if chance < 0.6 or not twin.log:
        term = max(twin.term, twin.log[-1][2] if twin.log else 1)
        entry = (rng.randbytes(rng.randint(0, command_bytes_max)), twin.last + 1, term)
        journal.append(*entry)
        twin.log.append(entry)
        return "append"
    if chance < 0.7:
        twin.term += 1
        twin.vote = rng.choice(["n1", "n2", None])
        journal.set_term(twin.term, twin.vote)
        return "term"
    if chance < 0.8 and twin.last > max(twin.committed, twin.base):
        index = rng.randint(max(twin.committed, twin.base, twin.log[0][1] - 1) + 1, twin.last)
        journal.truncate_from(index)
        twin.log = [entry for entry in twin.log if entry[1] < index]
        return "truncate"
    if chance < 0.88:
        twin.committed = rng.randint(max(twin.committed, twin.base), twin.last) if twin.last else 0
        journal.note_commit(twin.committed)
        return "commit"
    if chance < 0.97 and twin.committed > twin.base:
        twin.base = rng.randint(twin.base + 1, twin.committed)
        journal.compact_to(twin.base)
        return "compact"
    first = twin.last + rng.randint(1, 9)
    terms = [twin.log[-1][2], max(twin.term, twin.log[-1][2])]
    entries = [(rng.randbytes(20), first, terms[0]), (rng.randbytes(30), first + 1, terms[1])]
    journal.reset(entries)
    twin.log, twin.base, twin.committed = list(entries), first, first
    return "reset"


def differences(twin: Twin, journal: RaftJournal) -> str | None:
    """None if the journal holds what the twin does, from its first index on, and nothing above `base` is missing."""
    kept = [entry for entry in twin.log if entry[1] >= journal.first_index]
    if (journal.term, journal.vote) != (twin.term, twin.vote):
        return f"term {journal.term} {journal.vote}, twin {twin.term} {twin.vote}"
    if journal.base != twin.base or journal.last_index != twin.last:
        return f"base {journal.base} last {journal.last_index}, twin {twin.base} {twin.last}"
    if twin.log and journal.first_index > max(twin.base, twin.log[0][1]):
        return f"first {journal.first_index}, twin needs {twin.base}"
    if journal.entries(0, 1 << 60) != kept:
        return "entries differ"
    if [journal.entry(entry[1]) for entry in kept] != kept:
        return "single entries differ"
    if [journal.term_at(entry[1]) for entry in kept] != [entry[2] for entry in kept]:
        return "terms differ"
    return None
