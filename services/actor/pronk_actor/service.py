"""Runs an actor in its role until it is told to leave."""

import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack, closing

from redis import Redis

from pronk.config import Experiment, experiment_hash
from pronk.telemetry import logs
from pronk.transport.buffer import BufferKeys, Producer, await_server, buffer_state
from pronk.transport.redis import connect as connect_redis
from pronk.wire.unroll import UnrollHeader
from pronk.wire.v1 import registry_pb2 as pb
from pronk_actor.evaluate_loop import EvaluateLoop
from pronk_actor.evaluation import Part
from pronk_actor.place import Place, join
from pronk_actor.player import Player, Seat
from pronk_actor.pulse import Pulse
from pronk_actor.sender import Sender
from pronk_actor.train_loop import Cast, TrainLoop

_GRACE_SECONDS = 3.0
"""For what is on its way to the buffer, once the actor was told to leave."""
_POLL_SECONDS = 0.05


def train(experiment: Experiment, stop: threading.Event) -> None:
    """Gather training data until `stop` is set; idle, but ready, while the run is over.

    Raises:
        Misconfigured: the experiment, the environment or the neighbours do not fit.
        Fenced: the parameter server holds another run.
    """
    with ExitStack() as stack:
        place = join(experiment, pb.MEMBER_KIND_TRAIN, stack, stop)
        if place is not None:
            _train(place, stop)
            place.check()


def evaluate(experiment: Experiment, stop: threading.Event, *, sample: bool) -> None:
    """Play whole episodes until `stop` is set, and report them; see `train`.

    Args:
        experiment: what to play.
        stop: ends everything within seconds.
        sample: draw actions instead of taking the most likely.
    """
    with ExitStack() as stack:
        place = join(experiment, pb.MEMBER_KIND_EVALUATE, stack, stop)
        if place is not None:
            _evaluate(place, stop, sample=sample)
            place.check()


def _train(place: Place, stop: threading.Event) -> None:
    experiment = place.experiment
    client = connect_redis(place.settings.buffer_url())
    most = experiment.buffer.max_bytes * len(experiment.policies)
    if not await_server(client, most, stop, place.health.beat):
        return
    env = place.make_env()

    def pulse() -> None:
        states = [buffer_state(client, _keys(place, policy)) for policy in place.sources]
        place.health.set_ready(place.has_policies and None not in states)
        place.tell()

    with closing(Pulse(pulse)):
        if not place.await_policies(stop):
            return
        casts = [_cast(place, policy, client, stop) for policy in place.sources]
        loop = TrainLoop(
            env,
            casts,
            place.meter,
            place.reports,
            lockstep=experiment.actor.lockstep,
            beat=place.health.beat,
            finished=lambda: place.membership.finished,
        )
        try:
            loop.run(stop)
        finally:
            _flush(place, casts)
        for cast in casts:
            if cast.sender.error is not None:
                raise cast.sender.error


def _flush(place: Place, casts: Sequence[Cast]) -> None:
    """Send what is on its way, unless the run is over: then nobody takes it any more."""
    for cast in casts:
        cast.sender.drain(cast.left_over)
    deadline = time.monotonic() + _GRACE_SECONDS
    while not (place.membership.finished or all(cast.sender.drained for cast in casts)):
        if time.monotonic() > deadline:
            break
        time.sleep(_POLL_SECONDS)
    left = sum(cast.sender.close() for cast in casts)
    logs.get().info("stopped", unrolls=place.meter.unrolls, left_behind=left)


def _evaluate(place: Place, stop: threading.Event, *, sample: bool) -> None:
    env = place.make_env()

    def pulse() -> None:
        place.health.set_ready(place.has_policies)
        place.tell()

    with closing(Pulse(pulse)):
        if not place.await_policies(stop):
            return
        parts = [
            Part(
                policy, slice(slots.start, slots.stop), place.make_agent(policy, greedy=not sample)
            )
            for policy, slots in place.experiment.slot_ranges().items()
        ]
        EvaluateLoop(
            env,
            parts,
            place.sources,
            place.meter,
            place.reports,
            beat=place.health.beat,
            finished=lambda: place.membership.finished,
        ).run(stop)


def _cast(place: Place, policy: str, client: Redis, stop: threading.Event) -> Cast:
    experiment = place.experiment
    buffer = experiment.buffer
    seat = Seat(
        policy,
        experiment.slot_ranges()[policy],
        experiment.algorithm_of(policy).unroll_length,
        experiment.actor.ship_distribution,
    )
    producer = Producer(client, _keys(place, policy), buffer.max_entries, buffer.max_bytes)
    header = UnrollHeader(
        experiment_hash(experiment), place.membership.run, policy, place.membership.member, 0
    )
    return Cast(
        Player(place.spec, seat, place.make_agent(policy)),
        place.sources[policy],
        Sender(producer, policy, place.health.heart, on_error=stop.set),
        header,
    )


def _keys(place: Place, policy: str) -> BufferKeys:
    return BufferKeys(place.membership.run, policy)
