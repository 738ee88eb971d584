"""The programs of a cluster on this machine, and the addresses they meet at."""

import os
import random
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pronk.cli.credentials import Credentials
from pronk.cli.process import Program
from pronk.cli.rundir import RunDirectory
from pronk.config import Experiment
from pronk.errors import Misconfigured
from pronk.transport.valkey import valkey_command

_LOOPBACK = "127.0.0.1"
# Below the ports that systems hand out to outgoing connections, so that a program finds its port
# free again when it is restarted.
_PORTS = range(20_000, 32_000)
_PORT_TRIES = 200
_USABLE_MEMORY = 0.7
_MEMORY_SLACK = 64 << 20

BUFFER, SERVER, LEARNER, ACTOR = range(4)
"""Stages: started in this order, stopped in the opposite one."""


@dataclass(frozen=True)
class Addresses:
    """Where the programs of a local cluster meet.

    Attributes:
        server: host:port of the parameter server.
        redis_url: of the buffer.
        valkey_port: of the buffer's own server; None where `redis_url` is somebody else's.
    """

    server: str
    redis_url: str
    valkey_port: int | None


def choose_addresses(redis_url: str | None = None) -> Addresses:
    """Free loopback ports for a new cluster."""
    server, valkey = free_ports(2)
    if redis_url is not None:
        return Addresses(f"{_LOOPBACK}:{server}", redis_url, None)
    return Addresses(f"{_LOOPBACK}:{server}", f"redis://{_LOOPBACK}:{valkey}/0", valkey)


def free_ports(count: int) -> list[int]:
    """Different loopback ports that nobody listens on.

    Raises:
        Misconfigured: hardly any port is free.
    """
    found: list[int] = []
    for port in random.sample(_PORTS, _PORT_TRIES):
        if _is_free(port):
            found.append(port)
        if len(found) == count:
            return found
    raise Misconfigured(f"no free ports between {_PORTS.start} and {_PORTS.stop} on {_LOOPBACK}")


def programs(
    experiment: Experiment,
    directory: RunDirectory,
    addresses: Addresses,
    credentials: Credentials | None = None,
) -> list[Program]:
    """Everything that runs in a local cluster, in the order of starting.

    With `credentials` each program has those of its own role; without, nobody needs any.
    """
    config = ("--config", str(directory.config))

    def service(name: str, verb: str, *options: str, stage: int, grace: float) -> Program:
        own = credentials.environment(verb) if credentials else None
        return Program(
            name=name,
            # -P: the working directory must not shadow installed modules.
            command=(sys.executable, "-P", "-m", "pronk.cli.main", verb, *config, *options),
            environment=_environment(directory, addresses, own),
            log=directory.logs / f"{name}.log",
            stage=stage,
            grace_seconds=grace,
        )

    port = addresses.valkey_port
    users = credentials.aclfile if credentials else None
    own_buffer = [] if port is None else [_valkey(experiment, directory, port, users)]
    learners = [
        service(
            "learner" if len(experiment.policies) == 1 else f"learner-{policy}",
            "learner",
            "--policy",
            policy,
            stage=LEARNER,
            grace=60.0,
        )
        for policy in experiment.policies
    ]
    actors = [
        service(f"actor-{index}", "actor", stage=ACTOR, grace=10.0)
        for index in range(experiment.actor.count)
    ]
    server = service("param-server", "param-server", stage=SERVER, grace=10.0)
    return [*own_buffer, server, *learners, *actors]


def _valkey(
    experiment: Experiment, directory: RunDirectory, port: int, users: Path | None
) -> Program:
    wanted = experiment.buffer.max_bytes * len(experiment.policies)
    directory.logs.mkdir(parents=True, exist_ok=True)
    memory = int(wanted / _USABLE_MEMORY) + _MEMORY_SLACK
    command = valkey_command(port, directory.logs, memory, users)
    return Program(
        name="valkey",
        command=tuple(command),
        environment=_inherited(),
        log=directory.logs / "valkey.log",
        stage=BUFFER,
    )


def _inherited() -> dict[str, str]:
    """The parent's environment without a remote cluster's addresses and credentials."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PRONK_") or name in ("PRONK_LOG_LEVEL", "PRONK_COMMIT")
    }


def _environment(
    directory: RunDirectory, addresses: Addresses, own: Mapping[str, str] | None
) -> dict[str, str]:
    """A service's: where this cluster is, and its `own` credentials if it needs any."""
    return _inherited() | {
        "PRONK_SERVER": addresses.server,
        "PRONK_LISTEN": addresses.server,
        "PRONK_HEALTH_LISTEN": f"{_LOOPBACK}:0",
        "PRONK_METRICS_LISTEN": f"{_LOOPBACK}:0",
        "PRONK_RUN_DIR": str(directory.path.resolve()),
        **({"PRONK_REDIS_URL": addresses.redis_url} if own is None else own),
    }


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_LOOPBACK, port))
        except OSError:
            return False
        return True
