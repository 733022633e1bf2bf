"""Open calls of one client: seats, retries, deadlines. No I/O, no clock; times are seconds that the caller passes in.

A change takes a seat (session, seq) when it is first sent and keeps it in every retry, so the log decides it once.
`ack` is the lowest seat that has no answer yet. What an attempt left open stays open (`maybe`) until the log answers:
a later attempt that was turned away before the log proves nothing about an earlier one.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import msgspec

from lastgood.answers import SessionOpened
from lastgood.codes import CODES
from lastgood.errors import (
    LastgoodError,
    ProtocolError,
    RateLimited,
    Refused,
    Unavailable,
    UnknownOutcome,
    from_problem,
)
from lastgood.requests import OpenSession, Request, Seated
from lastgood.seats import Seats

Decode = Callable[[Any], Any]

_RETRIED: Final = frozenset({"no_leader", "installing", "unknown_outcome", "rate_limited", "internal"})
_INTERNAL_ATTEMPTS_MAX: Final = 3
_RESEATS_MAX: Final = 3
# Turned away at the door, so these say nothing about an earlier attempt of the same seat.
_BEFORE_THE_LOG: Final = frozenset(
    {"bad_request", "unauthorized", "forbidden", "method_not_allowed", "too_large", "unsupported_media_type"}
    | {"rate_limited", "no_leader", "installing", "storage_full"}
)
UNREADABLE: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What decoding foreign bytes may raise."""
_decode_problem = msgspec.msgpack.Decoder().decode


@dataclass(frozen=True)
class Limits:
    """Bounds of one client. The first two are the server's."""

    open_max: int = 1024
    message_bytes_max: int = 4 * 1024 * 1024 - 4096
    queue_calls_max: int = 65_536
    queue_bytes_max: int = 256 * 1024 * 1024
    retry_min_s: float = 0.03
    retry_max_s: float = 0.5
    rotate_after_s: float = 0.3


class Slot(Protocol):
    """Where an outcome goes; `asyncio.Future` is one."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: BaseException, /) -> None: ...


class Call:
    """One request until its outcome is known. `size` is an upper estimate of its bytes on the wire."""

    __slots__ = (
        "args",
        "attempts",
        "changing",
        "deadline",
        "decode",
        "link",
        "maybe",
        "op",
        "refusal",
        "reseats",
        "retry_at",
        "size",
        "slot",
    )

    def __init__(
        self, op: str, args: Request, decode: Decode, slot: Slot, size: int, deadline: float, changing: bool
    ) -> None:
        self.op = op
        self.args = args
        self.decode = decode
        self.slot = slot
        self.size = size
        self.deadline = deadline
        self.changing = changing
        self.maybe = False
        self.link = -1
        self.attempts = 0
        self.reseats = 0
        self.retry_at = 0.0
        self.refusal: LastgoodError | None = None


Frame = list[tuple[int, str, Request]]


class Calls:
    """A client's calls without an outcome yet, over any number of links (connections, numbered by the driver)."""

    def __init__(self, *, limits: Limits, chance: random.Random) -> None:
        self.limits = limits
        self.queue: deque[Call] = deque()
        self.rotate = False
        """The current link's node keeps turning calls away: the driver should go to another one."""
        self._chance = chance
        self._queued_bytes = 0
        self._seatless: list[Call] = []
        self._later: list[Call] = []
        self._open: dict[int, Call] = {}
        self._open_on: dict[int, int] = {}
        self._next_id = 1
        self._seats = Seats()
        self._opening = False
        self._bad_since: float | None = None

    # ------------------------------------------------------------ in

    def submit(self, call: Call) -> None:
        """Queues a call. Raises RateLimited when the queue is full."""
        limits = self.limits
        if len(self.queue) >= limits.queue_calls_max or self._queued_bytes + call.size > limits.queue_bytes_max:
            raise RateLimited(
                f"{len(self.queue)} calls with {self._queued_bytes} bytes wait to be sent, "
                f"at most {limits.queue_calls_max} and {limits.queue_bytes_max}"
            )
        self._queued_bytes += call.size
        self.queue.append(call)

    @property
    def busy(self) -> bool:
        """True while any call has no outcome."""
        return bool(self._open or self.queue or self._later or self._seatless)

    def open_on(self, link: int) -> int:
        """How many calls were sent over `link` and are not answered."""
        return self._open_on.get(link, 0)

    # ------------------------------------------------------------ out

    def take(self, link: int, now: float) -> Frame:
        """The next message for `link`: queued calls in order, within the bounds of message and open requests."""
        queue, frame = self.queue, Frame()
        room = self.limits.open_max - self._open_on.get(link, 0)
        budget = self.limits.message_bytes_max
        while queue and len(frame) < room:
            call = queue[0]
            if frame and call.size > budget:
                break
            if call.slot.done():  # the caller gave up
                self._dequeue()
                self._release(call)
                continue
            if call.changing and isinstance(call.args, Seated) and not self._seat(call, call.args, now):
                if queue and queue[0] is call:
                    break  # the window is full; an answer makes room
                continue
            self._dequeue()
            budget -= call.size
            number = self._next_id
            self._next_id = number + 1
            self._open[number] = call
            call.link = link
            frame.append((number, call.op, call.args))
        if frame:
            self._open_on[link] = self._open_on.get(link, 0) + len(frame)
        return frame

    def turn_down(self, number: int, error: LastgoodError) -> None:
        """The call that was just taken as `number` can't be sent: it ends, and its seat is free again."""
        call = self._open.pop(number)
        self._open_on[call.link] -= 1
        self._settle(call, error)

    def _dequeue(self) -> Call:
        call = self.queue.popleft()
        self._queued_bytes -= call.size
        return call

    def _requeue(self, call: Call) -> None:
        self.queue.appendleft(call)
        self._queued_bytes += call.size

    def _seat(self, call: Call, args: Seated, now: float) -> bool:
        """Gives the call at the queue's head its seat; False if it can't be sent now (it may have been taken off)."""
        seats = self._seats
        if args.seq is not None and args.session != seats.session:
            # The session that this call has a seat in has ended.
            if call.maybe:
                self._settle(self._dequeue(), UnknownOutcome("the session ended before an answer came"))
                return False
            args.seq = None
        if seats.session is None:
            self._seatless.append(self._dequeue())
            self._want_session(now)
            return False
        if args.seq is None:
            args.seq = seats.take()
            if args.seq is None:
                return False
            args.session = seats.session
        args.ack = seats.ack
        return True

    # ------------------------------------------------------------ session

    def _want_session(self, now: float) -> None:
        if self._opening:
            return
        self._opening = True
        key = f"session-{self._chance.getrandbits(128):032x}"
        args = OpenSession(idempotency_key=key)
        deadline = max(call.deadline for call in self._seatless)
        self._requeue(Call("postSession", args, decode_session, _SessionSlot(self), 256, deadline, True))

    def _session_opened(self, opened: SessionOpened) -> None:
        self._opening = False
        self._seats.open(opened.session, opened.window)
        for call in reversed(self._seatless):
            self._requeue(call)
        self._seatless.clear()

    def _session_refused(self, error: BaseException) -> None:
        self._opening = False
        waiting, self._seatless = self._seatless, []
        refusal = error if isinstance(error, Refused) else Unavailable(f"no session could be opened: {error}")
        for call in waiting:
            self._settle(call, refusal)

    # ------------------------------------------------------------ answers

    def answered(self, number: int, status: int, body: Any, now: float) -> None:
        """An answer came. `body` is msgpack bytes. Answers to numbers that are no longer open are ignored."""
        call = self._open.pop(number, None)
        if call is None:
            return
        self._open_on[call.link] -= 1
        if status >= 400:
            self._refused(call, status, body, now)
            return
        self._bad_since = None
        if call.changing:
            self._release(call)
        if call.slot.done():
            return
        try:
            result = call.decode(body)
        except UNREADABLE as error:
            call.slot.set_exception(ProtocolError(f"answer to {call.op}: {error}"))
            return
        call.slot.set_result(result)

    def _release(self, call: Call) -> None:
        """Gives the seat back: `ack` moves past every answered one."""
        args = call.args
        if isinstance(args, Seated) and args.seq is not None:
            self._seats.give_back(args.session, args.seq)

    def _refused(self, call: Call, status: int, body: Any, now: float) -> None:
        try:
            problem = _decode_problem(body)
        except UNREADABLE:
            problem = None
        error = from_problem(status, problem, changing=call.changing)
        code = getattr(error, "code", None)
        if code == "gone" and isinstance(call.args, Seated) and self._session_gone(call, call.args):
            return
        row = CODES.get(code or "")
        if call.changing and (row is None or not row.outcome_known):
            call.maybe = True
        if code not in _RETRIED or call.slot.done():
            self._settle(call, error)
            return
        call.attempts += 1
        self._note_bad(code, now)
        if code == "internal" and call.attempts >= _INTERNAL_ATTEMPTS_MAX:
            self._settle(call, error)
            return
        self._retry_later(call, error, now)

    def _session_gone(self, call: Call, args: Seated) -> bool:
        """A call's session has ended. True if the call goes on: it was never applied, so it may take a new seat."""
        if args.session == self._seats.session:
            self._seats.end()
        if call.maybe or call.slot.done() or call.reseats >= _RESEATS_MAX:
            call.reseats = _RESEATS_MAX
            return False
        call.reseats += 1
        args.session = args.seq = args.ack = None
        self._requeue(call)
        return True

    def _note_bad(self, code: str | None, now: float) -> None:
        if self._bad_since is None:
            self._bad_since = now
        if code == "installing" or (code == "no_leader" and now - self._bad_since >= self.limits.rotate_after_s):
            self.rotate = True
            self._bad_since = None

    def _retry_later(self, call: Call, error: LastgoodError, now: float) -> None:
        limits = self.limits
        delay = min(limits.retry_max_s, limits.retry_min_s * 2 ** min(call.attempts, 10))
        delay *= 0.5 + self._chance.random() / 2
        call.refusal = error
        if now + delay >= call.deadline:
            self._settle(call, error)
            return
        call.retry_at = now + delay
        self._later.append(call)

    def _settle(self, call: Call, error: LastgoodError) -> None:
        """The call ends with `error`, or with UnknownOutcome where an earlier attempt is still open."""
        self._release(call)
        if call.slot.done():
            return
        code = getattr(error, "code", None)
        undecided = not isinstance(error, Refused) or code in _BEFORE_THE_LOG or code == "gone"
        if call.maybe and undecided and not isinstance(error, UnknownOutcome):
            error = UnknownOutcome(f"{call.op} was sent and not answered; then: {error}", code=code)
        call.slot.set_exception(error)

    # ------------------------------------------------------------ links and time

    def lost(self, link: int) -> None:
        """The link broke: what was sent over it is open and goes to the head of the queue, in the order it was sent."""
        self._open_on.pop(link, None)
        numbers = [number for number, call in self._open.items() if call.link == link]
        for number in reversed(numbers):
            call = self._open.pop(number)
            call.maybe = call.maybe or call.changing
            if call.slot.done():
                self._release(call)
            else:
                self._requeue(call)

    def tick(self, now: float) -> None:
        """Sends due retries to the queue and ends what is past its deadline."""
        if self._later:
            due = [call for call in self._later if call.retry_at <= now or call.slot.done()]
            if due:
                self._later = [call for call in self._later if call.retry_at > now and not call.slot.done()]
                for call in reversed(due):
                    if call.slot.done():
                        self._release(call)
                    else:
                        self._requeue(call)
        expired = [number for number, call in self._open.items() if call.deadline <= now]
        for number in expired:
            call = self._open.pop(number)
            self._open_on[call.link] -= 1
            call.maybe = call.maybe or call.changing
            self._expire(call)
        # Deadlines rise along the queue but for retries at its head, so the first live one ends the search.
        while self.queue and self.queue[0].deadline <= now:
            self._expire(self._dequeue())
        if self._seatless and self._seatless[0].deadline <= now:
            waiting = [call for call in self._seatless if call.deadline <= now]
            self._seatless = [call for call in self._seatless if call.deadline > now]
            for call in waiting:
                self._expire(call)

    def _expire(self, call: Call) -> None:
        self._settle(call, call.refusal or Unavailable(f"no answer to {call.op} before the deadline"))

    def fail_unsent(self, error: LastgoodError) -> None:
        """No node can be reached, or none lets us in: ends every call that surely left no effect."""
        waiting = [*self.queue, *self._seatless, *self._later]
        self.queue.clear()
        self._queued_bytes = 0
        self._seatless, self._later = [], []
        kept: list[Call] = []
        for call in waiting:
            if call.maybe and not call.slot.done() and not isinstance(call.slot, _SessionSlot):
                kept.append(call)
            else:
                self._settle(call, error)
        for call in reversed(kept):
            self._requeue(call)

    def close(self, reason: str) -> None:
        """Ends everything: unknown for what was sent, unavailable for the rest."""
        for link in list(self._open_on):
            self.lost(link)
        for call in [*self.queue, *self._seatless, *self._later]:
            self._settle(call, Unavailable(reason))
        self.queue.clear()
        self._queued_bytes = 0
        self._seatless, self._later = [], []


class _SessionSlot:
    """Where the answer to `postSession` goes."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls
        self._done = False

    def done(self) -> bool:
        return self._done

    def set_result(self, result: Any, /) -> None:
        self._done = True
        self._calls._session_opened(result)

    def set_exception(self, exception: BaseException, /) -> None:
        self._done = True
        self._calls._session_refused(exception)


decode_session: Final[Decode] = msgspec.msgpack.Decoder(SessionOpened).decode
