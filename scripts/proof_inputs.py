"""What a line of the proof rests on, and a fingerprint that changes when it does.

A line rests on the files and folders that its `inputs` and its command name, on `configs`, and on
what the named tests share: every file under `tests` that is no test itself and whose name appears
in one of them, the `conftest.py` of every folder above them, and so on from there. Of Python files
the code counts; comments, docstrings and layout do not.
"""

import ast
import functools
import hashlib
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path, PurePath

Listing = dict[str, str]
"""The id of a file's content in git by the file's path."""


def fingerprint(tree: Path, command: str, inputs: Iterable[str], more: str) -> str:
    """Changes whenever the command, one of its inputs or `more` does.

    Args:
        tree: a checkout; what counts is its newest commit.
        command: of the shell.
        inputs: files and folders beside those that it names; what does not exist is left out.
        more: what else counts.
    """
    listing = _listing(tree)
    roots = {*inputs, *re.split(r"[\s=:\"']+", command), "configs"} - {""}
    chosen = {path for path in listing if any(_within(path, root) for root in roots)}
    chosen |= _shared(tree, listing, chosen)
    contents = [f"{path} {_content(tree, listing[path], path)}" for path in sorted(chosen)]
    return hashlib.sha256("\n".join([command, more, *contents]).encode()).hexdigest()[:16]


def _listing(tree: Path) -> Listing:
    rows = filter(None, _git(tree, "ls-tree", "-r", "-z", "HEAD").decode().split("\0"))
    return {path: about.split()[2] for about, _, path in (row.partition("\t") for row in rows)}


def _within(path: str, root: str) -> bool:
    return path == root or path.startswith(root.rstrip("/") + "/")


def _shared(tree: Path, listing: Listing, chosen: set[str]) -> set[str]:
    """Helpers that the chosen tests name, and those that these name."""
    tests = {path for path in listing if _within(path, "tests")}
    helpers = {path for path in tests if not PurePath(path).name.startswith("test_")}
    found: set[str] = set()
    new = chosen & tests
    while new:
        text = "\n".join(_git(tree, "cat-file", "blob", listing[each]).decode() for each in new)
        words = set(re.findall(r"\w+", text))
        above = {f"{folder}/conftest.py" for path in new for folder in PurePath(path).parents}
        new = {path for path in helpers - found if PurePath(path).stem in words or path in above}
        found |= new
    return found


@functools.cache
def _content(tree: Path, blob: str, path: str) -> str:
    """What counts of a file: for Python its syntax tree, else all."""
    if not path.endswith(".py"):
        return blob
    syntax = ast.parse(_git(tree, "cat-file", "blob", blob))
    for node in ast.walk(syntax):
        if isinstance(body := getattr(node, "body", None), list):
            node.body = [each for each in body if not _only_text(each)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(syntax).encode()).hexdigest()


def _only_text(node: ast.AST) -> bool:
    """Whether it is a docstring, of a module, a class, a function or an attribute."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


@functools.cache
def _git(tree: Path, *words: str) -> bytes:
    """Output of a git command, once: a checkout's newest commit stays what it is."""
    return subprocess.run(["git", "-C", tree, *words], check=True, capture_output=True).stdout
