"""Where torch is looked for; with a pip that only says what it was asked."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/install_torch.sh"
PIP = """#!/bin/sh
echo "$@" >> "$LOG"
case "$*" in *--no-index*) exit "$LOCAL_WHEEL" ;; esac
"""


@pytest.fixture
def asked(tmp_path):
    (tmp_path / "pip").write_text(PIP)
    (tmp_path / "pip").chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)

    def ask(*index: str, local_wheel: bool) -> list[str]:
        environment = os.environ | {
            "LOG": str(tmp_path / "log"),
            "LOCAL_WHEEL": "0" if local_wheel else "1",
        }
        subprocess.run([SCRIPT, tmp_path / "pip", *index], env=environment, check=False)
        return (tmp_path / "log").read_text().splitlines()

    return ask


def test_a_wheel_on_the_machine_needs_no_network(asked):
    (call,) = asked(local_wheel=True)

    assert "--no-index" in call
    assert "http" not in call


def test_without_one_cpu_builds_are_asked_for_once_and_briefly(asked):
    _, call = asked(local_wheel=False)

    assert "--extra-index-url https://download.pytorch.org/whl/cpu" in call
    assert "--retries 0 --timeout 15" in call


def test_a_url_is_where_to_look(asked):
    (call,) = asked("https://example.com/cu130", local_wheel=True)

    assert "--force-reinstall --index-url https://example.com/cu130" in call


def test_a_folder_is_where_to_look(asked, tmp_path):
    (call,) = asked(str(tmp_path), local_wheel=True)

    assert f"--no-index --find-links {tmp_path}" in call


def test_torch_comes_alone(asked):
    for call in asked(local_wheel=False):
        assert "--no-deps" in call
        assert call.endswith(" torch")


def test_make_asks_again_when_another_index_is_named(tmp_path):
    """Once for each index; whoever names none keeps what is there."""
    (tmp_path / ".venv").mkdir()
    (tmp_path / "scripts").mkdir()
    (tmp_path / ".venv/pyvenv.cfg").touch()
    (tmp_path / "constraints.txt").touch()
    (tmp_path / "Makefile").write_text((SCRIPT.parents[1] / "Makefile").read_text())
    (tmp_path / "scripts/install_torch.sh").write_text('#!/bin/sh\necho "asked $2" >> log\n')
    (tmp_path / "scripts/install_torch.sh").chmod(0o755)
    for index in ((), ("TORCH_INDEX=one",), ("TORCH_INDEX=one",), (), ("TORCH_INDEX=two",)):
        subprocess.run(["make", "-s", ".venv/torch", *index], cwd=tmp_path, check=True)

    assert (tmp_path / "log").read_text().splitlines() == ["asked ", "asked one", "asked two"]
