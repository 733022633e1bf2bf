"""Exactly once: idempotency keys and SDK sessions. What the log decided is answered again, never redone."""

from __future__ import annotations

from collections.abc import Iterator

from node.commands import Ident, Key
from node.results import Refused, Replayed, Result
from node.settings import Limits

# Refusals that depend on the moment or on the shape of the request: the same key may come again.
NOT_STORED = frozenset({"bad_request", "too_large", "rate_limited", "no_leader", "installing", "storage_full"})


class KeyRow:
    """What was decided under one key. `due_ms`: replicated time at which it is forgotten."""

    __slots__ = ("due_ms", "fingerprint", "result")

    def __init__(self, fingerprint: bytes, result: Result, due_ms: int) -> None:
        self.fingerprint = fingerprint
        self.result = result
        self.due_ms = due_ms


class Session:
    """One SDK session: results of sequences from `ack` up, those below are answered and forgotten."""

    __slots__ = ("ack", "results", "used_ms")

    def __init__(self, used_ms: int) -> None:
        self.ack = 1
        self.results: dict[int, Result] = {}
        self.used_ms = used_ms


class IdempotencyBook:
    """Both tables, with what changed since the last freeze (for the checkpoint)."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.keys: dict[str, KeyRow] = {}  # in order of `due_ms`
        self.sessions: dict[int, Session] = {}
        self.session_seq = 0  # id of the newest session ever opened
        self.changed_keys: set[str] = set()
        self.changed_sessions: set[int] = set()

    def decided(self, ident: Ident, now_ms: int) -> Replayed | Refused | None:
        """None when the request is new and may be applied; else its answer."""
        if type(ident) is Key:
            row = self.keys.get(ident.key)
            if row is None:
                if len(self.keys) >= self.limits.keys_max:
                    return Refused("rate_limited", f"{len(self.keys)} idempotency keys are kept, at most that many")
                return None
            if row.fingerprint != ident.fingerprint:
                return Refused("idempotency_conflict", f"another request was made under the key {ident.key!r}")
            return Replayed(row.result)
        session = self.sessions.get(ident.session)  # type: ignore[union-attr]
        if session is None:
            return Refused("gone", f"session {ident.session} has ended or never was")  # type: ignore[union-attr]
        return self._seat(session, ident.session, ident.seq, ident.ack, now_ms)  # type: ignore[union-attr]

    def _seat(self, session: Session, number: int, seq: int, ack: int, now_ms: int) -> Replayed | Refused | None:
        session.used_ms = now_ms
        self.changed_sessions.add(number)
        low = session.ack
        if ack > low:
            results = session.results
            if ack - low > len(results):
                session.results = {known: result for known, result in results.items() if known >= ack}
            else:
                for known in range(low, ack):
                    results.pop(known, None)
            session.ack = low = ack
        if seq < low:
            return Refused("gone", f"seq {seq} of session {number} was answered before {low} and is forgotten")
        found = session.results.get(seq)
        if found is not None:
            return Replayed(found)
        if seq >= low + self.limits.session_window:
            return Refused("rate_limited", f"seq {seq} is {self.limits.session_window} or more above ack {low}")
        return None

    def store(self, ident: Ident, result: Result, now_ms: int) -> None:
        """Keeps what was decided, unless it is a refusal that is not kept."""
        if type(result) is Refused and result.code in NOT_STORED:
            return
        if type(ident) is Key:
            self.keys[ident.key] = KeyRow(ident.fingerprint, result, now_ms + self.limits.key_ttl_ms)
            self.changed_keys.add(ident.key)
        else:
            number: int = ident.session  # type: ignore[union-attr]
            self.sessions[number].results[ident.seq] = result  # type: ignore[union-attr]

    def open_session(self, now_ms: int) -> int | Refused:
        """Id of a new session."""
        if len(self.sessions) >= self.limits.sessions_max:
            return Refused("rate_limited", f"{len(self.sessions)} sessions are open, at most that many")
        self.session_seq += 1
        self.sessions[self.session_seq] = Session(now_ms)
        self.changed_sessions.add(self.session_seq)
        return self.session_seq

    def expire_keys(self, now_ms: int) -> None:
        """Forgets the keys that are due."""
        keys = self.keys
        while keys:
            name = next(iter(keys))
            if keys[name].due_ms > now_ms:
                return
            del keys[name]
            self.changed_keys.add(name)

    def expire_session(self, number: int, now_ms: int) -> int | None:
        """Ends the session if it was unused for so long; else when to look again, None if it is gone."""
        session = self.sessions.get(number)
        if session is None:
            return None
        due_ms = session.used_ms + self.limits.session_idle_ms
        if due_ms > now_ms:
            return due_ms
        del self.sessions[number]
        self.changed_sessions.add(number)
        return None

    def take_changed(self) -> tuple[set[str], set[int]]:
        """Keys and sessions that changed since the last call."""
        changed = self.changed_keys, self.changed_sessions
        self.changed_keys, self.changed_sessions = set(), set()
        return changed

    def session_numbers(self) -> Iterator[int]:
        return iter(self.sessions)
