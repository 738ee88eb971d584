"""Docker and Compose, of either generation, as they are here; our images; our page about them."""

import os
import re
import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[1]
DOCKER = shutil.which("docker", path=os.defpath) or ""
COMMIT = subprocess.check_output(["git", "-C", ROOT, "rev-parse", "HEAD"], text=True).strip()
Program = tuple[str, ...]


def first_generation() -> Program | None:
    """Compose 1, written in Python: Debian's package `docker-compose`."""
    found = shutil.which("docker-compose", path=os.defpath)
    if found is None or not _answers(found, "version", "--short").startswith("1."):
        return None
    return (found,)


def second_generation() -> Program | None:
    """Compose 2, written in Go: Docker's plugin, else the binary inside of a Python package.

    The package's wrapper hides failures.
    """
    if DOCKER and _answers(DOCKER, "compose", "version"):
        return (DOCKER, "compose")
    spec = find_spec("compose")
    if spec is None or spec.origin is None:
        return None
    return (str(Path(spec.origin).with_name("docker-compose")),)


def _answers(*words: str) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout if done.returncode == 0 else ""


def generations() -> dict[str, Program]:
    """Every Compose that is here, the one to prefer first."""
    found = {"compose-2": second_generation(), "compose-1": first_generation()}
    return {name: program for name, program in found.items() if program is not None}


def engine() -> str | None:
    """What lacks to run the cluster in containers; None where nothing does."""
    if not DOCKER:
        return "docker is not installed"
    if not _answers(DOCKER, "info"):
        return "no Docker engine answers"
    return None if generations() else "Docker Compose is not installed"


def docker(*words: str, seconds: float = 120) -> str:
    """What a command of Docker prints."""
    done = subprocess.run([DOCKER, *words], capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, f"docker {' '.join(words)}: {done.stderr}"
    return done.stdout


def build_images(commit: str = COMMIT) -> None:
    """All three, as `make images` does; on this machine a build may need its network."""
    done = subprocess.run(
        ["./scripts/images.sh", "--network", "host"],
        cwd=ROOT, env=environment() | {"COMMIT": commit}, capture_output=True, text=True,
        timeout=1500,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]


def environment() -> dict[str, str]:
    """With Docker's own client first, and all that builds doing it in one way, to share layers."""
    path = f"{Path(DOCKER).parent}{os.pathsep}{os.environ['PATH']}"
    kit = {} if _answers(DOCKER, "buildx", "version") else {"DOCKER_BUILDKIT": "0"}
    return os.environ | {"PATH": path} | kit


def blocks(heading: str, language: str = "") -> list[str]:
    """The blocks of code in a section of docs/operations.md."""
    text = (ROOT / "docs/operations.md").read_text()
    section = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", text, re.MULTILINE | re.DOTALL)
    assert section is not None, heading
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", section[1], re.MULTILINE | re.DOTALL)
    return [code for name, code in fences if name == language]
