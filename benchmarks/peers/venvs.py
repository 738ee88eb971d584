"""A virtual environment for every peer, from its own requirements."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from peers import HERE, OURS, Peer

_INSTALL_TORCH = HERE.parents[1] / "scripts" / "install_torch.sh"
_STAMP = "requirements-installed.txt"


def python_of(peer: Peer, folder: Path) -> str:
    """The interpreter that a peer runs in."""
    if peer.folder == OURS:
        return sys.executable
    return str(folder.absolute() / peer.folder / "bin" / "python")


def is_ready(peer: Peer, folder: Path) -> bool:
    """Whether a peer's environment holds what its requirements say."""
    if peer.folder == OURS:
        return True
    stamp = folder / peer.folder / _STAMP
    return stamp.exists() and stamp.read_text() == _requirements(peer).read_text()


def make(peer: Peer, folder: Path) -> None:
    """Make the environment of a peer, or bring it up to its requirements.

    Raises:
        subprocess.CalledProcessError: a program failed; it has said why.
    """
    home = folder.absolute() / peer.folder
    requirements = _requirements(peer)
    if not (home / "bin" / "pip").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
    # Our own constraints are not theirs; theirs pin torch, which has an installer of its own.
    variables = {key: value for key, value in os.environ.items() if "CONSTRAINT" not in key}
    pins = home / "constraints.txt"
    pins.write_text(re.sub(r"\[\w+\]", "", requirements.read_text()))  # these take no extras
    variables["PIP_CONSTRAINT"] = str(pins)
    pip = str(home / "bin" / "pip")
    subprocess.run([str(_INSTALL_TORCH), pip], env=variables, check=True)
    command = [pip, "install", "--quiet", "-r", str(requirements)]
    subprocess.run(command, env=variables, check=True)
    (home / _STAMP).write_text(requirements.read_text())


def bare_rates(python: str, workload: str) -> dict[str, float]:
    """Steps per second of an environment alone, by kind: single, vector."""
    command = [python, str(HERE / "workloads.py"), workload]
    done = subprocess.run(command, capture_output=True, check=False)
    for line in done.stdout.decode(errors="replace").splitlines():
        if line.startswith("BARE "):
            found: dict[str, float] = json.loads(line.removeprefix("BARE "))
            return found
    return {}


def versions(python: str, packages: Iterable[str]) -> dict[str, Any]:
    """Versions of installed packages, and of Python itself."""
    program = (
        "import json, platform, sys; from importlib.metadata import version;"
        "print(json.dumps({'python': platform.python_version()} |"
        " {name: version(name) for name in sys.argv[1:]}))"
    )
    done = subprocess.run(
        [python, "-c", program, *packages], stdout=subprocess.PIPE, check=True, text=True
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def _requirements(peer: Peer) -> Path:
    return HERE / peer.folder / "requirements.txt"
