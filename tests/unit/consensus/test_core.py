"""Stories of whole cores: election, commit, reads, catching up, restart."""

from __future__ import annotations

from cluster.consensus.seams import Base, Committed, NotLeader, Unknown
from tests.unit.consensus.little_cluster import LittleCluster
from tests.unit.consensus.solo import Solo


def test_three_members_elect_open_and_commit() -> None:
    cluster = LittleCluster("a", "b", "c")
    leader = cluster.leader()
    cluster.until(lambda: leader.core.accepting_writes)
    outcome = cluster.propose(b"hello")
    cluster.run(0.2)
    assert isinstance(outcome[0], Committed) and outcome[0].result[0] == "ok"
    logs = [member.machine.applied for member in cluster.members.values()]
    assert logs[0] == logs[1] == logs[2] and logs[0][-1][2] == b"hello"
    assert all(
        member.core.membership.recorded == {"a": "a-1", "b": "b-1", "c": "c-1"} for member in cluster.members.values()
    )


def test_a_single_member_waits_for_its_own_disk() -> None:
    cluster = LittleCluster("a")
    leader = cluster.leader()
    cluster.until(lambda: leader.core.accepting_writes)
    leader.auto_sync = False
    outcome = cluster.propose(b"one")
    cluster.run(0.2)
    assert outcome == [] and b"one" not in leader.machine.commands()
    read: list[int | None] = []
    leader.core.read_index(read.append)
    assert read and read[0] < leader.core.journal.last_index
    leader.sync()
    cluster.run(0.02)
    assert isinstance(outcome[0], Committed)


def test_followers_refuse_and_a_deposed_leader_answers_unknown() -> None:
    cluster = LittleCluster("a", "b", "c")
    old = cluster.leader()
    cluster.until(lambda: old.core.accepting_writes)
    follower = next(member for member in cluster.members.values() if member is not old)
    assert cluster.propose(b"no", at=follower) == [NotLeader(old.id)]
    for other in cluster.ids:
        if other != old.id:
            cluster.blocked |= {(old.id, other), (other, old.id)}
    lost = cluster.propose(b"lost", at=old)
    cluster.until(lambda: len(cluster.leaders()) == 1 and cluster.leaders()[0] is not old)
    kept = cluster.propose(b"kept")
    cluster.until(lambda: kept)
    cluster.blocked.clear()
    cluster.until(lambda: old.machine.commands()[-1] == b"kept")
    assert isinstance(lost[0], Unknown) and isinstance(kept[0], Committed)
    assert b"lost" not in old.machine.commands()


def test_reads_on_leader_and_follower_see_what_was_acknowledged() -> None:
    cluster = LittleCluster("a", "b", "c")
    leader = cluster.leader()
    cluster.until(lambda: leader.core.accepting_writes)
    outcome = cluster.propose(b"xy")
    cluster.until(lambda: outcome)
    for member in cluster.members.values():
        seen: list[int | None] = []
        member.core.read_index(seen.append)
        cluster.step()
        assert seen == [outcome[0].index] and member.machine.commands()[-1] == b"xy"


def test_a_leader_cut_off_does_not_answer_reads() -> None:
    cluster = LittleCluster("a", "b", "c")
    old = cluster.leader()
    cluster.until(lambda: old.core.accepting_writes)
    for other in cluster.ids:
        if other != old.id:
            cluster.blocked |= {(old.id, other), (other, old.id)}
    seen: list[int | None] = []
    old.core.read_index(seen.append)
    cluster.until(lambda: cluster.leaders()[-1] is not old)
    kept = cluster.propose(b"new")
    cluster.until(lambda: kept)
    cluster.run(3)
    assert seen == [None]


def test_a_job_holds_what_comes_after_it_but_not_the_heartbeats() -> None:
    cluster = LittleCluster("a", "b", "c")
    leader = cluster.leader()
    cluster.until(lambda: leader.core.accepting_writes)
    job, after = cluster.propose(b"job"), cluster.propose(b"after")
    seen: list[int | None] = []
    cluster.run(0.1)
    leader.core.read_index(seen.append)
    cluster.run(3)
    assert cluster.leaders() == [leader] and not job and not after and not seen
    assert all(member.machine.commands()[-1] not in (b"job", b"after") for member in cluster.members.values())
    for member in cluster.members.values():
        member.machine.jobs_may_end = True
    cluster.run(0.05)
    assert isinstance(job[0], Committed) and isinstance(after[0], Committed) and seen == [after[0].index]


def test_restart_replays_the_journal() -> None:
    cluster = LittleCluster("a", "b", "c")
    leader = cluster.leader()
    cluster.until(lambda: leader.core.accepting_writes)
    for number in range(20):
        cluster.propose(b"n%d" % number)
    cluster.run(0.3)
    victim = next(member for member in cluster.members.values() if member is not leader)
    before = victim.machine.applied
    victim.stop()
    victim.machine = type(victim.machine)()
    victim.start()
    cluster.connect(victim.id)
    cluster.run(1)
    assert victim.machine.applied[: len(before)] == before


def test_a_follower_that_lags_behind_the_journal_gets_a_snapshot() -> None:
    cluster = LittleCluster("a", "b", "c")
    leader = cluster.leader()
    cluster.until(lambda: leader.core.accepting_writes)
    victim = next(member for member in cluster.members.values() if member is not leader)
    victim.stop()
    for _ in range(40):
        cluster.propose(b"x" * 60_000)
        cluster.run(0.02)
    index = leader.core.applied_index
    base = Base(index, leader.log.term_at(index), index - 1, leader.log.term_at(index - 1), b"digest")
    for member in cluster.members.values():
        if member.up:
            cluster.until(lambda member=member: member.core.applied_index >= index)
            member.machine.base, member.machine.named = base, dict(member.core.membership.recorded)
            member.core.checkpointed(base)
    assert leader.log.first_index > victim.log.last_index
    victim.start()
    cluster.connect(victim.id)
    cluster.until(lambda: victim.fetches)
    cluster.run(1)
    assert len(victim.fetches) == 1 and victim.core.applied_index < index
    wanted, source, done = victim.fetches[0]
    assert (wanted, source) == (base, leader.id)
    victim.machine.base, victim.machine.applied, victim.machine.applied_index = (
        base,
        list(leader.machine.applied),
        index,
    )
    victim.machine.named = dict(leader.core.membership.recorded)
    done(wanted)
    more = cluster.propose(b"more")
    cluster.until(lambda: victim.machine.commands()[-1] == b"more")
    assert more and victim.machine.applied == leader.machine.applied and victim.log.first_index == index


def test_the_leader_moves_on_request_without_an_election_timeout() -> None:
    cluster = LittleCluster("a", "b", "c")
    old = cluster.leader()
    cluster.until(lambda: old.core.accepting_writes)
    cluster.run(0.2)
    started = cluster.now
    target = old.core.transfer()
    cluster.until(lambda: cluster.leader() is cluster[target])
    assert cluster.now - started < 0.1


def test_a_closed_connection_of_the_leader_makes_the_next_one_quick() -> None:
    cluster = LittleCluster("a", "b", "c")
    old = cluster.leader()
    cluster.run(1)
    started = cluster.now
    old.stop()
    cluster.leader()
    assert cluster.now - started < 0.4


def test_an_empty_disk_under_an_old_id_neither_votes_nor_acknowledges() -> None:
    cluster = LittleCluster("a", "b", "c")
    leader = cluster.leader()
    cluster.until(lambda: leader.core.accepting_writes)
    wiped, other = (member for member in cluster.members.values() if member is not leader)
    wiped.stop()
    wiped.disk, wiped.machine, wiped.incarnation = type(wiped.disk)(seed=2), type(wiped.machine)(), wiped.id + "-2"
    wiped.start()
    cluster.connect(wiped.id)
    assert "put the old data folder back" in wiped.core.membership.lost_disk
    other.stop()
    outcome = cluster.propose(b"alone")
    cluster.run(3)
    assert not any(isinstance(answer, Committed) for answer in outcome) and not cluster.leaders()


def test_bytes_of_an_unfinished_message_keep_the_leader_and_a_ping_does_not() -> None:
    for in_message in (True, False):
        solo = Solo()
        solo.append("b", 1, (1, 0), [], commit=1)
        for _ in range(40):
            solo.tick(after=0.05)
            solo.core.on_life("b", in_message)
        assert bool(solo.take("prevote")) is not in_message


def test_a_follower_that_is_still_receiving_keeps_the_leader_for_a_bounded_time() -> None:
    solo = Solo()
    solo.lead("b")
    solo.sync()
    solo.acknowledge("b", solo.log.last_index, echo=1)
    solo.core.propose(bytes(1_000_000), lambda _: None)
    for _ in range(60):
        solo.tick(after=0.1)
        solo.core.on_life("b", False)
    assert solo.core.role == "leader"
    for _ in range(60):
        solo.tick(after=0.1)
        solo.core.on_life("b", False)
    assert solo.core.role != "leader"


def test_an_acknowledgement_ahead_of_our_disk_counts_as_far_as_our_disk_is() -> None:
    solo = Solo()
    solo.lead("b")
    solo.sync()
    solo.core.propose(b"first", lambda _: None)
    first = solo.log.last_index
    mark = solo.log.flush()
    solo.core.propose(b"second", lambda _: None)
    solo.acknowledge("b", first + 1)
    solo.tick()
    assert solo.core.commit_index < first
    solo.log.sync(mark)
    solo.log.synced(mark)
    solo.core.on_durable()
    solo.tick()
    assert solo.core.commit_index == first
    solo.sync()
    solo.tick()
    assert solo.core.commit_index == first + 1


def test_a_leader_whose_disk_hangs_steps_down() -> None:
    solo = Solo()
    solo.lead("b")
    solo.sync()
    solo.acknowledge("b", solo.log.last_index)
    solo.core.propose(b"stuck", lambda _: None)
    for _ in range(20):
        solo.tick(after=0.1)
        solo.acknowledge("b", solo.log.last_index)
    assert solo.core.role != "leader"


def test_readers_that_wait_for_apply_are_answered_when_the_node_stops() -> None:
    solo = Solo()
    solo.append("b", 1, (1, 0), [(b"first", 2, 1)], commit=1)
    seen: list[int | None] = []
    solo.core.read_index(seen.append)
    question = solo.take("read_ask", "b")[0]
    solo.receive("b", type="read_answer", id=question["id"], index=2)
    assert seen == []
    solo.core.reads.close()
    assert seen == [None]


def test_of_two_that_would_stand_at_once_one_gives_way_but_only_once() -> None:
    ask = {"type": "prevote", "round": 9, "term": 0, "last_index": 1, "last_term": 0}
    low, high = Solo("a", peers=("b", "c")), Solo("c", peers=("a", "b"))
    for solo, rival in ((low, "b"), (high, "b")):
        solo.sync()
        solo.tick(after=2)
        asked = solo.take("prevote")[0]
        solo.receive(rival, **ask)
        solo.receive(rival, type="prevote_answer", round=asked["round"], term=0, granted=True)
        solo.tick()
        assert solo.take("prevote_answer")[0]["granted"] is True
    assert (low.core.role, high.core.role) == ("follower", "candidate")
    low.tick(after=0.4)
    asked = low.take("prevote")[0]
    low.receive("b", **ask)
    low.receive("b", type="prevote_answer", round=asked["round"], term=0, granted=True)
    low.tick()
    assert low.core.role == "candidate"
