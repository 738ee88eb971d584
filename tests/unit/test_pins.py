"""Everything that is or could be installed is pinned in constraints.txt."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
NOT_OURS = {"pronk", "pip", "setuptools", "wheel"}
"""What we make, and what a fresh virtual environment holds."""


def pins(text: str) -> dict[str, str]:
    """Name → version of every line of a constraints file that pins exactly."""
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    pairs = (line.split("==") for line in lines if line)
    return {canonicalize_name(name): version for name, version in pairs}


def unpinned(installed: dict[str, str], pinned: dict[str, str]) -> list[str]:
    """Installed distributions without a pin, or of another version than the pinned one."""
    return sorted(
        f"{name} {version}"
        for name, version in installed.items()
        if name not in NOT_OURS and pinned.get(name) != version.partition("+")[0]
    )


@pytest.fixture(scope="module")
def pinned() -> dict[str, str]:
    return pins((ROOT / "constraints.txt").read_text())


def test_everything_installed_is_pinned(pinned):
    installed = {canonicalize_name(d.name): d.version for d in distributions()}

    assert len(installed) > 50, "this is not the environment that `make install` makes"
    assert unpinned(installed, pinned) == []


def test_what_is_installed_goes_together():
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stdout


def test_every_dependency_is_pinned(pinned):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    lines = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(line for extra in project["project"]["optional-dependencies"].values() for line in extra),
    ]
    names = {canonicalize_name(Requirement(line).name) for line in lines} - NOT_OURS

    assert names - pinned.keys() == set()


def test_every_pin_is_exact_and_there_once():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    names = [line.partition("==")[0] for line in lines if line and not line.startswith("#")]

    assert [line for line in lines if line and not re.fullmatch(r"#.*|[\w.-]+==[\w.]+", line)] == []
    assert len({canonicalize_name(name) for name in names}) == len(names)


def test_torch_is_pinned_for_every_build(pinned):
    """No local version such as +cpu; what the CUDA build brings is pinned as well."""
    assert re.fullmatch(r"[\d.]+", pinned["torch"])
    assert {"triton", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13"} <= pinned.keys()


def test_a_stranger_and_another_version_are_told():
    installed = {"pronk": "0.1.0", "torch": "2.13.0+cpu", "numpy": "2.0.0", "stranger": "1.0"}

    assert unpinned(installed, {"torch": "2.13.0", "numpy": "2.4.6"}) == [
        "numpy 2.0.0",
        "stranger 1.0",
    ]
