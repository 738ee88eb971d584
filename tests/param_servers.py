"""Parameter servers to test against: in a thread, or as a process that can be killed."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

import grpc
from pronk_param_server.main import serve

from pronk.cli.cluster import free_ports
from pronk.config import Experiment, experiment_hash, parse
from pronk.config.schema import NetworkConfig
from pronk.policy.bundle import Bundle
from pronk.policy.manifest import Manifest
from pronk.transport.channels import connect
from pronk.transport.settings import Address, Settings
from pronk.wire.digest import digest
from pronk.wire.spec import ArraySpec, DiscreteSpec, EnvironmentSpec

EXPERIMENT_YAML = "name: tiny\nenv: {id: CartPole-v1}\n"
TWO_POLICIES_YAML = EXPERIMENT_YAML + "policies: {red: {}, blue: {}}\n"
SPEC = EnvironmentSpec(
    environment="CartPole-v1",
    observation=(ArraySpec("default", "float32", (4,)),),
    action=(DiscreteSpec("default", (2,)),),
)


def tiny_experiment(text: str = EXPERIMENT_YAML) -> Experiment:
    return parse(text)


def free_port() -> int:
    """A port that nobody listens on, and that stays free while a killed server is away.

    It is none of those that systems give to whoever binds port 0: other tests do that all the time,
    and one that got the port of a server between its two lives would keep it out.
    """
    (port,) = free_ports(1)
    return port


def eventually(condition: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What `condition` gives as soon as it is true and no call in it fails."""
    deadline = time.monotonic() + seconds

    def attempt() -> Any:
        with contextlib.suppress(grpc.RpcError):
            return condition()

    while not (value := attempt()):
        assert time.monotonic() < deadline, "it never happened"
        time.sleep(0.02)
    return value


def fake_bundle(
    number: int,
    epoch: int = 1,
    *,
    policy: str = "default",
    weights: bytes | None = None,
    graph: bytes = b"graph",
) -> Bundle:
    """A version whose blobs are any bytes: the parameter server never looks inside."""
    content = weights if weights is not None else f"weights {policy} {number}".encode()
    manifest = Manifest(
        policy=policy,
        epoch=epoch,
        number=number,
        frames=number * 640,
        engine="onnx",
        environment=SPEC,
        network=NetworkConfig(),
        core={},
        inputs=(),
        outputs=(),
        graph=digest(graph),
        weights=digest(content),
        probe=digest(b"probe"),
        fingerprint={},
    )
    return Bundle(manifest, graph, content, b"probe")


class ServerThread:
    """A parameter server in this process, on a free loopback port; a context manager."""

    def __init__(self, run_dir: Path, text: str = EXPERIMENT_YAML, **settings: Any) -> None:
        self.experiment = tiny_experiment(text)
        self.hash = experiment_hash(self.experiment)
        self.address = settings.pop("address", None) or Address("127.0.0.1", free_port())
        self.settings = Settings(**{"run_dir": run_dir, "listen": self.address, **settings})
        self.stop = threading.Event()
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        try:
            asyncio.run(serve(self.experiment, self.settings, self.stop))
        except BaseException as error:
            self.error = error

    def __enter__(self) -> Self:
        self._thread.start()
        eventually(lambda: self.error or accepts(self.address))
        if self.error is not None:
            raise self.error
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def connect(self, **settings: Any) -> grpc.Channel:
        return connect(Settings(**{"server": self.address, **settings}))


class ServerProcess:
    """A parameter server as a process of its own, which tests kill; a context manager."""

    def __init__(
        self, run_dir: Path, text: str = EXPERIMENT_YAML, env: Mapping[str, str] | None = None
    ) -> None:
        self.hash = experiment_hash(tiny_experiment(text))
        self.address = Address("127.0.0.1", free_port())
        self._config = run_dir.parent / f"{run_dir.name}.yaml"
        self._config.write_text(text)
        self._env = {
            **{key: value for key, value in os.environ.items() if not key.startswith("PRONK_")},
            "PRONK_RUN_DIR": str(run_dir),
            "PRONK_LISTEN": str(self.address),
            **(env or {}),
        }
        self.process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start it and wait until it listens."""
        self.process = self.spawn()
        eventually(lambda: accepts(self.address) or self._ended())

    def spawn(self) -> "subprocess.Popen[str]":
        """Start it and do not wait."""
        command = (
            "import typer; from pronk_param_server.main import param_server as p; typer.run(p)"
        )
        return subprocess.Popen(
            [sys.executable, "-c", command, "--config", str(self._config)],
            env=self._env,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )

    def _ended(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.process.stderr and self.process.stderr.read()
        return False

    def kill(self) -> None:
        """SIGKILL, as a machine that goes away."""
        self.signal(signal.SIGKILL)
        self._wait()

    def terminate(self) -> int:
        """SIGTERM; the exit status."""
        self.signal(signal.SIGTERM)
        return self._wait()

    def signal(self, number: int) -> None:
        """Send a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def _wait(self) -> int:
        assert self.process is not None
        self.process.communicate(timeout=10)
        status: int = self.process.returncode
        self.process = None
        return status

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.process is not None:
            self.kill()

    def connect(self) -> grpc.Channel:
        return connect(Settings(server=self.address))


def accepts(address: Address) -> bool:
    """Whether somebody listens there."""
    try:
        with socket.create_connection((address.host, address.port), timeout=1):
            return True
    except OSError:
        return False
