"""Actor and parameter server run with what their own extra brings, and nothing else: no torch.

The quick test hides from them every installed package outside their extra. The slow one installs
the extras for real.
"""

import os
import subprocess
import sys
import time
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from valkeys import EmbeddedValkey

from pronk.cli.cluster import free_ports

ROOT = Path(__file__).parents[2]
EXTRAS = ("actor", "param-server")
SHORT = ("stop.return_mean=null", "stop.frames=20_000", "actor.count=1")
HIDING = """
import sys

HIDDEN = {hidden!r}


class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in self.names:
            raise ModuleNotFoundError(f"No module named {{name!r}} in this extra", name=name)


Hide.names = next((HIDDEN[word] for word in sys.orig_argv if word in HIDDEN), set())
sys.meta_path.insert(0, Hide())
"""


def closure(extra: str) -> set[str]:
    """Names of the distributions that `pronk[extra]` brings."""
    seen: set[tuple[str, str]] = set()
    waiting = [("pronk", ""), ("pronk", extra)]
    while waiting:
        name, wanted = waiting.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            if requirement.marker and not requirement.marker.evaluate({"extra": wanted}):
                continue
            waiting += [
                (canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)
            ]
    return {name for name, _ in seen}


def hidden(extra: str) -> set[str]:
    """Import names of everything installed that the extra does not bring."""
    ours = closure(extra)
    return {
        module
        for module, names in packages_distributions().items()
        if not {canonicalize_name(name) for name in names} & ours
    }


def test_services_run_with_their_own_extra_only(tmp_path):
    names = {extra: hidden(extra) for extra in EXTRAS}
    assert {"torch", "matplotlib", "tensorboard"} <= names["actor"]
    assert {"torch", "gymnasium", "onnxruntime", "redis"} <= names["param-server"]
    (tmp_path / "sitecustomize.py").write_text(HIDING.format(hidden=names))
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path}
    for extra in EXTRAS:  # they are hidden indeed
        code = [sys.executable, "-c", "import torch", extra]
        assert subprocess.run(
            code, env=environment, stderr=subprocess.DEVNULL, check=False
        ).returncode

    command = [sys.executable, "-P", "-m", "pronk.cli.main", "up", ROOT / "configs/cartpole.yaml"]
    command += ["--headless", "--run-dir", tmp_path / "run"]
    command += [word for override in SHORT for word in ("--set", override)]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=100, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "run/summary.json").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_services_run_where_only_their_extra_is_installed(tmp_path):
    programs = {extra: install(tmp_path / extra, extra) for extra in EXTRAS}
    (server,) = free_ports(1)
    with EmbeddedValkey(tmp_path) as valkey:
        environment = {
            **os.environ,
            "PRONK_SERVER": f"127.0.0.1:{server}",
            "PRONK_LISTEN": f"127.0.0.1:{server}",
            "PRONK_REDIS_URL": valkey.url,
            "PRONK_RUN_DIR": str(tmp_path / "run"),
        }
        learner = [sys.executable, "-m", "pronk.cli.main"]
        # What is installed runs as it is; the learner is the source that is tested.
        alone = {k: v for k, v in environment.items() if k != "PYTHONPATH"}
        commands = [([programs["param-server"], "param-server"], alone),
                    ([*learner, "learner"], environment),
                    ([programs["actor"], "actor"], alone)]  # fmt: skip
        options = ["--config", ROOT / "configs/cartpole.yaml"]
        options += [word for override in SHORT for word in ("--set", override)]
        processes = [
            subprocess.Popen([*command, *options], env=variables) for command, variables in commands
        ]
        try:
            deadline = time.monotonic() + 120
            while not (tmp_path / "run/summary.json").exists():
                assert time.monotonic() < deadline, "waited in vain for the run to end"
                assert [process.poll() for process in processes] == [None] * 3
                time.sleep(0.2)
        finally:
            for process in reversed(processes):
                process.terminate()
            ends = [process.wait(30) for process in processes]
    assert ends == [0, 0, 0]


def install(folder: Path, extra: str) -> Path:
    """A virtual environment with one extra; the path of its `pronk`."""
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin/pip", "install", "-qq", "-c", ROOT / "constraints.txt"]
    subprocess.run([*pip, f"{ROOT}[{extra}]"], check=True)
    torch = [folder / "bin/python", "-c", "import torch"]
    assert subprocess.run(torch, stderr=subprocess.DEVNULL, check=False).returncode
    return folder / "bin/pronk"
