"""The receiver's decisions, without I/O: windows, cuts after every event, re-base, damage, and a state for
everything.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster.consensus.seams import Base
from cluster.transfer.frames import Kind
from cluster.transfer.manifest import CHUNK_ROW, LEAF_ROW, build_manifest
from cluster.transfer.protocol import (
    LINK_NEXT,
    WORK_NEXT,
    Ask,
    AskManifest,
    Compare,
    Compared,
    Credit,
    Drop,
    Finished,
    GotManifest,
    Link,
    LinkLost,
    LinkUp,
    MakePlan,
    ManifestUnchanged,
    PeerRefused,
    Planned,
    Received,
    Rejected,
    SayHello,
    Send,
    Settle,
    Settled,
    Verified,
    Welcomed,
    Work,
)
from cluster.transfer.receiver import Receiver
from wal.checks import InvariantViolation

FRAME = 256 * 1024


def manifest(index=10, leaves=1, content=bytes(16)):
    rows = np.zeros(leaves, LEAF_ROW)
    rows["page_shift"] = 12
    return build_manifest(
        index=index,
        term=1,
        prev_index=index - 1,
        prev_term=1,
        content=content,
        leaves=rows,
        chunks=np.zeros(0, CHUNK_ROW),
    )


def want(index=10, digest=b""):
    return Base(index, 1, index - 1, 1, digest)


class Peer:
    """Plays shell, peer and landing of a transfer of `leaf_asks` + `page_asks` requests, one event at a time.

    Events wait in `todo`; `step` gives the oldest to the receiver. `lost` cuts the link: what was not received is gone.
    """

    def __init__(self, core, *, leaf_asks=2, page_asks=9, manifests=None):
        self.core = core
        self.manifests = manifests or [manifest()]
        self.leaf_asks = tuple(Ask(Kind.GET_LEAVES, at, at + 1, FRAME) for at in range(leaf_asks))
        self.page_asks = tuple(Ask(Kind.GET_PAGES, at, at + 1, FRAME) for at in range(page_asks))
        self.todo = [LinkUp("p")]
        self.sent = []  # asks as they went out
        self.verified = []
        self.finished = False
        self.asks = {}

    def step(self):
        event = self.todo.pop(0)
        effects = self.core.on(event)
        if isinstance(event, Received):
            self.todo.append(Verified(event.request))
        if isinstance(event, Verified):
            self.verified.append(self.asks[event.request])
        for effect in effects:
            self.play(effect)
        assert self.core.asked_bytes <= 4 * FRAME

    def play(self, effect):
        current = self.manifests[-1]
        if isinstance(effect, SayHello):
            self.todo.append(Welcomed("p"))
        elif isinstance(effect, AskManifest):
            known = effect.have == current.digest
            self.todo.append(ManifestUnchanged() if known else GotManifest(current))
        elif isinstance(effect, Compare):
            done = set(self.verified)
            self.todo.append(Compared(effect.round, tuple(a for a in self.leaf_asks if a not in done)))
        elif isinstance(effect, MakePlan):
            done = set(self.verified)
            self.todo.append(Planned(effect.round, tuple(a for a in self.page_asks if a not in done)))
        elif isinstance(effect, Send):
            self.asks = {**self.asks, effect.request: effect.ask}
            self.sent.append(effect.ask)
            self.todo.append(Received(effect.request))
        elif isinstance(effect, Settle):
            self.todo.append(Settled())
        elif isinstance(effect, Finished):
            self.finished = True
        elif isinstance(effect, Drop):
            self.cut()

    def cut(self):
        """The link is lost: answers on their way are lost with it; local steps go on. Then it comes back."""
        wired = (Received, Welcomed, GotManifest, ManifestUnchanged, PeerRefused, LinkUp)
        self.todo = [event for event in self.todo if not isinstance(event, wired)]
        for effect in self.core.on(LinkLost("cut")):
            self.play(effect)
        self.todo.append(LinkUp("p"))

    def run(self, steps=10_000):
        while self.todo and steps:
            self.step()
            steps -= 1
        return self


def test_an_undisturbed_transfer_asks_for_everything_once():
    peer = Peer(Receiver(want())).run()
    assert peer.finished and peer.core.work is Work.DONE
    assert peer.sent == [*peer.leaf_asks, *peer.page_asks]
    assert (peer.core.resent_bytes, peer.core.resumes) == (0, 0)


def test_at_least_four_frames_are_asked_for_at_a_time_and_at_most_a_mebibyte():
    peer = Peer(Receiver(want()), leaf_asks=0)
    while not peer.sent:
        peer.step()
    assert len(peer.sent) == 4
    assert peer.core.asked_bytes == 1024 * 1024


@pytest.mark.parametrize("after", range(60))
def test_cut_after_every_event(after):
    """A cut costs at most the window, whenever it comes; nothing verified is asked for again."""
    peer = Peer(Receiver(want()))
    for _ in range(after):
        if peer.todo:
            peer.step()
    if peer.finished:
        return
    before = set(peer.verified)
    peer.cut()
    asked = len(peer.sent)
    peer.run()
    assert peer.finished
    assert not before & set(peer.sent[asked:])
    assert set(peer.verified) == {*peer.leaf_asks, *peer.page_asks}
    assert peer.core.resent_bytes <= 1024 * 1024
    assert len(peer.sent) == len(peer.leaf_asks) + len(peer.page_asks) + peer.core.resent_bytes // FRAME


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["step", "step", "step", "cut", "rebase"]), max_size=60), st.randoms(use_true_random=False)
)
def test_any_row_of_cuts_and_re_bases_ends_complete(moves, chance):
    peer = Peer(Receiver(want()))
    cuts = 0
    for move in moves:
        if move == "cut" and not peer.finished:
            peer.cut()
            cuts += 1
        elif move == "rebase" and not peer.finished:
            peer.manifests.append(manifest(11 + len(peer.manifests)))
            peer.cut()
            cuts += 1
        elif peer.todo:
            peer.todo.insert(0, peer.todo.pop(chance.randrange(len(peer.todo)))) if local_only(peer.todo) else None
            peer.step()
    peer.run()
    assert peer.finished
    assert set(peer.verified) == {*peer.leaf_asks, *peer.page_asks}
    assert peer.core.resent_bytes <= cuts * 1024 * 1024
    assert len(peer.verified) == len(set(peer.verified))


def local_only(todo):
    """Verification ends in any order; what comes over the wire keeps its order."""
    return all(isinstance(event, Verified) for event in todo)


def test_the_manifest_of_the_consensus_message_is_the_only_one_of_that_index():
    right, wrong = manifest(content=b"r" * 16), manifest(content=b"w" * 16)
    core = Receiver(want(digest=right.content))
    core.on(LinkUp("p"))
    core.on(Welcomed("p"))
    (drop,) = core.on(GotManifest(wrong))
    assert isinstance(drop, Drop) and drop.rotate
    assert core.manifest is None
    core.on(LinkLost("dropped"))
    core.on(LinkUp("q"))
    core.on(Welcomed("q"))
    assert isinstance(core.on(GotManifest(right))[0], Compare)


def test_an_older_checkpoint_is_not_taken():
    core = Receiver(want(index=10))
    core.on(LinkUp("p"))
    core.on(Welcomed("p"))
    assert isinstance(core.on(GotManifest(manifest(index=9)))[0], Drop)


def test_a_manifest_kept_by_an_earlier_process_is_not_sent_again():
    kept = manifest()
    core = Receiver(want(digest=kept.content), held=kept)
    core.on(LinkUp("p"))
    assert core.on(Welcomed("p")) == [AskManifest(10, kept.digest)]
    assert isinstance(core.on(ManifestUnchanged())[0], Compare)


def test_a_frame_that_is_not_true_is_asked_of_another_peer():
    peer = Peer(Receiver(want()), leaf_asks=0)
    while not peer.sent:
        peer.step()
    first = peer.todo.pop(0)
    peer.core.on(first)
    effects = peer.core.on(Rejected(first.request, "digest"))
    assert effects == [Drop("digest", rotate=True)]
    peer.play(effects[0])
    peer.run()
    assert peer.finished and peer.core.rejected_frames == 1
    assert peer.sent.count(peer.page_asks[0]) == 2


def test_a_source_that_is_gone_means_the_newest_manifest_and_nothing_twice():
    peer = Peer(Receiver(want()), leaf_asks=0)
    while len(peer.verified) < 3:
        peer.step()
    peer.manifests.append(manifest(index=30))
    peer.todo = [event for event in peer.todo if not isinstance(event, Received)]
    (ask,) = peer.core.on(PeerRefused("gone", "restarted"))
    assert ask == AskManifest(10, b"")
    peer.play(ask)
    peer.run()
    assert peer.finished and peer.core.manifest.index == 30
    assert len(peer.verified) == len(set(peer.verified)) == 9


def test_the_limiter_decides_when_the_next_is_asked_for():
    peer = Peer(Receiver(want(), credit_bytes=1), leaf_asks=0)
    for _ in range(40):
        if peer.todo:
            peer.step()
    assert len(peer.sent) == 1
    for effect in peer.core.on(Credit(2 * FRAME)):
        peer.play(effect)
    peer.run()
    assert len(peer.sent) == 3


def test_what_is_asked_for_again_in_another_way_comes_first():
    core = Receiver(want())
    for event in (LinkUp("p"), Welcomed("p"), GotManifest(manifest())):
        core.on(event)
    (send,) = core.on(Compared(1, (Ask(Kind.GET_LEAVES, 0, 1, 10),)))
    core.on(Received(send.request))
    again = Ask(Kind.GET_LEAVES, 1, 2, 10)
    assert core.on(Verified(send.request, (again,))) == [Send(2, again)]


def test_every_state_of_work_is_reached_and_every_link_can_be_lost():
    assert set(WORK_NEXT.values()) | {Work.WANTING} == set(Work)
    assert {link for link, event in LINK_NEXT if event is LinkLost} == set(Link)


def test_an_event_that_makes_no_sense_halts():
    core = Receiver(want())
    with pytest.raises(InvariantViolation):
        core.on(Welcomed("p"))
    with pytest.raises(InvariantViolation):
        core.on(Verified(7))
