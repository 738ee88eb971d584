"""Wires the learner to its neighbours and runs it until it is told to leave."""

import re
import threading
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

import grpc
import torch
from redis import Redis

from pronk.config import Experiment, experiment_hash
from pronk.errors import Misconfigured
from pronk.files import is_full
from pronk.nets.network import PolicyNetwork, build
from pronk.policy.export import Exporter
from pronk.telemetry import logs, metrics
from pronk.transport import settings as environment
from pronk.transport.buffer import (
    BufferKeys,
    Consumer,
    await_server,
    buffer_state,
    passes,
    tell_server,
)
from pronk.transport.channels import connect
from pronk.transport.cluster import grant_epoch, wait_for_spec
from pronk.transport.health import Health
from pronk.transport.membership import Membership
from pronk.transport.policies import PolicyPublisher
from pronk.transport.redis import connect as connect_redis
from pronk.transport.retry import until_answered
from pronk.transport.settings import Settings
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.validate import Expectation
from pronk_learner import checkpoint
from pronk_learner.ingest import Ingest
from pronk_learner.learner import Assignment, Learner
from pronk_learner.progress import Progress
from pronk_learner.publisher import Publisher
from pronk_learner.report import Journal
from pronk_learner.session import Session
from pronk_learner.trained import Trained
from pronk_learner.trainer import Trainer

_UNROLLS_AHEAD = 2


def serve(experiment: Experiment, policy: str | None, stop: threading.Event) -> None:
    """Train `policy` until the stop condition, then idle until `stop` is set.

    Raises:
        Misconfigured: the experiment, the run directory or the neighbours do not fit.
        Fenced: another learner has taken over.
    """
    settings = environment.load()
    policy = _only_policy(experiment, policy)
    logs.setup("learner", settings.log_level)
    metrics_port = metrics.serve(settings.metrics_listen.host, settings.metrics_listen.port)
    with closing(Health(settings.health_listen)) as health, closing(connect(settings)) as channel:
        membership = Membership(
            channel, pb.MEMBER_KIND_LEARNER, experiment_hash(experiment), [policy]
        )
        try:
            if membership.join(stop, health.beat):
                logs.get().info(
                    "joined",
                    member=membership.member,
                    run=membership.run,
                    health_port=health.port,
                    metrics_port=metrics_port,
                )
                _train(experiment, policy, settings, channel, membership, health, stop)
                membership.check()
        finally:
            membership.leave()


def learner_folder(run_dir: Path, experiment: Experiment, policy: str) -> Path:
    """Where a policy's learner writes: the run directory; a folder in it if there are several."""
    return run_dir if len(experiment.policies) == 1 else run_dir / policy


def _only_policy(experiment: Experiment, policy: str | None) -> str:
    names = list(experiment.policies)
    if policy is None and len(names) == 1:
        return names[0]
    if policy not in names:
        raise Misconfigured(f"--policy {policy}: choose one of {', '.join(names)}")
    return policy


def _train(
    experiment: Experiment,
    policy: str,
    settings: Settings,
    channel: grpc.Channel,
    membership: Membership,
    health: Health,
    stop: threading.Event,
) -> None:
    spec = wait_for_spec(channel, stop, health.beat)
    if spec is None:
        return
    folder = learner_folder(settings.required_run_dir(), experiment, policy)
    torch.manual_seed(experiment.seed)
    network = build(spec, experiment.network_of(policy))
    trainer = Trainer(network, spec, experiment.algorithm_of(policy), experiment.learner)
    exporter = Exporter(network, policy, engine=experiment.actor.engine, env=experiment.env)
    grant = grant_epoch(channel, membership.member, policy, stop, health.beat)
    if grant is None:
        return
    # Only now: until it was granted, another learner may have saved.
    progress, trained = resume(experiment, trainer, folder)
    progress.counters.version = max(progress.counters.version, grant.number_floor) + 1
    assignment = Assignment(experiment, policy, membership.run, grant.epoch, spec, folder)
    redis = connect_redis(settings.buffer_url())
    consumer = _open_buffer(redis, assignment, stop, health.beat)
    if consumer is None:
        return
    journal = until_answered(
        partial(Journal, folder, progress.counters.updates),
        stop,
        "room on the disk",
        again=is_full,
        beat=health.beat,
    )
    if journal is None:
        return
    keys = BufferKeys(assignment.run, policy)
    expectation = _expectation(assignment, network, progress)
    ingest = Ingest(consumer, expectation, _UNROLLS_AHEAD, health.heart)
    client = PolicyPublisher(channel, membership.member, stop)
    membership.on_newest(client.reconcile)
    publisher = Publisher(exporter, client, policy, health.heart)
    learner = Learner(
        assignment, membership, trainer, progress, consumer, ingest, publisher, trained
    )
    session = Session(
        assignment,
        channel,
        membership,
        learner,
        progress,
        publisher,
        ingest,
        journal,
        health,
        partial(_look_at_buffer, redis, keys),
    )
    with ingest, publisher:
        session.run(stop)


def resume(experiment: Experiment, trainer: Trainer, folder: Path) -> tuple[Progress, Trained]:
    """Go on from the newest checkpoint, with the trainer restored; else begin.

    Raises:
        Misconfigured: the checkpoint is of another experiment, or none can be read.
    """
    counters, trained = checkpoint.Counters(), Trained()
    if saved := checkpoint.newest(folder / "checkpoints"):
        if saved.experiment_hash != experiment_hash(experiment):
            raise Misconfigured(
                f"{folder} holds another experiment ({saved.experiment_hash}); "
                "choose another run directory, or go on with its config.yaml"
            )
        trainer.restore(saved.weights, saved.optimizer)
        torch.set_rng_state(torch.tensor(saved.rng, dtype=torch.uint8))
        counters, trained = saved.counters, Trained(saved.trained)
        logs.get().info("resumed", updates=counters.updates, frames=counters.frames)
    return Progress(experiment.stop, counters), trained


def _open_buffer(
    client: Redis, assignment: Assignment, stop: threading.Event, beat: Callable[[], None]
) -> Consumer | None:
    """The buffer, with what the learners of older epochs left unacknowledged; None when stopped."""
    policies = len(assignment.experiment.policies)
    if not await_server(client, policies * assignment.experiment.buffer.max_bytes, stop, beat):
        return None
    consumer = Consumer(
        client, BufferKeys(assignment.run, assignment.policy), consumer_name(assignment.epoch)
    )
    # A newer epoch was granted: every older consumer is dead or fenced.
    names = until_answered(consumer.names, stop, "the buffer", again=passes, beat=beat)
    if names is None:
        return None
    epochs = {name: epoch_of(name) for name in names}
    consumer.claim_from(n for n, e in epochs.items() if e is not None and e < assignment.epoch)
    return consumer


def _look_at_buffer(client: Redis, keys: BufferKeys) -> bool:
    return tell_server(client) and buffer_state(client, keys) is not None


def consumer_name(epoch: int, rank: int = 0) -> str:
    """Name of a learner in its buffer's group."""
    return f"epoch-{epoch}-rank-{rank}"


def epoch_of(name: str) -> int | None:
    """The epoch in a consumer's name; None in one that no learner has."""
    found = re.fullmatch(r"epoch-(\d+)-rank-\d+", name)
    return int(found[1]) if found else None


def _expectation(assignment: Assignment, network: PolicyNetwork, progress: Progress) -> Expectation:
    return Expectation(
        run=assignment.run,
        experiment_hash=experiment_hash(assignment.experiment),
        policy=assignment.policy,
        spec=assignment.spec,
        unroll_length=assignment.algorithm.unroll_length,
        core_shapes=network.core_shapes,
        newest_version=lambda: progress.counters.version,
    )
