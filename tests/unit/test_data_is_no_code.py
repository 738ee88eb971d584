"""Nothing that comes from a file or a wire is ever run: no pickle, no eval, no objects in YAML."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [path for room in ("pronk", "services", "scripts") for path in (ROOT / room).rglob("*.py")]

PICKLERS = {
    "pickle",
    "_pickle",
    "pickletools",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
}
"""Modules whose data is code."""
NEVER = {
    "eval", "exec", "compile", "__import__", "os.system", "os.popen",
    "torch.save", "torch.jit.load", "torch.package.PackageImporter",
    "yaml.full_load", "yaml.full_load_all", "yaml.unsafe_load", "yaml.unsafe_load_all",
}  # fmt: skip
WITH_LOADER = {"yaml.load", "yaml.load_all", "yaml.scan", "yaml.parse", "yaml.compose"}
SAFE_LOADERS = {"yaml.SafeLoader", "yaml.CSafeLoader"}


class Module:
    """A source file, with names resolved through its imports."""

    def __init__(self, source: str) -> None:
        self._tree = ast.parse(source)
        self._aliases: dict[str, str] = {}
        self._imported: list[tuple[int, str]] = []
        self._safe_loaders = set(SAFE_LOADERS)
        for node in ast.walk(self._tree):
            self._read(node)

    def _read(self, node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            for name in node.names:
                self._imported.append((node.lineno, name.name))
                if name.asname:
                    self._aliases[name.asname] = name.name
        elif isinstance(node, ast.ImportFrom):
            for name in node.names:
                dotted = f"{node.module}.{name.name}"
                self._imported.append((node.lineno, dotted))
                self._aliases[name.asname or name.name] = dotted
        elif isinstance(node, ast.ClassDef) and SAFE_LOADERS & set(map(self._dotted, node.bases)):
            self._safe_loaders.add(node.name)

    def _dotted(self, node: ast.AST | None) -> str:
        """`numpy.load` for `np.load`; empty for what has no name."""
        if isinstance(node, ast.Name):
            return self._aliases.get(node.id, node.id)
        if isinstance(node, ast.Attribute):
            owner = self._dotted(node.value)
            return f"{owner}.{node.attr}" if owner else ""
        return ""

    def findings(self) -> Iterator[tuple[int, str]]:
        """Lines, and what is wrong with them."""
        for line, name in self._imported:
            if name.split(".")[0] in PICKLERS:
                yield line, name
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Call):
                yield from ((node.lineno, what) for what in self._wrong(node))

    def _wrong(self, call: ast.Call) -> Iterator[str]:
        name = self._dotted(call.func)
        options = {keyword.arg: keyword.value for keyword in call.keywords}
        if name in NEVER:
            yield name
        if name == "torch.load" and not _is(options.get("weights_only"), True):
            yield "torch.load without weights_only=True"
        if "allow_pickle" in options and not _is(options["allow_pickle"], False):
            yield "allow_pickle"
        if name == "numpy.load" and len(call.args) > 2:
            yield "numpy.load with allow_pickle by position"
        if "shell" in options and not _is(options["shell"], False):
            yield "shell"
        if name in WITH_LOADER:
            loader = options.get("Loader") or (call.args[1] if len(call.args) > 1 else None)
            if self._dotted(loader) not in self._safe_loaders:
                yield f"{name} without a safe loader"


def _is(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_data_is_code(path: Path) -> None:
    assert list(Module(path.read_text(encoding="utf-8")).findings()) == []


def test_every_room_is_looked_at() -> None:
    assert len(FILES) > 150
    assert {"pronk", "services", "scripts"} == {path.relative_to(ROOT).parts[0] for path in FILES}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "import cloudpickle as c",
        "from dill import loads",
        "import shelve",
        "eval('1')",
        "exec('1')",
        "compile('1', '', 'eval')",
        "__import__('os')",
        "import os\nos.system('ls')",
        "import subprocess\nsubprocess.run('ls', shell=True)",
        "import torch\ntorch.load(f)",
        "import torch as t\nt.load(f, weights_only=False)",
        "from torch import load\nload(f, weights_only=safe)",
        "import torch\ntorch.save(x, f)",
        "import numpy as np\nnp.load(f, allow_pickle=True)",
        "import numpy as np\nnp.load(f, None, True)",
        "import yaml\nyaml.load(f)",
        "import yaml\nyaml.load(f, yaml.Loader)",
        "import yaml\nyaml.load(f, Loader=yaml.FullLoader)",
        "from yaml import unsafe_load as read\nread(f)",
        "import yaml\nclass Mine(yaml.Loader): pass\nyaml.load(f, Loader=Mine)",
    ],
)
def test_what_it_finds(source: str) -> None:
    assert list(Module(source).findings())


@pytest.mark.parametrize(
    "source",
    [
        "network.eval()",
        "import re\nre.compile('x')",
        "import torch\ntorch.load(f, weights_only=True)",
        "import numpy as np\nnp.load(f, allow_pickle=False)",
        "import yaml\nyaml.safe_load(f)",
        "import yaml\nclass Mine(yaml.SafeLoader): pass\nyaml.load(f, Loader=Mine)",
    ],
)
def test_what_it_lets_pass(source: str) -> None:
    assert not list(Module(source).findings())
