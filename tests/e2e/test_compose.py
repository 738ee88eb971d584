"""The cluster of docker-compose.yml on a real engine: it learns, and outlives what is done to it.

Needs a Docker engine and Compose; `make images` first is not needed, but then it takes longer.
"""

import json
import os
import secrets
import shutil
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pronk.cli.cluster import free_ports

ROOT = Path(__file__).parents[2]
DOCKER = shutil.which("docker", path=os.defpath)
COMPOSE = shutil.which("docker-compose", path=os.defpath)
STARTED = ("redis", "param-server", "learner", "actor", "prometheus", "alertmanager")
"""Everything but Grafana, which only looks, and is an image of 400 MB."""
ACTORS = 3
CUT_SECONDS = 20.0


def engine() -> str | None:
    """Why there is none."""
    if DOCKER is None or COMPOSE is None:
        return "docker and docker-compose are not installed"
    asked = subprocess.run([DOCKER, "info"], capture_output=True, timeout=30)
    return None if asked.returncode == 0 else "no Docker engine answers"


pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
if (missing := engine()) is not None:
    pytest.skip(missing, allow_module_level=True)


def docker(*words: str, seconds: float = 120) -> str:
    assert DOCKER is not None
    done = subprocess.run([DOCKER, *words], capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout


def eventually(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"never: {what}"
        time.sleep(0.5)
    return value


class Cluster:
    """A project of its own name and ports, taken down with all that it had."""

    def __init__(self, folder: Path) -> None:
        self.name = f"pronk-test-{secrets.token_hex(4)}"
        self.configs = folder / "configs"
        self.configs.mkdir()
        names = ("PRONK_PORT", "PROMETHEUS_PORT", "ALERTMANAGER_PORT", "GRAFANA_PORT")
        ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
        self.server = f"127.0.0.1:{ports['PRONK_PORT']}"
        self._prometheus = f"http://127.0.0.1:{ports['PROMETHEUS_PORT']}"
        self._environment = {**os.environ, **ports, "EXPERIMENT": "test"}
        self._override = folder / "override.yml"
        ours = {
            "volumes": [f"{self.configs}:/configs:ro"],
            "build": {"context": str(ROOT), "network": "host"},
        }
        # Debian's stand-in for this image has no folder for the volume to take its owner from.
        others = {"alertmanager": {"user": "0:0"}}
        services = dict.fromkeys(("param-server", "learner", "actor"), ours) | others
        self._override.write_text(json.dumps({"services": services}))

    def stop_at(self, **stop: float) -> None:
        """Write the experiment: CartPole, until so much was reached."""
        text = (ROOT / "configs" / "cartpole.yaml").read_text()
        experiment = yaml.safe_load(text) | {"stop": stop}
        experiment["learner"] = {"checkpoint_seconds": 5}
        (self.configs / "test.yaml").write_text(yaml.safe_dump(experiment))

    def compose(self, *words: str, seconds: float = 300) -> str:
        files = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(self._override))
        done = subprocess.run(
            [str(COMPOSE), *files, "-p", self.name, *words],
            cwd=ROOT, env=self._environment, capture_output=True, text=True, timeout=seconds,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout

    def up(self) -> None:
        self.compose(
            "up", "--detach", "--build", "--scale", f"actor={ACTORS}", *STARTED, seconds=1500
        )

    def containers(self, service: str) -> list[str]:
        return self.compose("ps", "-q", service).split()

    def status(self) -> dict[str, Any] | None:
        """What `pronk status` says on this machine; None while nobody answers."""
        done = subprocess.run(
            [sys.executable, "-m", "pronk.cli.main", "status", "--json"],
            env=os.environ | {"PRONK_SERVER": self.server}, capture_output=True, timeout=60,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {}
        return found or None

    @property
    def frames(self) -> int:
        status = self.status()
        return int(status["frames"]) if status else 0

    def targets(self) -> dict[str, list[str]]:
        """What Prometheus scrapes: the health of every target by job."""
        jobs: dict[str, list[str]] = {}
        for target in self._ask("targets")["activeTargets"]:
            jobs.setdefault(target["labels"]["job"], []).append(target["health"])
        return jobs

    def all_up(self) -> bool:
        return self.targets() == {
            "actor": ["up"] * ACTORS,
            "learner": ["up"],
            "param-server": ["up"],
            "prometheus": ["up"],
        }

    def query(self, expression: str) -> list[dict[str, Any]]:
        result: list[dict[str, Any]] = self._ask("query", query=expression)["result"]
        return result

    def _ask(self, what: str, **options: str) -> dict[str, Any]:
        url = f"{self._prometheus}/api/v1/{what}?{urllib.parse.urlencode(options)}"
        with urllib.request.urlopen(url, timeout=10) as answer:
            data: dict[str, Any] = json.load(answer)["data"]
        return data

    def healthy(self) -> list[str]:
        mine = f"label=com.docker.compose.project={self.name}"
        return docker("ps", "--quiet", "--filter", "health=healthy", "--filter", mine).split()

    def left_behind(self) -> list[str]:
        label = f"label=com.docker.compose.project={self.name}"
        return [
            *docker("ps", "--all", "--quiet", "--filter", label).split(),
            *docker("volume", "ls", "--quiet", "--filter", label).split(),
            *docker("network", "ls", "--quiet", "--filter", label).split(),
        ]


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
        assert not made.left_behind()
    except BaseException:
        print(made.compose("logs", "--no-color", "--tail", "60"))
        raise
    finally:
        made.compose("down", "--volumes", "--timeout", "30")


@pytest.fixture(scope="module")
def images() -> None:
    done = subprocess.run(
        ["./scripts/images.sh", "--network", "host"],
        cwd=ROOT, capture_output=True, text=True, timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def in_image(name: str, script: str, *options: str) -> str:
    """What a Python script prints in a container as docker-compose.yml runs it."""
    hard = ("--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")
    return docker("run", *hard, *options, "--entrypoint", "python", name, "-c", script).strip()


@pytest.mark.parametrize(("service", "megabytes"), [("param-server", 150), ("actor", 400)])
def test_images_without_torch_are_small(images: None, service: str, megabytes: int) -> None:
    name = f"pronk-{service}:local"
    look = "import importlib.util as u; print([n for n in {} if u.find_spec(n)])"
    assert in_image(name, look.format(["torch", "grpc"])) == "['grpc']"
    sizes = [
        int(docker("image", "inspect", "--format", "{{.Size}}", each))
        for each in (name, "python:3.11-slim-bookworm")
    ]
    assert (sizes[0] - sizes[1]) / 1e6 <= megabytes


def test_every_experiment_of_ours_has_its_environment(images: None) -> None:
    names = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))
    script = f"""
from pathlib import Path
from pronk import config, envs
for name in {names}:
    envs.describe(config.load(Path("/configs", name), ()).env)
    print(name)
"""
    shown = in_image("pronk-actor:local", script, "-v", f"{ROOT}/configs:/configs:ro")
    assert shown.splitlines()[-len(names) :] == names


def test_code_of_a_users_own_comes_in_by_a_mount_or_an_image(images: None, tmp_path: Path) -> None:
    code = tmp_path / "code"
    package = code / "my_package"
    package.mkdir(parents=True)
    (package / "envs.py").write_text(
        "import gymnasium\ndef make_env():\n    return gymnasium.make('CartPole-v1')\n"
    )
    script = """
from pronk import envs
from pronk.config.schema import EnvConfig
print(envs.describe(EnvConfig(id="my_package.envs:make_env")).environment)
"""
    mounted = in_image("pronk-actor:local", script, "-v", f"{code}:/code:ro")
    assert mounted.splitlines()[-1] == "my_package.envs:make_env"
    dockerfile = code / "Dockerfile"
    dockerfile.write_text("FROM pronk-actor:local\nCOPY my_package /code/my_package\n")
    tag = f"pronk-test-{secrets.token_hex(4)}"
    docker("build", "--quiet", "--tag", tag, str(code))
    try:
        assert in_image(tag, script).splitlines()[-1] == "my_package.envs:make_env"
    finally:
        docker("image", "rm", "--force", tag)


def restarts(container: str) -> int:
    return int(docker("inspect", "--format", "{{.RestartCount}}", container))


def kill_service(container: str) -> None:
    """Kill the service, not its container: what `docker kill` ends is never restarted."""
    docker("exec", container, "sh", "-c", "kill -9 $(cat /proc/1/task/1/children)")


def test_it_learns_and_outlives_whatever_is_done_to_it(cluster: Cluster) -> None:
    cluster.stop_at(frames=10**12)
    cluster.up()
    eventually(cluster.all_up, 120, "every target of Prometheus is up")
    eventually(lambda: cluster.frames > 100_000, 120, "it learns")

    for service in ("actor", "learner", "redis", "param-server"):
        container = cluster.containers(service)[0]
        before = restarts(container)
        kill_service(container)
        eventually(lambda c=container, n=before: restarts(c) > n, 60, f"{service} is restarted")
        goes_on(cluster, f"after {service} was killed")

    for service in ("actor", "learner", "redis", "param-server"):
        container = cluster.containers(service)[0]
        docker("network", "disconnect", f"{cluster.name}_default", container)
        time.sleep(CUT_SECONDS)
        docker("network", "connect", "--alias", service, f"{cluster.name}_default", container)
        goes_on(cluster, f"after {service} was cut off")

    # Down and up again, with another stop condition: it goes on where it was.
    before_down = cluster.frames
    cluster.compose("down", "--timeout", "60")
    cluster.stop_at(return_mean=475, frames=10**12)
    cluster.up()
    eventually(lambda: cluster.frames >= before_down * 0.9 > 0, 120, "it resumes")
    finished = eventually(
        lambda: (found := cluster.status()) and found["state"] == "FINISHED" and found,
        300,
        "the run is over",
    )
    assert finished["return_mean"] >= 475
    eventually(cluster.all_up, 60, "everybody is up at the end")
    assert len([m for m in finished["members"] if m["alive"]]) == ACTORS + 1
    frames = cluster.frames
    time.sleep(5)
    assert cluster.frames == frames, "everybody is idle"
    eventually(lambda: len(cluster.healthy()) == ACTORS + 3, 60, "all are healthy")
    cluster.compose("down", "--volumes", "--timeout", "60")


def goes_on(cluster: Cluster, when: str) -> None:
    frames = cluster.frames
    eventually(lambda: cluster.frames > frames + 50_000, 180, f"it learns {when}")
    eventually(cluster.all_up, 60, f"every target is up {when}")
