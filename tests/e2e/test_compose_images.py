"""Our images on a real engine: their size, what is in them, how code of a user's own comes in."""

import re
import secrets
import zipfile
from pathlib import Path

import pytest
from compose_cluster import Cluster, eventually
from compose_programs import ROOT, blocks, docker, engine

ENVIRONMENT = """
import gymnasium


def make_env():
    return gymnasium.make("CartPole-v1")
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
if (missing := engine()) is not None:
    pytest.skip(missing, allow_module_level=True)


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


def users_code(folder: Path) -> Path:
    """A package with an environment of its own, and the network of our tutorial."""
    tutorial = (ROOT / "docs/tutorials/your-own-network.md").read_text()
    network = re.search(r"`my_package/nets.py`:\n\n```python\n(.*?)```", tutorial, re.DOTALL)
    assert network is not None
    package = folder / "my_code/my_package"
    package.mkdir(parents=True)
    (package / "envs.py").write_text(ENVIRONMENT)
    (package / "nets.py").write_text(network[1])
    return folder / "my_code"


def users_simulator(folder: Path) -> str:
    """A package to install that needs what the image has in a version of its own; its wheel."""
    name = "my_simulator-1.0-py3-none-any.whl"
    about = "my_simulator-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: my-simulator\nVersion: 1.0\nRequires-Dist: numpy\n"
    with zipfile.ZipFile(folder / name, "w") as wheel:
        wheel.writestr("my_simulator.py", "GRAVITY = 9.8\n")
        wheel.writestr(f"{about}/METADATA", metadata)
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr(f"{about}/RECORD", "")
    return name


def test_an_image_of_a_users_own_is_made_as_the_page_says(images: None, tmp_path: Path) -> None:
    code = users_code(tmp_path)
    wheel = users_simulator(code / "my_package")
    (dockerfile,) = blocks("Install", "Dockerfile")
    text = dockerfile.replace("my-simulator", f"/code/my_package/{wheel}")
    assert text != dockerfile
    (code / "Dockerfile").write_text(text)
    tag = f"pronk-test-{secrets.token_hex(4)}"
    held = "import importlib.metadata as m; print(m.version('numpy'), m.version('onnxruntime'))"
    look = """
import os, my_simulator
from pronk import envs
from pronk.config.schema import EnvConfig
print(envs.describe(EnvConfig(id="my_package.envs:make_env")).environment, os.getuid())
"""
    docker("build", "--quiet", "--network", "host", "--tag", tag, str(code), seconds=600)
    try:
        assert in_image(tag, look).splitlines()[-1] == "my_package.envs:make_env 10001"
        assert in_image(tag, held) == in_image("pronk-actor:local", held)
    finally:
        docker("image", "rm", "--force", tag)


def test_a_mounted_environment_is_played_and_a_mounted_network_learns(
    cluster: Cluster, tmp_path: Path
) -> None:
    code = users_code(tmp_path)
    override = tmp_path / "docker-compose.override.yml"
    page = blocks("Install", "yaml")[0]
    assert "./my_code:" in page
    override.write_text(page.replace("./my_code:", f"{code}:"))
    cluster.add(override)
    own = {"env": {"id": "my_package.envs:make_env"}, "network": {"id": "my_package.nets:MyNet"}}
    cluster.stop_at(change=own, frames=10**12)
    cluster.up()
    eventually(lambda: cluster.frames > 50_000, 240, "it learns")
    eventually(cluster.all_up, 60, "every target of Prometheus is up")
    cluster.compose("down", "--volumes")
