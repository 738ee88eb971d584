"""The work loops of an actor, with neighbours made of a few lines."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest
from pronk_actor.agent import Agent, ReadyPolicy
from pronk_actor.evaluate_loop import EvaluateLoop
from pronk_actor.evaluation import Part
from pronk_actor.meter import Meter
from pronk_actor.player import Player, Seat
from pronk_actor.train_loop import Cast, TrainLoop
from toy_policies import ready, replayed_log_prob

from pronk import envs
from pronk.config.schema import EnvConfig
from pronk.envs.make import _seeds
from pronk.wire.unroll import Unroll, UnrollHeader

COUNTER = EnvConfig(id="toy_envs:Counter")
LENGTH = 4


class FakeSource:
    """Versions that a test sets."""

    def __init__(self, spec, number: int = 0) -> None:
        self.spec = spec
        self.waits = 0
        self.set(number)

    def set(self, number: int) -> None:
        self.ready = ready(self.spec, number)

    def newest(self) -> ReadyPolicy:
        return self.ready

    def wait_above(self, number: int, timeout: float) -> ReadyPolicy | None:
        self.waits += 1
        time.sleep(0.001)
        return None


class FakeSender:
    """Takes unrolls, as long as there is room."""

    def __init__(self, room: float = float("inf")) -> None:
        self.unrolls: list[Unroll] = []
        self.room = room
        self.emptied = False
        self.after: Callable[[], None] = lambda: None

    def offer(self, unroll: Unroll, timeout: float) -> bool:
        if len(self.unrolls) >= self.room:
            time.sleep(min(timeout, 0.01))
            self.after()
            return False
        self.unrolls.append(unroll)
        self.after()
        return True

    def lost(self) -> bool:
        emptied, self.emptied = self.emptied, False
        return emptied


class FakeReports:
    def __init__(self) -> None:
        self.starts: list[tuple[str, int, int, int]] = []
        self.ends: list[tuple[str, int, int, int]] = []

    def began(self, policy, version, episodes) -> None:
        self.starts += [(policy, version.number, slot, number) for slot, number in episodes]

    def ended(self, policy, ended) -> None:
        self.ends += [
            (policy, version.number, e.slot, e.number) for e, version in ended
        ]  # fmt: skip


class Stage:
    """A train loop and everything around it."""

    def __init__(self, policies=None, *, lockstep=False, config=COUNTER) -> None:
        policies = policies or {"default": (range(2), LENGTH)}
        slots = sum(len(where) for where, _ in policies.values())
        self.env = envs.make(config, slots, 0)
        self.stop = threading.Event()
        self.finished = False
        self.beats = 0
        self.meter = Meter(slots, self.env.spec.frames_per_step)
        self.reports = FakeReports()
        self.casts = []
        for policy, (where, length) in policies.items():
            source = FakeSource(self.env.spec)
            agent = Agent(self.env.spec, len(where), source.newest(), np.random.default_rng(3))
            player = Player(self.env.spec, Seat(policy, where, length), agent)
            header = UnrollHeader("hash", "run", policy, "member", 0)
            self.casts.append(Cast(player, source, FakeSender(), header))
        self.loop = TrainLoop(
            self.env,
            self.casts,
            self.meter,
            self.reports,
            lockstep=lockstep,
            beat=self.beat,
            finished=lambda: self.finished,
        )

    def beat(self) -> None:
        self.beats += 1

    @property
    def sender(self) -> FakeSender:
        return self.casts[0].sender

    @property
    def source(self) -> FakeSource:
        return self.casts[0].source

    def run_until(self, unrolls: int) -> list[Unroll]:
        def after() -> None:
            if len(self.sender.unrolls) >= unrolls:
                self.stop.set()

        self.sender.after = after
        self.loop.run(self.stop)
        return self.sender.unrolls


def test_counts_what_was_played():
    stage = Stage()
    unrolls = stage.run_until(5)
    assert len(unrolls) == 5
    # Episodes of three steps and a dead row: six valid rows of eight.
    stats = stage.meter.stats()
    assert (stats.unrolls, stats.steps, stats.frames, stats.slots) == (5, 30, 30, 2)
    assert stats.episodes == 10
    assert stats.busy_seconds > 0
    assert stage.beats >= 5 * LENGTH


def test_a_newer_version_is_taken_between_unrolls():
    stage = Stage()

    def publish() -> None:
        stage.source.set(10 * len(stage.sender.unrolls))
        if len(stage.sender.unrolls) == 4:
            stage.stop.set()

    stage.sender.after = publish
    stage.loop.run(stage.stop)
    versions = [set(u.behaviour_version.ravel().tolist()) for u in stage.sender.unrolls]
    assert versions == [{0}, {10}, {20}, {30}]
    for unroll in stage.sender.unrolls:
        np.testing.assert_allclose(
            replayed_log_prob(stage.env.spec, unroll), unroll.behaviour_log_prob, atol=1e-6
        )


def test_a_version_that_arrives_in_the_middle_waits_for_the_next_unroll():
    stage = Stage()
    step, stage.steps = stage.env.step, 0

    def publishing_step(action):
        stage.steps += 1
        stage.source.set(stage.steps)  # a new version with every single row
        return step(action)

    stage.env.step = publishing_step
    unrolls = stage.run_until(3)
    versions = [sorted(set(u.behaviour_version.ravel().tolist())) for u in unrolls]
    assert versions == [[0], [4], [8]]
    for unroll in unrolls:
        np.testing.assert_allclose(
            replayed_log_prob(stage.env.spec, unroll), unroll.behaviour_log_prob, atol=1e-6
        )


def test_an_older_version_is_not_taken():
    stage = Stage()
    stage.source.set(7)

    def publish() -> None:
        stage.source.set(3)
        if len(stage.sender.unrolls) == 3:
            stage.stop.set()

    stage.sender.after = publish
    stage.loop.run(stage.stop)
    assert {int(u.behaviour_version[0, 0]) for u in stage.sender.unrolls} == {7}


def test_lock_step_plays_another_unroll_when_the_buffer_was_emptied():
    stage = Stage(lockstep=True)

    def empty_the_buffer() -> None:
        stage.sender.emptied = len(stage.sender.unrolls) == 1
        if len(stage.sender.unrolls) == 2:
            stage.stop.set()

    stage.sender.after = empty_the_buffer
    stage.loop.run(stage.stop)
    first, second = stage.sender.unrolls
    assert {int(u.behaviour_version[0, 0]) for u in (first, second)} == {0}
    assert not np.array_equal(first.obs["default"], second.obs["default"]), "it goes on, not back"


def test_lock_step_plays_one_unroll_per_version():
    stage = Stage(lockstep=True)
    seen = []

    def publish() -> None:
        seen.append(int(stage.sender.unrolls[-1].behaviour_version[0, 0]))

    stage.sender.after = publish

    def learner() -> None:
        for number in (1, 2, 5):
            until(lambda n=number: len(seen) == {1: 1, 2: 2, 5: 3}[n])
            enough = stage.source.waits + 3
            until(lambda n=enough: stage.source.waits > n)  # it waits, and does not play
            stage.source.set(number)
        until(lambda: len(seen) == 4)
        stage.stop.set()

    thread = threading.Thread(target=learner)
    thread.start()
    stage.loop.run(stage.stop)
    thread.join()
    assert seen == [0, 1, 2, 5]
    assert stage.meter.blocked_seconds > 0


def until(condition: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.001)


def test_a_full_buffer_blocks_and_is_told_from_work():
    stage = Stage()
    stage.sender.room = 2
    calls = 0

    def after() -> None:
        nonlocal calls
        calls += 1
        if calls == 2 + 20:
            stage.stop.set()

    stage.sender.after = after
    stage.loop.run(stage.stop)
    assert len(stage.sender.unrolls) == 2
    assert stage.meter.unrolls == 3
    assert 0.1 < stage.meter.blocked_seconds < 5
    # The unroll that found no room is not lost: it is flushed when the sender closes.
    assert [u.slots for u in stage.casts[0].left_over] == [2]


def test_a_finished_run_is_idled_through_and_gone_on_with():
    stage = Stage()
    stage.finished = True
    thread = threading.Thread(target=stage.loop.run, args=(stage.stop,))
    thread.start()
    until(lambda: stage.beats > 2)
    assert stage.meter.unrolls == 0
    assert stage.meter.blocked_seconds > 0.1
    stage.finished = False
    until(lambda: stage.meter.unrolls > 0)
    stage.stop.set()
    thread.join()


def test_a_run_that_finishes_frees_an_actor_that_waits_for_room():
    stage = Stage()
    stage.sender.room = 0
    stage.sender.after = lambda: setattr(stage, "finished", True)
    thread = threading.Thread(target=stage.loop.run, args=(stage.stop,))
    thread.start()
    until(lambda: stage.finished)
    played = stage.meter.unrolls
    time.sleep(0.05)
    assert stage.meter.unrolls == played == 1
    stage.stop.set()
    thread.join()
    assert not stage.casts[0].left_over


def test_episodes_are_reported_with_their_starts():
    stage = Stage()
    stage.run_until(4)  # 16 rows: four episodes of each slot
    slots = range(2)
    assert stage.reports.ends == [
        ("default", 0, slot, number) for number in range(4) for slot in slots
    ]
    assert sorted(stage.reports.starts) == [
        ("default", 0, slot, number) for slot in slots for number in range(5)
    ]


FAULTY = EnvConfig(id="toy_envs:Faulty", kwargs={"otherwise": "crash"})


def test_an_episode_whose_environment_fails_is_lost_and_the_next_one_begins():
    stage = Stage(config=FAULTY)  # every other row fails
    unrolls = stage.run_until(3)
    assert not stage.reports.ends
    assert sorted(stage.reports.starts) == [
        ("default", 0, slot, number) for slot in range(2) for number in range(7)
    ]
    assert all(u.valid.tolist() == [[True] * 2, [False] * 2] * 2 for u in unrolls)
    assert not any(u.episodes for u in unrolls)
    assert stage.meter.stats().episodes == 0


def test_several_policies_share_one_environment():
    """Each has its slots, its versions and unrolls of its own length."""
    policies = {"red": (range(2), 4), "blue": (range(2, 5), 6)}
    stage = Stage(policies, config=EnvConfig(id="CartPole-v1"))
    red, blue = stage.casts
    red.source.set(1)
    blue.source.set(2)
    stage.run_until(6)
    assert [u.length for u in red.sender.unrolls] == [4] * 6
    assert [u.length for u in blue.sender.unrolls] == [6] * 4
    assert [u.slot.tolist() for u in red.sender.unrolls[:1]] == [[0, 1]]
    assert [u.slot.tolist() for u in blue.sender.unrolls[:1]] == [[2, 3, 4]]
    for cast, number in ((red, 1), (blue, 2)):
        for unroll in cast.sender.unrolls:
            assert unroll.header.policy == cast.player.seat.policy
            assert (unroll.behaviour_version == number).all()
            np.testing.assert_allclose(
                replayed_log_prob(stage.env.spec, unroll), unroll.behaviour_log_prob, atol=1e-6
            )


def test_every_unroll_that_was_begun_is_finished():
    """Told to stop in the middle of the other's unroll."""
    policies = {"red": (range(1), 4), "blue": (range(1, 2), 6)}
    stage = Stage(policies)
    stage.run_until(1)  # red's first: blue is in row 4 of 6
    red, blue = stage.casts
    assert [u.length for u in blue.sender.unrolls] == [6]
    assert len(red.sender.unrolls) == 1


@pytest.mark.parametrize("greedy", [True, False])
def test_evaluation_plays_one_episode_per_slot_and_round(greedy):
    env = envs.make(COUNTER, 3, 0)
    source = FakeSource(env.spec, 4)
    rng = np.random.default_rng(0)
    agent = Agent(env.spec, 3, source.newest(), rng, greedy=greedy)
    reports, meter, stop = FakeReports(), Meter(3, 1), threading.Event()
    ended = reports.ended

    def after_round(policy, finished) -> None:
        ended(policy, finished)
        source.set(len(reports.ends))
        if len(reports.ends) == 9:
            stop.set()

    reports.ended = after_round
    EvaluateLoop(
        env,
        [Part("default", slice(0, 3), agent)],
        {"default": source},
        meter,
        reports,
        beat=lambda: None,
        finished=lambda: False,
    ).run(stop)
    versions = [4, 4, 6]  # 3 is older than 4 and not taken
    assert (
        reports.starts
        == reports.ends
        == [
            ("default", version, slot, number)
            for number, version in enumerate(versions)
            for slot in range(3)
        ]
    )
    assert (meter.steps, meter.episodes, meter.unrolls) == (27, 9, 0)


def test_an_episode_that_is_lost_in_evaluation_is_played_again_under_another_number():
    once = {str(_seeds(0, 2)[1]): "crash"}  # the first environment of slot 1
    env = envs.make(EnvConfig(id="toy_envs:Faulty", kwargs={"faults": once}), 2, 0)
    source = FakeSource(env.spec, 4)
    agent = Agent(env.spec, 2, source.newest(), np.random.default_rng(0))
    reports, stop = FakeReports(), threading.Event()
    ended = reports.ended

    def after_round(policy, finished) -> None:
        ended(policy, finished)
        if len(reports.ends) == 6:
            stop.set()

    reports.ended = after_round
    EvaluateLoop(
        env,
        [Part("default", slice(0, 2), agent)],
        {"default": source},
        Meter(2, 1),
        reports,
        beat=lambda: None,
        finished=lambda: False,
    ).run(stop)
    rounds = [(0, 0), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
    assert [(slot, number) for _, _, slot, number in reports.ends] == rounds
    starts = [(slot, number) for _, _, slot, number in reports.starts]
    assert starts == [(0, 0), (1, 0), (1, 1), (0, 2), (1, 2), (0, 3), (1, 3)]
