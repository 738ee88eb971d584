"""An actor that has joined the cluster, before it knows what to play for."""

import threading
from contextlib import ExitStack, closing
from dataclasses import dataclass

import grpc
import numpy as np

from pronk import envs
from pronk.config import Experiment, experiment_hash
from pronk.telemetry import logs, metrics
from pronk.transport import settings as environment
from pronk.transport.channels import connect
from pronk.transport.cluster import EpisodeReporter
from pronk.transport.health import Health
from pronk.transport.membership import Membership
from pronk.transport.policies import PolicyWatcher
from pronk.transport.settings import Settings
from pronk.wire.spec import EnvironmentSpec
from pronk.wire.v1 import registry_pb2 as pb
from pronk_actor.agent import Agent
from pronk_actor.failures import FailureLog
from pronk_actor.meter import Meter
from pronk_actor.policy_source import PolicySource
from pronk_actor.reports import EpisodeReports

_WAIT_SECONDS = 0.2
_LIVENESS_SECONDS = 60.0
_ENV_SEEDS, _ACTION_SEEDS = 0, 1


@dataclass(frozen=True)
class Place:
    """What every role of an actor has. `stack` closes what was opened, last first."""

    experiment: Experiment
    settings: Settings
    spec: EnvironmentSpec
    kind: pb.MemberKind.ValueType
    channel: grpc.Channel
    membership: Membership
    health: Health
    meter: Meter
    sources: dict[str, PolicySource]
    reports: EpisodeReports
    stack: ExitStack

    def make_env(self) -> envs.SlotEnv:
        """All slots of the actor."""
        experiment = self.experiment
        seeds = self._seeds(_ENV_SEEDS)
        env = envs.make(experiment.env, experiment.actor.slots, seeds, FailureLog())
        return self.stack.enter_context(closing(env))

    def make_agent(self, policy: str, *, greedy: bool = False) -> Agent:
        """An agent for the policy's slots, with its newest version."""
        number = list(self.experiment.policies).index(policy)
        rng = np.random.default_rng(self._seeds(_ACTION_SEEDS, number))
        slots = self.experiment.slots_of(policy)
        return Agent(self.spec, slots, self.sources[policy].newest(), rng, greedy=greedy)

    def await_policies(self, stop: threading.Event) -> bool:
        """Wait for a first version of every policy; False when stopped."""
        with self.meter.blocked():
            for source in self.sources.values():
                while source.wait_above(-1, _WAIT_SECONDS) is None:
                    self.health.beat()
                    if stop.is_set():
                        return False
        return True

    def tell(self) -> None:
        """Give the next heartbeat the newest counters, and the versions at hand."""
        at_hand = [(policy, source.newest()) for policy, source in self._at_hand()]
        versions = [
            pb.Version(policy=policy, epoch=ready.version.epoch, number=ready.version.number)
            for policy, ready in at_hand
        ]
        self.membership.report(self.meter.stats(), versions)

    def check(self) -> None:
        """Raise what ended the work; call it when `stop` is set.

        Raises:
            Misconfigured: the parameter server now refuses this member.
            Fenced: it holds another run.
            Exception: versions can no longer be heard of, fetched or prepared.
        """
        self.membership.check()
        for source in self.sources.values():
            if source.error is not None:
                raise source.error

    @property
    def has_policies(self) -> bool:
        """There is a version of every policy to act with."""
        return len(self._at_hand()) == len(self.sources)

    def _at_hand(self) -> list[tuple[str, PolicySource]]:
        return [(policy, source) for policy, source in self.sources.items() if source.at_hand]

    def _seeds(self, purpose: int, *more: int) -> list[int]:
        """Entropy that no other living member of this kind, and no other purpose, has."""
        return [self.experiment.seed, self.membership.index, self.kind, purpose, *more]


def join(
    experiment: Experiment,
    kind: pb.MemberKind.ValueType,
    stack: ExitStack,
    stop: threading.Event,
) -> Place | None:
    """Describe the environment, register with it, begin to watch policies; None when stopped.

    Raises:
        Misconfigured: the environment cannot be made, or the parameter server refuses.
    """
    settings = environment.load()
    logs.setup("actor", settings.log_level)
    limit = experiment.env.step_seconds + _LIVENESS_SECONDS  # a hang is told before it is seen
    health = stack.enter_context(closing(Health(settings.health_listen, limit=limit)))
    metrics_port = metrics.serve(settings.metrics_listen.host, settings.metrics_listen.port)
    spec = envs.describe(experiment.env)
    channel = stack.enter_context(closing(connect(settings)))
    policies = list(experiment.policies)
    membership = Membership(channel, kind, experiment_hash(experiment), policies, spec)
    stack.callback(membership.leave)
    if not membership.join(stop, health.beat):
        return None
    logs.get().info(
        "joined",
        member=membership.member,
        run=membership.run,
        health_port=health.port,
        metrics_port=metrics_port,
    )
    reports = EpisodeReports(EpisodeReporter(channel, membership.member), stop)
    stack.callback(reports.close)
    sources = {}
    for policy in policies:
        source = PolicySource(policy, spec, experiment.actor.threads, health.heart, stop.set)
        watcher = PolicyWatcher(channel, policy, source.offer, source.fail, stop)
        watcher.start()
        stack.callback(source.close)
        stack.callback(watcher.join)
        sources[policy] = source
    meter = Meter(experiment.actor.slots, spec.frames_per_step)
    return Place(
        experiment,
        settings,
        spec,
        kind,
        channel,
        membership,
        health,
        meter,
        sources,
        reports,
        stack,
    )
