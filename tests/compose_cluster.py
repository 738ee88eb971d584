"""The cluster of docker-compose.yml on a real engine, for the tests of it."""

import json
import os
import secrets
import shlex
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from compose_programs import COMMIT, DOCKER, ROOT, Program, docker, environment

from pronk.cli.cluster import free_ports

OURS = ("param-server", "learner", "actor")
STARTED = (*OURS, "redis", "prometheus", "alertmanager")
"""Everything but Grafana, which only looks, and is an image of 400 MB."""
ACTORS = 3


def eventually(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """What `condition` gives as soon as it is true."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.5)
    return value


class Cluster:
    """A project of its own name and ports, taken down with all that it had.

    Attributes:
        name: of the project.
        folder: where commands run, and where there is room.
        configs: experiments; the cluster's own is `test.yaml` in it.
        environment: of every command.
        asking: what `pronk` on this machine needs to ask the cluster.
    """

    def __init__(self, folder: Path, program: Program) -> None:
        self.name = f"pronk-test-{secrets.token_hex(4)}"
        self.folder = folder
        self.configs = folder / "configs"
        self.configs.mkdir()
        names = ("PRONK_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT", "GRAFANA_PORT")
        ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
        self.asking = {"PRONK_SERVER": f"127.0.0.1:{ports['PRONK_PORT']}"}
        self._prometheus = f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}"
        self.environment = environment() | ports | {"EXPERIMENT": "test", "COMMIT": COMMIT}
        self.environment["COMPOSE_PROJECT_NAME"] = self.name
        self.environment["COMPOSE_FILE"] = str(ROOT / "docker-compose.yml")
        self._call_it_docker_compose(program)
        build = {"context": str(ROOT), "network": "host"}
        ours = {"volumes": [f"{self.configs}:/configs:ro"], "build": build}
        # Debian's stand-in for this image has no folder for the volume to take its owner from.
        self.override({**dict.fromkeys(OURS, ours), "alertmanager": {"user": "0:0"}})
        self._volumes = set(docker("volume", "ls", "--quiet").split())

    def _call_it_docker_compose(self, program: Program) -> None:
        """Whatever it is: what people type, and our scripts say, then works with it."""
        shims = self.folder / "bin"
        shims.mkdir()
        (shims / "docker").write_text(
            f'#!/bin/sh\n[ "$1" = compose ] || exec {shlex.quote(DOCKER)} "$@"\n'
            f'shift\nexec {shlex.join(program)} "$@"\n'
        )
        (shims / "docker").chmod(0o755)
        self.environment["PATH"] = f"{shims}{os.pathsep}{self.environment['PATH']}"

    def add(self, file: Path) -> None:
        """One more file; of paths, those in it are absolute."""
        self.environment["COMPOSE_FILE"] += f"{os.pathsep}{file}"

    def override(self, services: Mapping[str, Any]) -> None:
        """Have services otherwise."""
        file = self.folder / f"{secrets.token_hex(4)}.json"
        file.write_text(json.dumps({"services": services}))
        self.add(file)

    def stop_at(self, *, change: Mapping[str, Any] | None = None, **stop: float) -> None:
        """Write the experiment: CartPole, until so much was reached."""
        text = (ROOT / "configs" / "cartpole.yaml").read_text()
        experiment = yaml.safe_load(text) | {"stop": stop} | (change or {})
        experiment["learner"] = {"checkpoint_seconds": 5}
        (self.configs / "test.yaml").write_text(yaml.safe_dump(experiment))

    def run(self, *words: str, seconds: float) -> subprocess.CompletedProcess[str]:
        """A command in the cluster's folder and environment."""
        return subprocess.run(
            words, cwd=self.folder, env=self.environment, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, timeout=seconds, check=False,
        )  # fmt: skip

    def compose(self, *words: str, seconds: float = 300) -> str:
        """What a command of Compose prints."""
        done = self.run("docker", "compose", *words, seconds=seconds)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def follow(self, block: str, seconds: float = 300) -> str:
        """Run commands of a page, as they stand, but for the experiment's name."""
        script = block.replace("cartpole", "test")
        done = self.run("bash", "-euo", "pipefail", "-c", script, seconds=seconds)
        assert done.returncode == 0, f"{script}\n{done.stderr[-4000:]}"
        return done.stdout

    def up(self, *more: str) -> None:
        """Start it, from images that are there, with services of an override."""
        self.compose("up", "--detach", "--scale", f"actor={ACTORS}", *STARTED, *more)

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers."""
        return self.compose("ps", "-q", service).split()

    def inspect(self, service: str, what: str) -> list[str]:
        """Something about each of a service's containers, in Docker's own words."""
        found = self.containers(service)
        return docker("inspect", "--format", what, *found).splitlines() if found else []

    def restarts(self, service: str) -> int:
        """How often the restart policy brought the first of its containers back."""
        return _restarts(self.containers(service)[0])

    def kill(self, service: str) -> None:
        """Kill a service, not its container, and see it restarted.

        What `docker kill` ends is never restarted.
        """
        container = self.containers(service)[0]
        before = _restarts(container)
        docker("exec", container, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")
        eventually(lambda: _restarts(container) > before, 60, f"{service} is restarted")

    def ask(
        self, *words: str, of: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run `pronk` on this machine, with `asking` or other credentials."""
        return subprocess.run(
            [sys.executable, "-m", "pronk.cli.main", *words],
            env=os.environ | (self.asking if of is None else of), capture_output=True, text=True,
            timeout=60, check=False,
        )  # fmt: skip

    def status(self) -> dict[str, Any] | None:
        """What `pronk status` says on this machine; None while nobody answers."""
        done = self.ask("status", "--json")
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found or None

    @property
    def frames(self) -> int:
        """How many were learned; 0 while nobody says."""
        status = self.status()
        return int(status["frames"]) if status else 0

    def goes_on(self, when: str, since: int | None = None) -> None:
        """See it learn from now on, or beyond `since` frames, with everybody up."""
        frames = self.frames if since is None else since
        eventually(lambda: self.frames > frames + 50_000, 180, f"it learns {when}")
        eventually(self.all_up, 60, f"every target is up {when}")

    def targets(self) -> dict[str, list[str]]:
        """What Prometheus scrapes: the health of every target by job."""
        jobs: dict[str, list[str]] = {}
        for target in self._tell("targets").get("activeTargets", ()):
            jobs.setdefault(target["labels"]["job"], []).append(target["health"])
        return jobs

    def all_up(self) -> bool:
        """Whether Prometheus reaches everybody."""
        return self.targets() == {
            "actor": ["up"] * ACTORS,
            "learner": ["up"],
            "param-server": ["up"],
            "prometheus": ["up"],
        }

    def value(self, expression: str) -> float | None:
        """Of a query with one answer; None while there is none."""
        result = self._tell("query", query=expression).get("result")
        return float(result[0]["value"][1]) if result else None

    def _tell(self, what: str, **options: str) -> dict[str, Any]:
        url = f"{self._prometheus}/api/v1/{what}?{urllib.parse.urlencode(options)}"
        try:
            with urllib.request.urlopen(url, timeout=10) as answer:
                data: dict[str, Any] = json.load(answer)["data"]
        except OSError:  # it is starting
            return {}
        return data

    def healthy(self) -> list[str]:
        """Containers whose health check succeeds."""
        mine = f"label=com.docker.compose.project={self.name}"
        return docker("ps", "--quiet", "--filter", "health=healthy", "--filter", mine).split()

    def left_behind(self) -> list[str]:
        """What is there of it, and volumes that came since: those without a name say no project."""
        label = f"label=com.docker.compose.project={self.name}"
        volumes = set(docker("volume", "ls", "--quiet").split())
        return [
            *docker("ps", "--all", "--quiet", "--filter", label).split(),
            *docker("network", "ls", "--quiet", "--filter", label).split(),
            *sorted(volumes - self._volumes),
        ]


def _restarts(container: str) -> int:
    return int(docker("inspect", "--format", "{{.RestartCount}}", container))
