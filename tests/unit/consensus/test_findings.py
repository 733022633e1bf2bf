"""Each finding against PySyncObj 0.3.17: the bare library fails, the adapter does not, and without its guard it does.

The numbers are those of docs/divergence.md.
"""

from __future__ import annotations

import gc
import struct
import types
from typing import Any

import pysyncobj.journal
import pysyncobj.pickle
import pytest
from pysyncobj.config import SyncObjConf
from pysyncobj.node import Node

from cluster.consensus import frames
from cluster.consensus.proposals import CommandTooLarge
from cluster.consensus.seams import Base, Committed, NotLeader
from cluster.consensus.settings import COMMAND_BYTES_MAX, Feature
from tests.unit.consensus.bare import NO_OP, B, Bare, C
from tests.unit.consensus.little_cluster import LittleCluster
from tests.unit.consensus.solo import Solo, puts
from wal.checks import FailStop, InvariantViolation

# The bare library never closes its files, so the collector does, here and not in some later test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def files_are_closed(request: Any) -> Any:
    yield
    if "bare" in request.node.name:
        gc.collect()


# ------------------------------------------------------------------ S1
def test_s1_bare_commits_its_own_tail_on_a_snapshot_message(tmp_path: Any) -> None:
    bare = Bare(fullDumpFile=str(tmp_path / "dump"))
    answers: list[int] = []
    bare.lead(B)
    bare.so.put("mine", callback=lambda _result, error: answers.append(error))
    bare.tick()
    bare.receive(B, type="append_entries", term=2, commit_index=1000, serialized=(b"first chunk", True, False))
    bare.tick()
    assert bare.state == ["mine"] and answers == [0]  # 0 is SUCCESS


@pytest.mark.parametrize("without", [Feature(0), Feature.INSTALL_GATE])
def test_s1_a_snapshot_message_commits_nothing(without: Feature) -> None:
    solo = Solo(without=without)
    outcome: list[Any] = []
    solo.lead("b")
    solo.core.propose(b"mine", outcome.append)
    solo.sync()
    solo.install("b", 2, Base(500, 2, 499, 2, b"digest"), commit=1000)
    solo.tick()
    assert (b"mine" in solo.machine.commands()) is bool(without)
    assert not any(isinstance(answer, Committed) for answer in outcome)


def test_s1b_a_beat_commits_nothing() -> None:
    solo = Solo()
    solo.append("b", 1, (1, 0), puts(2, 3), commit=1)
    solo.receive("c", type="beat", term=2, seq=1)
    solo.tick()
    assert solo.machine.commands() == [] and solo.core.leader == "c"


# ------------------------------------------------------------------ S2
def test_s2_bare_cuts_acknowledged_entries_when_a_shorter_batch_is_sent_again() -> None:
    bare = Bare()
    bare.append(B, 1, (1, 0), bare.puts(2, 12), commit=1)
    assert bare.box.take("next_node_idx")[-1]["next_node_idx"] == 12
    bare.append(B, 1, (1, 0), bare.puts(2, 5), commit=1)
    assert bare.log[-1][0] == 4
    bare.append(B, 1, (1, 0), [], commit=1)
    assert bare.log[-1][0] == 1


@pytest.mark.parametrize("without", [Feature(0), Feature.LAZY_TRUNCATE])
def test_s2_what_matches_is_never_cut(without: Feature) -> None:
    solo = Solo(without=without)
    solo.append("b", 1, (1, 0), puts(2, 12), commit=1)
    solo.append("b", 1, (1, 0), puts(2, 5), commit=1)
    solo.append("b", 1, (1, 0), [], commit=1)
    assert (solo.log.last_index == 11) is not bool(without)


def test_s2_acknowledged_is_only_what_was_compared() -> None:
    solo = Solo()
    solo.append("b", 1, (1, 0), puts(2, 12), commit=1)
    solo.sync()
    solo.take("next_node_idx")
    solo.append("b", 1, (1, 0), puts(2, 5), commit=1)
    assert [answer["next_node_idx"] for answer in solo.take("next_node_idx")] == [5]


def test_s2_a_real_conflict_is_cut() -> None:
    solo = Solo()
    solo.append("b", 1, (1, 0), puts(2, 12), commit=4)
    solo.append("c", 3, (5, 1), puts(6, 8, term=3), commit=4)
    assert solo.indices == [(1, 0), (2, 1), (3, 1), (4, 1), (5, 1), (6, 3), (7, 3)]


def test_s2c_bare_sends_a_shorter_batch_again_on_a_healthy_link() -> None:
    bare = Bare(appendEntriesBatchSizeBytes=300)
    bare.lead(B)
    bare.box.take("append_entries")
    for number in range(12):
        bare.so.put("p" * 40 + str(number))
    bare.tick()
    first = [entry[1] for message in bare.box.take("append_entries", "b") for entry in message["entries"]]
    bare.receive(B, type="next_node_idx", next_node_idx=4, reset=False, success=True)
    bare.so.put("again")
    bare.tick()
    second = [entry[1] for message in bare.box.take("append_entries", "b") for entry in message["entries"]]
    assert min(second) <= max(first)


def test_s2c_the_leader_sends_no_entry_twice_on_a_healthy_link() -> None:
    solo = Solo(message_bytes=300)
    solo.lead("b")
    solo.sync()
    solo.acknowledge("b", 2, echo=1)
    solo.take("append_entries")
    for number in range(12):
        solo.core.propose(b"p" * 100 + b"%d" % number, lambda _: None)
    solo.sync()
    first = [entry[1] for message in solo.take("append_entries", "b") for entry in message["entries"]]
    solo.acknowledge("b", 4, echo=2)
    solo.core.propose(b"again", lambda _: None)
    second = [entry[1] for message in solo.take("append_entries", "b") for entry in message["entries"]]
    assert first == list(range(3, 15)) and second == [15]


# ------------------------------------------------------------------ S3
def test_s3_bare_acknowledges_a_snapshot_that_did_not_load(tmp_path: Any) -> None:
    bare = Bare(fullDumpFile=str(tmp_path / "dump"))
    bare.append(B, 1, (1, 0), bare.puts(2, 8), commit=1)
    for chunk in ((b"garbage", True, False), (b"", False, True)):
        bare.receive(B, type="append_entries", term=2, commit_index=0, serialized=chunk)
    answer = bare.box.take("next_node_idx")[-1]
    assert answer["success"] and answer["next_node_idx"] == 8


def test_s3_a_snapshot_that_does_not_load_stops_the_node() -> None:
    solo = Solo()
    base = Base(500, 2, 499, 2, b"digest")
    solo.install("b", 2, base)
    solo.core.engine.dump.deserialize = lambda: 1 / 0
    with pytest.raises(FailStop, match="did not load"):
        solo.fetches[0][2](base)


# ------------------------------------------------------------------ S4
def test_s4_bare_loses_the_journal_between_dump_and_compaction(tmp_path: Any) -> None:
    conf = {"fullDumpFile": str(tmp_path / "dump"), "journalFile": str(tmp_path / "journal")}
    bare = Bare(logCompactionMinEntries=5, logCompactionMinTime=1e9, **conf)
    bare.append(B, 1, (1, 0), bare.puts(2, 8), commit=7)
    bare.tick()  # writes the dump; the compaction would come in the next tick
    bare.append(B, 1, (7, 1), bare.puts(8, 20), commit=7)
    assert bare.box.take("next_node_idx")[-1]["next_node_idx"] == 20
    again = Bare(**conf)
    assert again.log[-1][0] < 19


def test_s4_a_checkpoint_without_its_compaction_costs_no_entry() -> None:
    solo = Solo()
    solo.append("b", 1, (1, 0), puts(2, 8), commit=7)
    solo.tick()
    solo.append("b", 1, (7, 1), puts(8, 20), commit=7)
    solo.sync()
    solo.machine.base, solo.machine.named = Base(7, 1, 6, 1, b""), {"a": "a-1", "b": "b-1", "c": "c-1"}
    solo.restart(power=True)
    assert solo.log.last_index == 19 and solo.core.applied_index == 7
    solo.core.checkpointed(solo.machine.base)
    solo.restart(power=True)  # the compaction's record was not synced
    assert solo.log.last_index == 19


def test_s4b_bare_rewrites_the_journal_in_place(tmp_path: Any) -> None:
    journal = pysyncobj.journal.FileJournal(str(tmp_path / "journal"))
    for index in range(1, 101):
        journal.add(b"x" * 50, index, 1)
    add, calls = journal.add, iter(range(10))

    def killed_at_the_fourth(*entry: Any) -> None:
        if next(calls) == 3:
            raise KeyboardInterrupt
        add(*entry)

    journal.add = killed_at_the_fourth
    with pytest.raises(KeyboardInterrupt):
        journal.deleteEntriesTo(50)
    assert len(pysyncobj.journal.FileJournal(str(tmp_path / "journal"))) < 51


def test_s4c_bare_has_offsets_of_32_bits(tmp_path: Any) -> None:
    journal = pysyncobj.journal.FileJournal(str(tmp_path / "journal"))
    journal._FileJournal__currentOffset = 2**32 - 10
    journal._FileJournal__journalFile = types.SimpleNamespace(write=lambda offset, values: None)
    with pytest.raises(struct.error):
        journal.add(b"y" * 20, 1, 0)


# ------------------------------------------------------------------ S7
def test_s7_bare_ends_a_chunked_entry_too_early() -> None:
    batch, command = 65536, "é" * 50_000
    raw = command.encode()
    pickled = len(pysyncobj.pickle.dumps((raw.decode("latin-1"), 5, 1)))
    kinds = ["finish" if at + batch >= len(raw) else "process" for at in range(batch, pickled, batch)]
    assert kinds.count("finish") > 1  # what the follower unpickles at the first one is cut


def test_s7_a_command_near_the_batch_is_refused_before_it_is_proposed() -> None:
    solo = Solo()
    solo.lead("b")
    with pytest.raises(CommandTooLarge):
        solo.core.propose(bytes(COMMAND_BYTES_MAX + 1), lambda _: None)
    solo.core.propose(bytes(COMMAND_BYTES_MAX), lambda _: None)
    with pytest.raises(FailStop, match="chunks"):
        solo.core.flow.append_to(solo.core.peers["b"], {"type": "append_entries", "transmission": "start"})


# ------------------------------------------------------------------ S8, S9
def test_s8_bare_applies_a_command_that_raises_again_and_again() -> None:
    bare = Bare()
    bare.append(B, 1, (1, 0), [(bare.command("boom", "p"), 2, 1), (bare.command("put", "q"), 3, 1)], commit=3)
    for _ in range(3):
        with pytest.raises(ValueError, match="poison"):
            bare.tick()
    assert bare.state == ["p"] * 3


def test_s8b_bare_applies_twice_when_a_callback_raises() -> None:
    bare = Bare(others=())
    bare.lead()
    bare.so.put("once", callback=lambda result, error: 1 / 0)
    for _ in range(3):
        try:
            bare.tick()
        except ZeroDivisionError:
            continue
    assert bare.state.count("once") > 1


def test_s8_a_callback_that_raises_is_the_host_s_end_but_applies_once() -> None:
    solo = Solo(peers=())
    solo.lead()
    solo.core.propose(b"once", lambda _outcome: 1 / 0)
    solo.sync()
    with pytest.raises(ZeroDivisionError):
        solo.tick()
    solo.tick()
    assert solo.machine.commands().count(b"once") == 1


def test_s8_a_machine_that_does_not_answer_stops_the_node() -> None:
    solo = Solo()
    solo.machine.apply = lambda index, term, raw: None
    solo.append("b", 1, (1, 0), puts(2, 4), commit=3)
    with pytest.raises(InvariantViolation, match="apply answers"):
        solo.tick()


def test_s9_bare_skips_and_repeats_around_an_unknown_version() -> None:
    bare = Bare()
    version = b"\3" + pysyncobj.pickle.dumps(7)
    bare.append(B, 1, (1, 0), [(version, 2, 1), (bare.command("put", "x"), 3, 1), (bare.command("put", "y"), 4, 1)], 4)
    for _ in range(3):
        bare.tick()
    assert bare.state != ["x", "y"]


def test_s9_the_engine_s_command_kinds_mean_nothing_in_a_command() -> None:
    solo = Solo()
    commands = [b"\3" + pysyncobj.pickle.dumps(7), b"\2add", b"\1no", b"\0raw"]
    solo.append("b", 1, (1, 0), [(raw, index + 2, 1) for index, raw in enumerate(commands)], commit=5)
    for _ in range(3):
        solo.tick()
    assert solo.machine.commands() == commands


# ------------------------------------------------------------------ S10, S11
def test_s10_bare_applies_what_nobody_committed_after_losing_its_tail(tmp_path: Any) -> None:
    path = str(tmp_path / "journal")
    journal = pysyncobj.journal.FileJournal(path)
    for index in range(1, 6):
        journal.add(NO_OP, index, 1)
    journal.setRaftCommitIndex(9)
    journal.setCurrentTerm(1, None)
    journal._destroy()
    bare = Bare(journalFile=path)
    bare.append(B, 2, (5, 1), bare.puts(6, 10, term=2), commit=5)
    bare.tick()
    assert "v9" in bare.state


def test_s10_the_commit_index_never_comes_from_the_disk() -> None:
    solo = Solo()
    solo.append("b", 1, (1, 0), puts(2, 6), commit=5)
    solo.restart()
    assert solo.core.commit_index == 1
    solo.append("b", 2, (5, 1), puts(6, 10, term=2), commit=5)
    solo.tick()
    assert solo.core.applied_index == 5


def test_s11_bare_compacts_without_a_dump_file(tmp_path: Any) -> None:
    path = str(tmp_path / "journal")
    bare = Bare(journalFile=path, logCompactionMinEntries=5, logCompactionMinTime=1e9)
    bare.append(B, 1, (1, 0), bare.puts(2, 30), commit=29)
    for _ in range(3):
        bare.tick()
    again = Bare(journalFile=path)
    again.append(B, 1, (29, 1), [(again.command("put", "v30"), 30, 1)], commit=30)
    again.tick()
    assert again.state == []


def test_s11_a_journal_that_begins_after_the_state_stops_the_node() -> None:
    solo = Solo()
    solo.append("b", 1, (1, 0), [(bytes(4000), index, 1) for index in range(2, 400)], commit=399)
    while solo.core.applied_index < 399:
        solo.tick()
    solo.machine.base, solo.machine.named = Base(399, 1, 398, 1, b""), {"a": "a-1", "b": "b-1", "c": "c-1"}
    solo.sync()
    solo.core.checkpointed(solo.machine.base)
    solo.sync()
    assert solo.log.first_index > 1
    solo.machine.base = None  # as if the checkpoint were lost
    with pytest.raises(FailStop, match="begins after the state"):
        solo.restart()


# ------------------------------------------------------------------ S12, S14, S16
def test_s12_bare_spins_while_a_dump_is_written(tmp_path: Any) -> None:
    bare = Bare(fullDumpFile=str(tmp_path / "dump"))
    bare.lead(B)
    serializer = bare.so._SyncObj__serializer
    serializer._Serializer__pid, serializer.checkSerializing = 12345, lambda: (1, 0)
    for index in range(3, 8):
        bare.so._SyncObj__raftLog.add(NO_OP, index, 1)
    bare.so._SyncObj__raftLog.deleteEntriesTo(4)
    bare.so._SyncObj__raftNextIndex[B] = bare.so._SyncObj__raftNextIndex[C] = 2
    bare.box.take("append_entries")
    bare.so._SyncObj__sendAppendEntries()
    assert len(bare.box.take("append_entries")) > 20


def compacted_leader() -> Solo:
    """A leader of term 2 whose journal begins above 1."""
    solo = Solo()
    solo.append("b", 1, (1, 0), [(bytes(4000), index, 1) for index in range(2, 400)], commit=399)
    while solo.core.applied_index < 399:
        solo.tick()
    solo.machine.base, solo.machine.named = Base(399, 1, 398, 1, b"digest"), {"a": "a-1", "b": "b-1", "c": "c-1"}
    solo.sync()
    solo.core.checkpointed(solo.machine.base)
    solo.lead("b")
    return solo


def test_s12_a_member_that_needs_a_snapshot_is_offered_it_at_the_pace_of_heartbeats() -> None:
    solo = compacted_leader()
    solo.reject("c", 2, echo=solo.core.peers["c"].seq)
    solo.sent.clear()
    for _ in range(50):
        solo.tick(after=0.002)
    to_c = [message["type"] for peer, message in solo.sent if peer == "c"]
    assert to_c.count("install") <= 3 and 1 <= len(to_c) < 10


def test_s14_bare_repeats_a_hint_beyond_its_log() -> None:
    bare = Bare()
    bare.lead(B)
    bare.receive(B, type="next_node_idx", next_node_idx=500, reset=True, success=False)
    bare.box.take("append_entries")
    bare.tick(after=1)
    assert bare.box.take("append_entries", "b")[-1]["prevLogIdx"] is None


def test_s14_a_hint_beyond_the_log_is_clamped() -> None:
    solo = Solo()
    solo.lead("b")
    solo.reject("b", 500, echo=solo.core.peers["b"].seq)
    solo.take("append_entries")
    solo.tick(after=0.06)
    assert solo.take("append_entries", "b")[-1]["prevLogIdx"] == solo.log.last_index


def bare_rounds(backlog: int) -> int | None:
    """Heartbeats until a follower with one conflicting entry has a log of `backlog` entries; None: not in 300."""
    leader = Bare("a", appendEntriesBatchSizeBytes=300, leaderFallbackTimeout=1e9)
    follower = Bare("b", others=("a", "c"))
    long = [(leader.command("put", "p" * 40), index, 2) for index in range(3, 3 + backlog)]
    follower.append(C, 1, (1, 0), [(NO_OP, 2, 1)], commit=1)
    leader.append(C, 2, (1, 0), [(NO_OP, 2, 2), *long], commit=1)
    leader.lead(C)
    for heartbeat in range(300):
        for node, message in leader.box.sent:
            if node == "b":
                follower.box._onMessageReceived(Node("a"), message)
        leader.box.sent.clear()
        for node, message in follower.box.sent:
            if node == "a":
                leader.box._onMessageReceived(B, message)
        follower.box.sent.clear()
        leader.tick(after=0.11)
        if leader.so.raftCommitIndex == leader.log[-1][0]:
            return heartbeat
    return None


def test_s16_bare_never_converges_with_more_than_a_batch_of_backlog() -> None:
    assert bare_rounds(2) is not None and bare_rounds(40) is None


@pytest.mark.parametrize("backlog", [2, 40, 400])
def test_s16_a_conflict_is_found_in_a_few_heartbeats(backlog: int) -> None:
    leader, follower = Solo(message_bytes=300), Solo("b", peers=("a", "c"))
    follower.append("c", 1, (1, 0), puts(2, 3), commit=1)
    leader.append("c", 2, (1, 0), [(b"p" * 60, index, 2) for index in range(2, 3 + backlog)], commit=1)
    leader.lead("c")
    leader.sync()
    for _ in range(10):
        for _ in range(2 * backlog + 10):
            busy = bool(leader.sent or follower.sent)
            for here, there in ((leader, follower), (follower, leader)):
                sent, here.sent = here.sent, []
                for peer, message in sent:
                    if peer == there.settings.node_id:
                        there.receive(here.settings.node_id, **message)
                there.sync()
            leader.tick()
            if not busy:
                break
        leader.tick(after=0.06)
    assert follower.indices == leader.indices and leader.core.commit_index == leader.log.last_index


# ------------------------------------------------------------------ S13
def test_s13_bare_counts_an_acknowledgement_of_an_older_term() -> None:
    bare = Bare(others=("b", "c", "d", "e"))
    d, e = Node("d"), Node("e")
    bare.lead(B, C)  # term 1
    bare.append(C, 2, (1, 0), [(NO_OP, 2, 2)], commit=1)  # deposed
    bare.lead(d, e)  # term 3
    bare.so.put("z")
    bare.tick()
    last = bare.log[-1][0]
    bare.receive(d, type="next_node_idx", next_node_idx=last + 1, reset=False, success=True)
    bare.receive(B, type="next_node_idx", next_node_idx=51, reset=False, success=True)  # of term 1, late
    bare.tick()
    assert bare.so.raftCommitIndex == last


@pytest.mark.parametrize("without", [Feature(0), Feature.TERMS])
def test_s13_an_acknowledgement_of_an_older_term_does_not_count(without: Feature) -> None:
    solo = Solo(peers=("b", "c", "d", "e"), without=without)
    solo.lead("b", "c")
    solo.append("c", 2, (1, 0), [(b"\x01", 2, 2)], commit=1)
    solo.lead("d", "e")
    solo.core.propose(b"zz", lambda _: None)
    solo.sync()
    last = solo.log.last_index
    solo.acknowledge("d", last)
    solo.acknowledge("b", last, term=1)
    solo.tick()
    assert (solo.core.commit_index == last) is bool(without)


# ------------------------------------------------------------------ S15, S17
def test_s15_bare_throws_acknowledged_entries_away_for_an_older_snapshot(tmp_path: Any) -> None:
    other = Bare(fullDumpFile=str(tmp_path / "theirs"), logCompactionMinEntries=5, logCompactionMinTime=1e9)
    other.append(B, 1, (1, 0), other.puts(2, 12), commit=11)
    other.tick()
    dump = (tmp_path / "theirs").read_bytes()
    bare = Bare(fullDumpFile=str(tmp_path / "ours"))
    bare.append(B, 1, (1, 0), bare.puts(2, 30), commit=25)
    bare.tick()
    assert bare.box.take("next_node_idx")[-1]["next_node_idx"] == 30
    for chunk in ((dump, True, False), (b"", False, True)):
        bare.receive(B, type="append_entries", term=1, commit_index=25, serialized=chunk)
    assert bare.log[-1][0] < 29


def test_s15_s17_an_older_snapshot_changes_nothing() -> None:
    solo = Solo()
    solo.append("b", 1, (1, 0), puts(2, 30), commit=25)
    solo.tick()
    solo.sync()
    solo.take("next_node_idx")
    solo.install("b", 1, Base(11, 1, 10, 1, b"digest"), commit=25)
    answer = solo.take("next_node_idx")[-1]
    assert solo.fetches == [] and solo.log.last_index == 29 and solo.core.applied_index == 25
    assert answer["success"] and answer["next_node_idx"] == 12
    solo.install("b", 1, Base(27, 1, 26, 1, b"digest"), commit=27)  # not applied, but in the log
    assert solo.fetches == [] and solo.log.last_index == 29


def test_s17_bare_empties_its_log_when_a_snapshot_comes_before_its_own_compaction(tmp_path: Any) -> None:
    path = tmp_path / "dump"
    bare = Bare(fullDumpFile=str(path), logCompactionMinEntries=5, logCompactionMinTime=1e9)
    bare.append(B, 1, (1, 0), bare.puts(2, 12), commit=11)
    bare.tick()
    bare.tick()
    dump = path.read_bytes()
    bare.append(B, 1, (11, 1), bare.puts(12, 30), commit=29)
    bare.tick()  # the second dump is written, its compaction comes with the next tick
    for chunk in ((dump, True, False), (b"", False, True)):
        bare.receive(B, type="append_entries", term=1, commit_index=29, serialized=chunk)
    with pytest.raises(IndexError):
        bare.tick()
        bare.append(B, 1, (11, 1), [], commit=11)


# ------------------------------------------------------------------ S18
def test_s18_bare_takes_its_members_from_the_constructor(tmp_path: Any) -> None:
    conf = {"journalFile": str(tmp_path / "journal"), "dynamicMembershipChange": True}
    bare = Bare(**conf)
    for index, name in ((2, "d"), (3, "e")):
        entry = b"\2" + pysyncobj.pickle.dumps(["add", name, Node(name)])
        bare.append(B, 1, (index - 1, int(index > 2)), [(entry, index, 1)], commit=index)
        bare.tick()
    assert len(bare.so.otherNodes) == 4
    assert len(Bare(**conf).so.otherNodes) == 2


def test_s18_members_that_differ_from_the_log_stop_the_node() -> None:
    solo = Solo()
    first = solo.init_command({"a": "a-1", "b": "b-1", "c": "c-1"})
    solo.append("b", 1, (1, 0), [(first, 2, 1)], commit=2)
    solo.restart()
    assert solo.core.membership.recorded == {"a": "a-1", "b": "b-1", "c": "c-1"}
    solo.settings = type(solo.settings)(node_id="a", peers=("b",), incarnation="a-1")
    with pytest.raises(FailStop, match="other members"):
        solo.restart()


# ------------------------------------------------------------------ S19
def test_s19_bare_votes_twice_in_a_term_when_its_meta_file_is_damaged(tmp_path: Any) -> None:
    path = tmp_path / "journal"
    bare = Bare(journalFile=str(path))
    ask = {"type": "request_vote", "term": 7, "last_log_index": 1, "last_log_term": 0}
    bare.receive(B, **ask)
    assert bare.box.take("response_vote")
    (tmp_path / "journal.meta").write_bytes(b"")
    again = Bare(journalFile=str(path))
    again.receive(C, **ask)
    assert again.box.take("response_vote")


@pytest.mark.parametrize("without", [Feature(0), Feature.VOTES, Feature.BARRIER])
def test_s19_a_vote_leaves_when_it_is_durable_and_is_the_only_one_of_its_term(without: Feature) -> None:
    solo = Solo(without=without)
    solo.sync()
    ask = {"type": "request_vote", "term": 7, "last_log_index": 1, "last_log_term": 0}
    solo.receive("b", inc="b-1", **ask)
    sent_early = bool(solo.take("response_vote", "b"))
    assert sent_early is bool(without)
    solo.sync()
    assert sent_early or solo.take("response_vote", "b")
    if without is Feature.BARRIER:
        return
    solo.restart(power=True)
    solo.receive("c", inc="c-1", **ask)
    solo.sync()
    assert bool(solo.take("response_vote", "c")) is (without is Feature.VOTES)


@pytest.mark.parametrize("without", [Feature(0), Feature.BARRIER])
def test_s19_an_acknowledgement_waits_for_the_disk(without: Feature) -> None:
    solo = Solo(without=without)
    solo.append("b", 1, (1, 0), puts(2, 4), commit=1)
    assert bool(solo.take("next_node_idx")) is bool(without)


@pytest.mark.parametrize("without", [Feature(0), Feature.SELF_DURABLE])
def test_s19_the_leader_counts_itself_when_its_disk_has_the_entry(without: Feature) -> None:
    solo = Solo(without=without)
    solo.lead("b")
    solo.sync()
    solo.core.propose(b"xx", lambda _: None)
    last = solo.log.last_index
    solo.acknowledge("b", last)
    solo.tick()
    assert (solo.core.commit_index == last) is bool(without)
    solo.sync()
    solo.tick()
    assert solo.core.commit_index == last


# ------------------------------------------------------------------ more
def test_more_nothing_foreign_is_unpickled() -> None:
    solo = Solo()
    with pytest.raises(FailStop, match="pickle"):
        solo.core.engine.raw.__class__.__mro__[1].__init__.__globals__["pickle"].loads(b"")
    with pytest.raises(frames.BadFrame):
        frames.decode_message(pysyncobj.pickle.dumps({"type": "beat", "term": 1, "seq": 1}))


@pytest.mark.parametrize("kind", ["add", "remove", "set_version", "transfer", "status", "apply_command"])
def test_more_utility_messages_and_forwarded_commands_are_unknown(kind: str) -> None:
    solo = Solo()
    solo.receive("b", type=kind, args=["d"], command=b"\0x")
    assert solo.core.stats["unknown_message"] == 1
    with pytest.raises(frames.BadFrame):
        frames.decode_message(b"".join(frames.encode_message({"type": kind}, frames.EntryEncoder(), compress=False)))


def test_more_bare_resumes_a_dump_in_mid_file_after_a_reconnect(tmp_path: Any) -> None:
    serializer = Bare(fullDumpFile=str(tmp_path / "dump"), logCompactionBatchSize=4).so._SyncObj__serializer
    (tmp_path / "dump").write_bytes(b"0123456789")
    assert serializer.getTransmissionData("b")[0] == b"0123"
    assert serializer.getTransmissionData("b")[:2] == (b"4567", False)  # the first piece went with the old connection


def test_more_a_reconnect_gets_the_whole_offer_again() -> None:
    solo = compacted_leader()
    solo.reject("c", 2, echo=solo.core.peers["c"].seq)
    solo.tick(after=0.06)
    assert solo.take("install", "c")
    solo.core.on_disconnect("c", solo.cids["c"])
    solo.cids["c"] = 99
    solo.core.on_connect("c", 99, "c-1", None)
    solo.tick(after=0.06)
    solo.reject("c", 2, echo=solo.core.peers["c"].seq)
    solo.tick(after=0.06)
    assert solo.take("install", "c")[0]["base"] == solo.machine.base.as_list()


def test_more_bare_never_answers_a_forwarded_command_whose_message_is_lost() -> None:
    bare = Bare()
    answers: list[Any] = []
    bare.append(B, 1, (1, 0), [], commit=1)
    bare.so.put("x", callback=lambda result, error: answers.append(error))
    for _ in range(20):
        bare.append(B, 1, (1, 0), [], commit=1)
        bare.tick(after=0.3)
    assert answers == []


def test_more_a_follower_answers_at_once_that_it_does_not_lead() -> None:
    solo = Solo()
    solo.append("b", 1, (1, 0), [], commit=1)
    answers: list[Any] = []
    solo.core.propose(b"xx", answers.append)
    assert answers == [NotLeader("b")]


def test_more_bare_raises_its_term_while_it_is_cut_off() -> None:
    bare = Bare()
    for _ in range(10):
        bare.tick(after=2)
    assert bare.so.raftCurrentTerm >= 10


@pytest.mark.parametrize("without", [Feature(0), Feature.PREVOTE])
def test_more_who_is_cut_off_keeps_its_term(without: Feature) -> None:
    solo = Solo(without=without)
    for _ in range(10):
        solo.tick(after=2)
    assert (solo.core.term >= 10) is bool(without)


def test_more_a_question_is_refused_while_the_leader_is_heard() -> None:
    solo = Solo()
    solo.append("b", 1, (1, 0), [], commit=1)
    ask = {"type": "prevote", "round": 1, "term": 1, "last_index": 9, "last_term": 1}
    solo.receive("c", **ask)
    assert solo.take("prevote_answer")[0]["granted"] is False
    solo.tick(after=0.41)
    solo.receive("c", **ask)
    assert solo.take("prevote_answer")[0]["granted"] is True


def test_more_bare_counts_a_voter_twice() -> None:
    bare = Bare(others=("b", "c", "d", "e"))
    bare.tick(after=5)
    for _ in range(2):
        bare.receive(B, type="response_vote", term=1)
    assert bare.so._isLeader()


def test_more_a_voter_counts_once() -> None:
    solo = Solo(peers=("b", "c", "d", "e"))
    solo.stand()
    solo.vote("b")
    solo.vote("b")
    assert solo.core.role == "candidate"
    solo.vote("c")
    assert solo.core.role == "leader"


def test_more_bare_leads_alone_for_half_a_minute() -> None:
    bare = Bare()
    bare.lead(B)
    for _ in range(29):
        bare.tick(after=1)
    assert bare.so._isLeader() and SyncObjConf().leaderFallbackTimeout == 30


def test_more_a_leader_without_a_majority_steps_down_in_a_second_and_a_half() -> None:
    solo = Solo()
    solo.lead("b")
    for _ in range(15):
        solo.tick(after=0.1)
    assert solo.core.role != "leader"


@pytest.mark.parametrize("without", [Feature(0), Feature.READ_ROUND])
def test_more_a_deposed_leader_does_not_answer_reads(without: Feature) -> None:
    cluster = LittleCluster("a", "b", "c", features=Feature(1023) & ~without)
    old = cluster.leader()
    cluster.until(lambda: old.core.accepting_writes)
    cluster.blocked |= {pair for pair in cluster.links if old.id in pair}
    cluster.until(lambda: cluster.leaders()[-1] is not old)
    seen: list[int | None] = []
    old.core.read_index(seen.append)
    cluster.run(3)
    assert (seen != [None]) is bool(without)


@pytest.mark.parametrize("without", [Feature(0), Feature.EPOCHS])
def test_more_what_an_older_connection_carried_does_not_count(without: Feature) -> None:
    solo = Solo(without=without)
    solo.lead("b")
    solo.sync()
    old = solo.cids["b"]
    solo.core.on_connect("b", 77, "b-1", None)
    solo.cids["b"] = old
    solo.acknowledge("b", solo.log.last_index)
    solo.tick()
    assert (solo.core.commit_index > 1) is bool(without)


@pytest.mark.parametrize("without", [Feature(0), Feature.INCARNATIONS])
def test_more_votes_and_acknowledgements_of_another_incarnation_do_not_count(without: Feature) -> None:
    solo = Solo(without=without)
    first = solo.init_command({"a": "a-1", "b": "b-1", "c": "c-1"})
    solo.append("b", 1, (1, 0), [(first, 2, 1)], commit=2)
    solo.sync()
    solo.core.on_connect("b", 50, "b-2", None)
    solo.cids["b"] = 50
    solo.stand()
    solo.receive("b", type="response_vote", term=solo.core.term, inc="b-2")
    assert (solo.core.role == "leader") is bool(without)
    solo.vote("c")
    solo.sync()
    solo.acknowledge("b", solo.log.last_index, inc="b-2")
    solo.tick()
    assert (solo.core.commit_index > 2) is bool(without)
