"""A real cluster whose learners cannot keep up, and what its processes and buffers hold."""

import json
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import grpc
import psutil
from param_servers import eventually
from redis import Redis

from pronk import config
from pronk.cli.cluster import choose_addresses, programs
from pronk.cli.process import Program
from pronk.cli.rundir import RunDirectory
from pronk.cli.supervisor import RestartRule, Supervisor
from pronk.config import Experiment
from pronk.transport import cluster
from pronk.transport.buffer import BufferKeys
from pronk.transport.buffer.server import read_state
from pronk.transport.channels import connect
from pronk.transport.settings import Settings, parse_address
from pronk.wire.v1 import blobs_pb2
from pronk.wire.v1 import registry_pb2 as pb
from pronk.wire.v1.blobs_pb2_grpc import BlobServiceStub
from pronk.wire.v1.registry_pb2_grpc import RegistryServiceStub

SAMPLE_SECONDS = 3.0
SMALL, LARGE = "small", "large"
"""Policies: the versions of one ride along with their news, those of the other are fetched."""
WATCHERS = 4
"""Connections, each with streams of every kind that nobody reads."""
_WATCH_SECONDS = 3000.0
_MIB = 1 << 20


@dataclass(frozen=True)
class Sample:
    """The cluster at one moment.

    Attributes:
        seconds: since the first sample.
        memory: resident MiB of every program.
        entries: {policy: entries in its buffer}.
        sizes: {policy: entries that the buffer accounts for}.
        bytes: {policy: of its buffer}.
        keys: on the buffers' server.
        updates: {policy: updates of its learner}.
        acting: {actor: the numbers of the versions that it acts with}.
    """

    seconds: float
    memory: dict[str, float]
    entries: dict[str, int]
    sizes: dict[str, int]
    bytes: dict[str, int]
    keys: int
    updates: dict[str, int]
    acting: dict[str, list[int]]


class Overload:
    """The cluster, as a context; watchers that never read are there from the start."""

    def __init__(self, experiment: Experiment, folder: Path) -> None:
        directory = RunDirectory(folder / "run")
        directory.path.mkdir(parents=True)
        directory.write_config(experiment)
        addresses = choose_addresses()
        self.experiment = experiment
        self._server = addresses.server
        self._redis = Redis.from_url(addresses.redis_url)
        found = [_slow(each) for each in programs(experiment, directory, addresses)]
        self._supervisor = Supervisor(found, RestartRule(deaths=1))
        self._stack = ExitStack()
        self._channel = connect(Settings(server=parse_address(self._server)))

    def __enter__(self) -> Self:
        self._stack.enter_context(self._supervisor)
        self._stack.callback(self._channel.close)
        self._stack.callback(self._redis.close)
        self.await_updates(1)
        newest = cluster.newest_version(self._channel, LARGE)
        self.watchers = [DeafWatcher(self._server, newest) for _ in range(WATCHERS)]
        for watcher in self.watchers:
            self._stack.callback(watcher.close)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def await_updates(self, count: int) -> None:
        """Let every learner make so many."""
        eventually(lambda: self._fewest_updates() >= count, 1800)

    def samples(self, seconds: float) -> list[Sample]:
        """Let it run for so long.

        Raises:
            Failed: a process ended.
        """
        began = time.monotonic()
        found: list[Sample] = []
        while (passed := time.monotonic() - began) < seconds:
            self._supervisor.tick()
            found.append(eventually(lambda passed=passed: self._sample(passed)))
            time.sleep(SAMPLE_SECONDS)
        return found

    def _fewest_updates(self) -> int:
        self._supervisor.tick()
        updates = _updates(cluster.status(self._channel))
        return min(updates.values()) if len(updates) == len(self.experiment.policies) else 0

    def _sample(self, seconds: float) -> Sample:
        status = cluster.status(self._channel)
        memory = {
            child.name: psutil.Process(child.pid).memory_info().rss / _MIB
            for child in self._supervisor.statuses()
        }
        keys = {policy: BufferKeys(status.run, policy) for policy in self.experiment.policies}
        states = {policy: read_state(self._redis, each) for policy, each in keys.items()}
        return Sample(
            seconds,
            memory,
            {policy: state.length for policy, state in states.items()},
            {policy: self._redis.hlen(each.sizes) - 1 for policy, each in keys.items()},
            {policy: state.bytes for policy, state in states.items()},
            self._redis.dbsize(),
            _updates(status),
            {m.member: [v.number for v in m.versions] for m in status.members if _plays(m)},
        )


def _slow(program: Program) -> Program:
    if not program.name.startswith("learner"):
        return program
    slow = str(Path(__file__).with_name("slow_learner.py"))
    after = program.command[program.command.index("learner") + 1 :]
    return replace(program, command=(sys.executable, slow, *after))


def _updates(status: pb.GetStatusResponse) -> dict[str, int]:
    learners = [m for m in status.members if m.kind == pb.MEMBER_KIND_LEARNER]
    return {member.policies[0]: member.learner.updates for member in learners}


def _plays(member: pb.Member) -> bool:
    return bool(member.kind == pb.MEMBER_KIND_TRAIN)


class DeafWatcher:
    """Streams of news and of blobs that are never read, on a connection of their own."""

    def __init__(self, server: str, newest: pb.PolicyManifest) -> None:
        own = (("grpc.use_local_subchannel_pool", 1),)
        self._channel = grpc.insecure_channel(server, options=own)
        registry, blobs = RegistryServiceStub(self._channel), BlobServiceStub(self._channel)
        self._news = [
            registry.Watch(pb.WatchRequest(policy=policy), timeout=_WATCH_SECONDS)
            for policy in (SMALL, LARGE)
        ]
        self._blobs = [
            blobs.Get(blobs_pb2.GetRequest(hash=name), timeout=_WATCH_SECONDS)
            for name in newest.blobs
        ]

    @property
    def is_there(self) -> bool:
        """Nobody has ended its watches."""
        return all(stream.is_active() for stream in self._news)

    def close(self) -> None:
        """End everything."""
        self._channel.close()


def experiment_of() -> Experiment:
    """CartPole without an end, with two policies."""
    path = Path(__file__).parents[2] / "configs" / "cartpole.yaml"
    large = "{network: {kwargs: {hidden: [256, 256]}}}"
    changes = (
        "stop.return_mean=null",
        "stop.frames=null",
        f"policies={{{SMALL}: {{}}, {LARGE}: {large}}}",
        "learner.checkpoint_seconds=10",
    )
    return config.load(path, changes)


def keep(samples: list[Sample], folder: Path) -> None:
    """Leave the samples, and a picture of them."""
    from matplotlib import pyplot as plt

    (folder / "samples.json").write_text(json.dumps([asdict(sample) for sample in samples]))
    figure, axes = plt.subplots(figsize=(9, 5))
    for name in samples[0].memory:
        axes.plot([s.seconds for s in samples], [s.memory[name] for s in samples], label=name)
    axes.set(xlabel="seconds of overload", ylabel="resident MiB", ylim=(0, None))
    axes.legend()
    figure.savefig(folder / "memory.png")
    plt.close(figure)
