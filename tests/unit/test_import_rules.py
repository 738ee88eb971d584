"""The rules between rooms: the contracts of pyproject.toml hold, and each of them can fail."""

import ast
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PURE = ("rl", "nets", "policy", "wire", "config")
ENVIRONMENT = {"environ", "getenv", "environb", "putenv"}
PACKAGES = {
    "pronk": ROOT / "pronk",
    "pronk_actor": ROOT / "services/actor/pronk_actor",
    "pronk_learner": ROOT / "services/learner/pronk_learner",
    "pronk_param_server": ROOT / "services/param_server/pronk_param_server",
}
BROKEN = {
    "services": ("pronk_actor", "import pronk_learner"),
    "library": ("pronk/policy", "import pronk_actor"),
    "cli": ("pronk_actor", "import pronk.cli.vitals"),
    "pure": ("pronk/rl", "import socket"),
    "envs": ("pronk/envs", "import pronk.transport"),
    "transport": ("pronk/transport", "def late():\n    import pronk.rl"),
    "no-torch": ("pronk_param_server", "import torch"),
}
"""Contract → where a line is added that breaks it."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of all packages, with the rules."""
    for name, path in PACKAGES.items():
        shutil.copytree(path, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(tree: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """Check some contracts, or all of them, on a copy of the packages."""
    command = [Path(sys.executable).parent / "lint-imports", "--no-cache", "--no-logo"]
    command += [word for contract in contracts for word in ("--contract", contract)]
    return subprocess.run(
        command,
        cwd=tree,
        env={"PYTHONPATH": str(tree)},
        capture_output=True,
        text=True,
        check=False,
    )


def uses_of_environment(source: str) -> list[int]:
    """Lines that read or write environment variables."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        attribute = isinstance(node, ast.Attribute) and node.attr in ENVIRONMENT
        imported = isinstance(node, ast.ImportFrom) and node.module == "os"
        if attribute or (imported and {name.name for name in node.names} & ENVIRONMENT):
            lines.append(node.lineno)
    return lines


@pytest.mark.parametrize("room", PURE)
def test_pure_rooms_read_no_environment_variables(room):
    files = [p for p in (ROOT / "pronk" / room).rglob("*.py") if "v1" not in p.parts]
    found = [
        f"{p.relative_to(ROOT)}:{n}" for p in files for n in uses_of_environment(p.read_text())
    ]

    assert files
    assert found == []


@pytest.mark.parametrize(
    "source",
    ["import os\nx = os.environ['A']", "from os import getenv", "import os as o\no.getenv('A')"],
)
def test_the_check_for_environment_variables_can_fail(source):
    assert uses_of_environment(source)
    assert not uses_of_environment("import os\nos.getpid()")


def test_every_contract_has_a_line_that_breaks_it():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())

    assert {each["id"] for each in settings["tool"]["importlinter"]["contracts"]} == BROKEN.keys()


def test_the_contracts_hold(tree):
    result = lint(tree)

    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("contract", "room", "line"), [(k, *v) for k, v in BROKEN.items()])
def test_each_contract_can_be_broken(tree, contract, room, line):
    (tree / room / "wrong.py").write_text(f"{line}\n")

    result = lint(tree, contract)

    assert result.returncode == 1, result.stderr
    assert "0 kept, 1 broken" in result.stdout
    assert "wrong" in result.stdout
