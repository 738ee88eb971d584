"""Whole processes: a deadlock turns its own liveness red, whatever neighbours do does not."""

import os
import signal
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from param_servers import eventually, free_port

from pronk import config
from pronk.cli.cluster import choose_addresses, programs
from pronk.cli.process import Program
from pronk.cli.rundir import RunDirectory
from pronk.cli.supervisor import RestartRule, Supervisor
from pronk.transport import cluster
from pronk.transport.channels import connect
from pronk.transport.health import LIVENESS, READINESS
from pronk.transport.settings import Settings, parse_address
from pronk.wire.v1 import registry_pb2 as pb

ROOT = Path(__file__).parents[2]
VALKEY, SERVER, LEARNER, ACTOR, OTHER = "valkey", "param-server", "learner", "actor-0", "actor-1"
SERVICES = {SERVER, LEARNER, ACTOR, OTHER}
SERVING = health_pb2.HealthCheckResponse.SERVING

pytestmark = pytest.mark.timeout(300)
slow = pytest.mark.slow


class Cluster:
    """CartPole in real processes, one of which may get stuck; see `impatient.py`."""

    def __init__(
        self,
        folder: Path,
        patience: float,
        *changes: str,
        stuck_at: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.patience = patience
        self._stuck_at = stuck_at
        self._folder = folder
        directory = RunDirectory(folder / "run")
        directory.path.mkdir()
        endless = ("stop.return_mean=null", "stop.frames=null")
        experiment = config.load(ROOT / "configs" / "cartpole.yaml", (*endless, *changes))
        directory.write_config(experiment)
        addresses = choose_addresses()
        self._ports = {name: free_port() for name in SERVICES}
        found = [self._impatient(each) for each in programs(experiment, directory, addresses)]
        self._supervisor = Supervisor(found, RestartRule(first_seconds=0.1))
        self._channel = connect(Settings(server=parse_address(addresses.server)))

    def get_stuck(self, name: str) -> None:
        """From now on it waits for ever, and its liveness is red."""
        self._sign(name).touch()
        eventually(lambda: not self.alive(name), 60)

    def alive(self, name: str) -> bool:
        return self._check(name, LIVENESS)

    def all_ready(self) -> bool:
        self._supervisor.tick()
        return all(self._check(name, READINESS) for name in SERVICES)

    def signal(self, name: str, number: int) -> None:
        pid = next(s.pid for s in self._supervisor.statuses() if s.name == name)
        assert pid is not None
        os.killpg(pid, number)

    def stay_alive(self, names: Collection[str], seconds: float) -> None:
        """See that liveness is green whenever it is asked for."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert [name for name in names if not self.alive(name)] == []
            time.sleep(0.2)

    def updates(self) -> int:
        members = cluster.status(self._channel).members
        return sum(m.learner.updates for m in members if m.kind == pb.MEMBER_KIND_LEARNER)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Everybody is ready, and the learner learns."""
        with self._supervisor:
            self.until_it_learns()
            yield
        self._channel.close()

    def until_it_learns(self) -> None:
        eventually(self.all_ready, 60)
        before = eventually(self.updates, 60)
        eventually(lambda: self.updates() > before, 60)

    def _impatient(self, program: Program) -> Program:
        if program.name not in SERVICES:
            return program
        environment = {
            **program.environment,
            "PRONK_HEALTH_LISTEN": f"127.0.0.1:{self._ports[program.name]}",
            "PATIENCE": str(self.patience),
            "STUCK_WHEN": str(self._sign(program.name)),
            "STUCK_AT": self._stuck_at.get(program.name, ""),
        }
        script = str(Path(__file__).with_name("impatient.py"))
        after = program.command[program.command.index("pronk.cli.main") + 1 :]
        return replace(program, environment=environment, command=(sys.executable, script, *after))

    def _sign(self, name: str) -> Path:
        return self._folder / f"{name} is stuck"

    def _check(self, name: str, service: str) -> bool:
        with grpc.insecure_channel(f"127.0.0.1:{self._ports[name]}") as channel:
            request = health_pb2.HealthCheckRequest(service=service)
            answer = health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
            return bool(answer.status == SERVING)


IN_THE_LOOP = {
    ACTOR: "pronk_actor.agent:Agent.act",
    LEARNER: "pronk_learner.trainer:Trainer.update",
    SERVER: "pronk_param_server.registry:Registry.sweep",
}


def test_deadlocks_turn_red_who_is_in_one(tmp_path: Path) -> None:
    cluster = Cluster(tmp_path, 6.0, stuck_at=IN_THE_LOOP)
    with cluster.running():
        cluster.stay_alive(SERVICES, 1)
        # In this order: who waits for a neighbour that is stuck comes by no more, and is alive.
        for name in (ACTOR, LEARNER, SERVER):
            cluster.get_stuck(name)
        cluster.stay_alive({OTHER}, cluster.patience)
        assert not any(cluster.alive(name) for name in IN_THE_LOOP)


@slow
@pytest.mark.parametrize(
    ("name", "where"),
    [
        *IN_THE_LOOP.items(),
        (ACTOR, "pronk_actor.sender:Sender.offer"),
        (ACTOR, "pronk.transport.buffer:Producer.send"),
        (ACTOR, "pronk_actor.policy_source:PolicySource._prepare"),
        (LEARNER, "pronk.transport.buffer:Consumer.ack"),
        (LEARNER, "pronk.transport.buffer:Consumer.read"),
        (LEARNER, "pronk.transport.policies:PolicyPublisher.publish"),
        (SERVER, "pronk_param_server.blobs:Upload.hash_newest"),
    ],
)
def test_a_deadlock_turns_no_other_process_red(tmp_path: Path, name: str, where: str) -> None:
    cluster = Cluster(tmp_path, 10.0, stuck_at={name: where})
    with cluster.running():
        cluster.get_stuck(name)
        cluster.stay_alive(SERVICES - {name}, 1.5 * cluster.patience)
        assert not cluster.alive(name)


@slow
@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL], ids=lambda n: n.name)
@pytest.mark.parametrize("name", [VALKEY, SERVER, LEARNER, ACTOR])
def test_an_outage_of_a_neighbour_leaves_everybody_alive(
    tmp_path: Path, name: str, number: signal.Signals
) -> None:
    # Longer than the deadlines of what one turn of a work loop may ask its neighbours.
    cluster = Cluster(tmp_path, 20.0)
    with cluster.running():
        cluster.signal(name, number)
        cluster.stay_alive(SERVICES - {name}, 1.5 * cluster.patience)
        if number == signal.SIGSTOP:
            cluster.signal(name, signal.SIGCONT)
        cluster.until_it_learns()
        assert all(cluster.alive(each) for each in SERVICES)


@slow
def test_a_learner_that_cannot_say_that_it_is_finished_is_alive(tmp_path: Path) -> None:
    said = "pronk_param_server.registry:Registry.SetRunState"
    cluster = Cluster(tmp_path, 10.0, "stop.seconds=15", stuck_at={SERVER: said})
    with cluster.running():
        cluster.get_stuck(SERVER)
        cluster.stay_alive(SERVICES - {SERVER}, 1.5 * cluster.patience)
