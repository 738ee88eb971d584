"""What `docker compose` reads: both generations of Compose accept it, and it holds all short."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_programs import ROOT, Program, blocks, first_generation, second_generation

COMBINATIONS = ((), ("gpu",), ("secure",), ("gpu", "secure"))
OURS = ("actor", "learner", "param-server")
DOCKERFILES = sorted(ROOT.glob("services/*/Dockerfile"))

PRIVATE = {"PRONK_INSECURE": "0", "PRONK_REDIS_URL": ""}
TLS = {
    "PRONK_TLS_CA": "/secrets/ca.crt",
    "PRONK_TLS_CERT": "/secrets/tls.crt",
    "PRONK_TLS_KEY": "/secrets/tls.key",
}
Generation = Callable[[], Program | None]


def config(generation: Generation, *files: str | Path, **variables: str) -> dict[str, Any]:
    """The whole cluster as Compose understands it."""
    program = generation()
    if program is None:
        pytest.skip("this generation of Compose is not installed")
    named = [word for file in ("docker-compose.yml", *files) for word in ("--file", str(file))]
    shown = subprocess.run(
        [*program, *named, "config"],
        cwd=ROOT, env=os.environ | variables, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert shown.returncode == 0, shown.stderr
    understood: dict[str, Any] = yaml.safe_load(shown.stdout)
    return understood


def options(service: dict[str, Any]) -> dict[str, str]:
    """A command's options, each with its value."""
    command = service["command"]
    return dict(zip(command[1::2], command[2::2], strict=True))


@pytest.mark.parametrize("more", COMBINATIONS, ids="+".join)
@pytest.mark.parametrize("generation", [first_generation, second_generation])
def test_both_generations_of_compose_accept_it(
    generation: Generation, more: tuple[str, ...]
) -> None:
    files = [f"docker-compose.{each}.yml" for each in more]
    assert set(config(generation, *files)["services"]) == {
        "redis", "param-server", "learner", "actor", "prometheus", "alertmanager", "grafana",
    }  # fmt: skip


@pytest.mark.parametrize("generation", [first_generation, second_generation])
def test_both_accept_what_the_page_says_to_write(generation: Generation, tmp_path: Path) -> None:
    override = tmp_path / "override.yml"
    mounts, policies = blocks("Install", "yaml")
    override.write_text(mounts)
    found = config(generation, override)["services"]
    for name in ("actor", "learner"):
        assert "/code" in str(found[name]["volumes"]), name

    override.write_text(policies)
    found = config(generation, override)["services"]
    learners = [service for name, service in found.items() if name.startswith("learner")]
    assert [service["command"][-2:] for service in learners] == [
        ["--policy", "left"],
        ["--policy", "right"],
    ]
    # What holds a learner short, and where its state lies, is said once more there.
    differ = {"build", "command", "depends_on", "environment", "networks"}
    first, second = ({k: v for k, v in s.items() if k not in differ} for s in learners)
    assert first | {"logging": None} == second | {"logging": None}


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    found: dict[str, Any] = config(second_generation, COMMIT="c0ffee")["services"]
    return found


@pytest.fixture(scope="module")
def guarded() -> dict[str, Any]:
    found: dict[str, Any] = config(second_generation, "docker-compose.secure.yml")["services"]
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
        if name in OURS:
            assert service["tmpfs"] == ["/tmp"], name
        else:
            assert service["user"].split(":")[0] not in ("", "0", "root"), name
            assert re.fullmatch(r"[a-z/]+:v?\d+(\.\d+)+(-bookworm)?", service["image"]), name


def test_everybody_says_how_they_are_and_has_time_to_end(services: dict[str, Any]) -> None:
    # Our images bring their own checks along.
    checked = {name for name, service in services.items() if service.get("healthcheck")}
    assert checked == services.keys() - set(OURS)
    given = {name: services[name].get("stop_grace_period") for name in OURS}
    assert given == {"actor": "30s", "learner": "1m30s", "param-server": "15s"}


def test_images_know_their_commit(services: dict[str, Any]) -> None:
    for name in OURS:
        assert services[name]["build"]["args"] == {"COMMIT": "c0ffee"}, name


def test_only_this_machine_reaches_the_ports(services: dict[str, Any]) -> None:
    published = [port for service in services.values() for port in service.get("ports", ())]
    assert len(published) == 4
    assert {port["host_ip"] for port in published} == {"127.0.0.1"}


def test_who_waits_for_whom(services: dict[str, Any]) -> None:
    for name in ("learner", "actor"):
        wanted = {each: how["condition"] for each, how in services[name]["depends_on"].items()}
        assert wanted == {"redis": "service_healthy", "param-server": "service_healthy"}


@pytest.mark.parametrize("which", ["services", "guarded"])
def test_redis_refuses_rather_than_forgets_and_writes_nothing(
    which: str, request: pytest.FixtureRequest
) -> None:
    redis = request.getfixturevalue(which)["redis"]
    given = options(redis)
    assert given["--maxmemory-policy"] == "noeviction"
    assert given["--save"] == ""
    assert given["--appendonly"] == "no"
    assert given["--maxmemory"] == "1gb"
    assert all(volume["read_only"] for volume in redis.get("volumes", ()))


def test_secured_nobody_is_trusted_without_credentials(guarded: dict[str, Any]) -> None:
    for name in ("learner", "actor"):
        assert (
            guarded[name]["environment"].items()
            >= {
                **PRIVATE,
                **TLS,
                "PRONK_TOKEN_FILE": "/secrets/token",
                "PRONK_REDIS_URL_FILE": "/secrets/redis_url",
            }.items()
        )
    server = guarded["param-server"]["environment"]
    assert server.items() >= (PRIVATE | TLS | {"PRONK_TOKENS_FILE": "/secrets/tokens"}).items()
    given = options(guarded["redis"])
    assert (given["--port"], given["--tls-port"]) == ("0", "6379")
    assert given["--aclfile"] == "/secrets/users.acl"
    assert given["--tls-cert-file"] == "/secrets/tls.crt"
    assert given["--tls-key-file"] == "/secrets/tls.key"


def test_secured_each_holds_its_own_secrets_and_no_others(guarded: dict[str, Any]) -> None:
    for name, service in guarded.items():
        mounts = [each for each in service.get("volumes", ()) if "/secrets" in each["source"]]
        wanted = [str(ROOT / "secrets" / name)] if name in (*OURS, "redis") else []
        assert [each["source"] for each in mounts] == wanted
        assert all(each["read_only"] and each["target"] == "/secrets" for each in mounts), name


def test_a_gpu_learner_is_another_image_and_is_given_one() -> None:
    found = config(second_generation, "docker-compose.gpu.yml", TORCH_INDEX="", COMMIT="c0ffee")
    learner = found["services"]["learner"]
    assert learner["image"] == "pronk-learner:cuda"
    assert learner["build"]["args"] == {
        "COMMIT": "c0ffee",
        "TORCH_INDEX": "https://download.pytorch.org/whl/cu130",
    }
    assert learner["deploy"]["resources"]["reservations"]["devices"] == [
        {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    ]


@pytest.mark.parametrize("path", DOCKERFILES, ids=lambda path: path.parent.name)
def test_images_are_built_as_we_say(path: Path) -> None:
    text = path.read_text()
    last = text[text.rindex("\nFROM ") :]
    assert re.search(r"^USER \d+:\d+$", last, re.MULTILINE)
    entry = re.search(r"^ENTRYPOINT (.*)$", last, re.MULTILINE)
    health = re.search(r"^HEALTHCHECK .*\\\n\s+CMD (.*)$", last, re.MULTILINE)
    assert entry is not None
    assert json.loads(entry[1]) == ["pronk", path.parent.name.replace("_", "-")]
    assert health is not None
    assert json.loads(health[1]) == ["python", "-m", "pronk.transport.probe"]
    assert "PIP_CONSTRAINT=constraints.txt" in text
    assert "pip install" not in last
    assert text.count("FROM python:3.11-slim-bookworm") == 2
    assert set(re.findall(r"MALLOC_\w+", last)) == {
        "MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "MALLOC_ARENA_MAX",
    }  # fmt: skip
    labels = dict(re.findall(r'org\.opencontainers\.image\.(\w+)="([^"]+)"', last))
    assert labels.keys() == {"title", "description", "licenses", "revision"}


def test_no_image_asks_for_a_volume_that_has_no_name(services: dict[str, Any]) -> None:
    """Docker makes one with every container otherwise, and few remember to remove them."""
    for path in DOCKERFILES:
        asked = set(re.findall(r"^VOLUME (.*)$", path.read_text(), re.MULTILINE))
        volumes = services[path.parent.name.replace("_", "-")]["volumes"]
        assert asked == {each["target"] for each in volumes if each["type"] == "volume"}, path


def test_the_linter_of_dockerfiles_is_content() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    if not hadolint.exists():
        pytest.skip("hadolint has no build for this machine")
    done = subprocess.run([hadolint, *DOCKERFILES], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout
