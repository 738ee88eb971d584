"""The tutorials work as they stand: their files are written, their commands run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

TUTORIALS = Path(__file__).parents[2] / "docs/tutorials"
FILE = re.compile(r"ave this as `([\w/.]+)`:\n\n```\w+\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```sh\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("tutorial", ["your-own-environment", "your-own-network"])
def test_tutorial(tutorial, tmp_path):
    text = (TUTORIALS / f"{tutorial}.md").read_text()
    files, commands = FILE.findall(text), COMMANDS.findall(text)
    assert len(files) == 2
    assert commands
    for name, content in files:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content)

    done = subprocess.run(
        ["bash", "-euc", "\n".join(commands)],
        cwd=tmp_path,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert list(tmp_path.glob("runs/*/policies/default-*/graph.onnx"))
    assert list(tmp_path.glob("runs/*/summary.json"))
