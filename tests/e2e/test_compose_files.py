"""What `docker compose` reads: both generations of Compose accept it, and it holds all short."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMBINATIONS = ((), ("gpu",), ("secure",), ("gpu", "secure"))
OURS = ("actor", "learner", "param-server")
DOCKERFILES = sorted(ROOT.glob("services/*/Dockerfile"))
_PORT = re.compile(r"127\.0\.0\.1:\d+:\d+")


def first_generation() -> list[str]:
    """Compose 1, written in Python: Debian's package `docker-compose`."""
    found = shutil.which("docker-compose", path=os.defpath)
    if found is None:
        pytest.skip("Compose 1 (docker-compose of Debian 12) is not installed")
    return [found]


def second_generation() -> list[str]:
    """Compose 2, written in Go: the binary inside the package, whose wrapper hides failures."""
    spec = find_spec("compose")
    assert spec is not None
    assert spec.origin is not None
    return [str(Path(spec.origin).with_name("docker-compose"))]


def config(program: list[str], *more: str) -> dict[str, Any]:
    """The whole cluster as Compose understands it."""
    files = ["docker-compose.yml", *(f"docker-compose.{each}.yml" for each in more)]
    named = [word for file in files for word in ("--file", file)]
    shown = subprocess.run(
        [*program, *named, "config"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert shown.returncode == 0, shown.stderr
    understood: dict[str, Any] = yaml.safe_load(shown.stdout)
    return understood


@pytest.mark.parametrize("more", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("generation", [first_generation, second_generation])
def test_both_generations_of_compose_accept_it(generation: Any, more: tuple[str, ...]) -> None:
    assert set(config(generation(), *more)["services"]) == {
        "redis", "param-server", "learner", "actor", "prometheus", "alertmanager", "grafana",
    }  # fmt: skip


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = config(second_generation())["services"]
    return found


def test_every_container_is_held_short(services: dict[str, Any]) -> None:
    for name, service in services.items():
        assert service["read_only"] is True, name
        assert service["init"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert service["restart"] == "unless-stopped", name
        assert int(service["mem_limit"]) > 0, name
        assert set(service["logging"]["options"]) == {"max-size", "max-file"}, name
        assert not service.get("privileged"), name
        if name not in OURS:
            assert service["user"].split(":")[0] not in ("", "0", "root"), name
            assert re.fullmatch(r"[a-z/]+:v?\d+(\.\d+)+(-bookworm)?", service["image"]), name


def test_only_this_machine_reaches_the_ports(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert len(published) == 4
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_who_waits_for_whom(services: dict[str, Any]) -> None:
    for name in ("learner", "actor"):
        wanted = {each: how["condition"] for each, how in services[name]["depends_on"].items()}
        assert wanted == {"redis": "service_healthy", "param-server": "service_healthy"}


def test_redis_refuses_rather_than_forgets_and_writes_nothing(services: dict[str, Any]) -> None:
    command = services["redis"]["command"]
    options = dict(zip(command[1::2], command[2::2], strict=True))
    assert options["--maxmemory-policy"] == "noeviction"
    assert options["--save"] == ""
    assert options["--appendonly"] == "no"
    assert options["--maxmemory"] == "1gb"
    assert not services["redis"].get("volumes")


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_images_are_built_as_we_say(path: Path) -> None:
    text = path.read_text()
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER \d+:\d+$", last, re.MULTILINE)
    entry = re.search(r"^ENTRYPOINT (.*)$", last, re.MULTILINE)
    health = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (.*)$", last, re.MULTILINE)
    assert entry is not None
    assert json.loads(entry[1])[0] == "pronk"
    assert health is not None
    assert json.loads(health[1]) == ["python", "-m", "pronk.transport.probe"]
    assert "PIP_CONSTRAINT=constraints.txt" in text
    assert "pip install" not in last
    assert text.count("FROM python:3.11-slim-bookworm") == 2


def test_no_image_asks_for_a_volume_that_has_no_name(services: dict[str, Any]) -> None:
    """Docker makes one with every container otherwise, and few remember to remove them."""
    for path in DOCKERFILES:
        asked = set(re.findall(r"^VOLUME (.*)$", path.read_text(), re.MULTILINE))
        volumes = services[path.parent.name.replace("_", "-")]["volumes"]
        assert asked == {each["target"] for each in volumes if each["type"] == "volume"}, path


def test_the_linter_of_dockerfiles_is_content() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, *DOCKERFILES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
