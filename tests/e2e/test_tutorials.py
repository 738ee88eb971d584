"""The tutorials work as they stand: their files are written, their commands run.

Together they work too: the README's command takes the environment of one and the network of the
other.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILE = re.compile(r"ave this as `([\w/.]+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```sh\n(.*?)```", re.DOTALL)


OWN = re.compile(r"^pronk up configs/.*my_package.*$", re.MULTILINE)


def write_files(text: str, folder: Path) -> None:
    """Those that a tutorial tells to save."""
    files = FILE.findall(text)
    assert len(files) == 2
    for name, content in files:
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)


def run(commands: list[str], folder: Path) -> None:
    done = subprocess.run(
        ["bash", "-euc", "\n".join(commands)],
        cwd=folder,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def read(tutorial: str) -> str:
    return (ROOT / f"docs/tutorials/{tutorial}.md").read_text()


@pytest.mark.parametrize("tutorial", ["your-own-environment", "your-own-network"])
def test_tutorial(tutorial, tmp_path):
    write_files(read(tutorial), tmp_path)
    commands = COMMANDS.findall(read(tutorial))
    assert commands

    run(commands, tmp_path)

    assert list(tmp_path.glob("runs/*/policies/default-*/graph.onnx"))
    assert list(tmp_path.glob("runs/*/summary.json"))


@pytest.mark.slow
def test_the_environment_of_one_trains_with_the_network_of_the_other(tmp_path):
    """As the README has it; a few updates are enough."""
    for tutorial in ("your-own-environment", "your-own-network"):
        write_files(read(tutorial), tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (command,) = OWN.findall((ROOT / "README.md").read_text())

    run([f"{command} --run-dir runs/both --set stop.frames=5_000"], tmp_path)

    assert list(tmp_path.glob("runs/both/policies/default-*/graph.onnx"))
