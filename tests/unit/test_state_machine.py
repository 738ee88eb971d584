"""The state machine of docs/architecture.md under any order of events: what must always hold."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from pronk_param_server.episodes import Episodes
from pronk_param_server.members import LEASE_SECONDS
from pronk_param_server.refusal import Refusal
from state_disk import Disk, publication

from pronk.wire.v1 import registry_pb2 as pb

POLICIES = ("red", "blue")
LETTERS = "abcd"
letters = st.sampled_from(LETTERS)
policies = st.sampled_from(POLICIES)


class Cluster(RuleBasedStateMachine):
    """Learners that come, go, sleep and wake beside a server that may restart at any time.

    Learner `a` and `c` train red, `b` and `d` blue. What a learner believes to hold may be long
    over: it acts on it all the same.
    """

    @initialize()
    def begin(self) -> None:
        self.disk = Disk(*POLICIES)
        self.believed: dict[str, int] = {}  # letter → epoch
        self.number: dict[str, int] = {}  # letter → of its newest version
        self.granted = dict.fromkeys(POLICIES, 0)
        self.highest = dict.fromkeys(POLICIES, 0)
        self.contents: dict[tuple[str, int], str] = {}
        self.releases: dict[str, str] = {}
        self.episodes = Episodes(POLICIES)
        self.reported: set[int] = set()

    def policy(self, letter: str) -> str:
        return POLICIES[LETTERS.index(letter) % 2]

    def member(self, letter: str) -> str:
        return f"learner-{letter * 12}"

    # Members

    @rule(letter=letters)
    def register(self, letter: str) -> None:
        before = {member.id for member in self.disk.state.members.all()}
        member = self.disk.learner(letter * 32, self.policy(letter))
        assert member == self.member(letter), "one incarnation, one member"
        after = [member.id for member in self.disk.state.members.all()]
        assert sorted(after) == sorted({*before, member})

    @rule(letter=letters)
    def heartbeat(self, letter: str) -> None:
        known = self.member(letter) in self.disk.state.members
        request = pb.HeartbeatRequest(member=self.member(letter))
        if known:
            self.disk.state.members.heartbeat(request, self.disk.now)
        else:
            with pytest.raises(Refusal, match="register again"):
                self.disk.state.members.heartbeat(request, self.disk.now)

    @rule(seconds=st.sampled_from([1, LEASE_SECONDS / 2, LEASE_SECONDS + 2]), asleep=letters)
    def all_but_one_are_heard_of(self, seconds: float, asleep: str) -> None:
        members = self.disk.state.members
        for _ in range(int(seconds)):
            self.disk.now += 1
            for member in list(members.all()):
                if member.id != self.member(asleep):
                    members.heartbeat(pb.HeartbeatRequest(member=member.id), self.disk.now)
            members.expire(self.disk.now)

    @rule(letter=letters)
    def leave(self, letter: str) -> None:
        if self.member(letter) in self.disk.state.members:
            self.disk.change(self.disk.state.decide_leave(self.member(letter)))
            self.disk.state.members.remove(self.member(letter))

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        before = self.disk.state
        self.disk.restart(clean=clean)
        assert self.disk.state.run == before.run
        assert self.disk.state.releases == before.releases

    # Epochs and versions

    @rule(letter=letters)
    def ask_for_the_epoch(self, letter: str) -> None:
        policy = self.policy(letter)
        before = self.disk.state.policies[policy]
        self.register(letter)
        living = self.disk.state.members
        try:
            epoch, floor = self.disk.grant(self.member(letter), policy)
        except Refusal:
            assert self.disk.state.policies[policy] == before
            return
        assert epoch == self.granted[policy] + 1, "epochs rise, one by one"
        assert floor >= self.highest[policy], "nothing that was published is numbered above"
        assert before.holder in ("", self.member(letter)) or before.holder not in living
        self.believed[letter] = self.granted[policy] = epoch
        self.number[letter] = floor

    @precondition(lambda self: self.believed)
    @rule(data=st.data(), steps=st.integers(0, 2), stale=st.sampled_from([0, 0, 1]))
    def publish(self, data: st.DataObject, steps: int, stale: int) -> None:
        """What a learner does: its numbers rise; 0 steps publish the last version again."""
        letter = data.draw(st.sampled_from(sorted(self.believed)))
        policy, epoch = self.policy(letter), self.believed[letter] - stale
        self.number[letter] += steps
        number = self.number[letter]
        # Two learners' versions of one number are two contents.
        request = publication(self.member(letter), epoch, number, f'"{letter} {epoch}"', policy)
        try:
            is_new = self.disk.state.check_publish(request)
        except Refusal:
            return
        assert epoch == self.granted[policy], "an old epoch never publishes"
        assert self.disk.state.policies[policy].holder == self.member(letter)
        content = request.manifest.json
        assert self.contents.setdefault((policy, number), content) == content, "one content"
        if is_new:
            assert number >= self.highest[policy], "numbers never fall"
            self.highest[policy] = number
            self.disk.change(self.disk.state.decide_reservation(request.manifest.version))
            self.disk.state.publish(request.manifest)

    @precondition(lambda self: self.believed)
    @rule(data=st.data())
    def publish_another_content(self, data: st.DataObject) -> None:
        letter = data.draw(st.sampled_from(sorted(self.believed)))
        policy = self.policy(letter)
        newest = self.disk.state.newest(policy)
        if newest is not None:
            version = newest.version
            request = publication(
                self.member(letter), version.epoch, version.number, "another", policy
            )
            with pytest.raises(Refusal):
                self.disk.state.check_publish(request)

    @rule(letter=letters)
    def cut(self, letter: str) -> None:
        policy = self.policy(letter)
        newest = self.disk.state.newest(policy)
        if newest is None:
            return
        request = pb.CutReleaseRequest(member=self.member(letter), version=newest.version)
        try:
            change = self.disk.state.decide_release(request, created=1.0)
        except Refusal:
            return
        assert self.disk.state.policies[policy].holder == self.member(letter)
        self.disk.change(change)
        release = self.disk.state.release_of(newest.version)
        assert self.releases.setdefault(release.id, release.manifest.json) == newest.json
        again = self.disk.state.decide_release(request, created=2.0)
        assert again is None, "cut twice is cut once"

    # The run

    @rule(letter=letters, finished=st.booleans())
    def speak_for_a_policy(self, letter: str, finished: bool) -> None:
        state = pb.RUN_STATE_FINISHED if finished else pb.RUN_STATE_RUNNING
        policy = self.policy(letter)
        try:
            self.disk.set_run_state(self.member(letter), state, "reason")
        except Refusal:
            return
        assert self.disk.state.policies[policy].holder == self.member(letter)

    @rule()
    def an_actors_lease_ends_and_it_comes_back(self) -> None:
        self.episodes.close("train-x")

    @rule(sequence=st.integers(1, 5))
    def report_an_episode(self, sequence: int) -> None:
        request = pb.ReportEpisodesRequest(member="train-x", sequence=sequence)
        request.ends.add(
            version=pb.Version(policy="red", epoch=1, number=1), number=sequence, steps=1
        )
        if sequence > max(self.reported, default=0):
            self.reported.add(sequence)
        self.episodes.report(request, pb.MEMBER_KIND_TRAIN, self.disk.now)

    # What always holds

    @invariant()
    def what_is_on_disk_is_what_is_true(self) -> None:
        state, saved = self.disk.state, self.disk.saved
        assert state.run == saved.run
        assert saved.policies.items() <= state.policies.items()
        assert state.releases == saved.releases

    @invariant()
    def finished_is_what_all_policies_are(self) -> None:
        finished = [record.finished for record in self.disk.state.policies.values()]
        assert (self.disk.state.run.state == pb.RUN_STATE_FINISHED) == all(finished)

    @invariant()
    def nothing_falls(self) -> None:
        for policy, record in self.disk.state.policies.items():
            assert record.epoch == self.granted[policy]
            assert record.floor <= record.reserved
            assert record.reserved >= self.highest[policy], "reserved before it is published"

    @invariant()
    def reports_count_once(self) -> None:
        finished = sum(summary.finished for summary in self.episodes.summaries())
        assert finished == len(self.reported)


TestCluster = Cluster.TestCase
TestCluster.settings = settings(max_examples=200, stateful_step_count=30, deadline=None)
