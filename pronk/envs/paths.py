"""Names of the parts of nested spaces."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from pronk.errors import Misconfigured
from pronk.wire.spec import DEFAULT

Path = tuple[str | int, ...]
"""Keys and indices from the root of a nested space to one of its parts."""


def join(path: Path) -> str:
    """The name of the part at `path`: `a.b`, or the default name at the root."""
    return ".".join(map(str, path)) or DEFAULT


def pick(nested: Any, path: Path) -> Any:
    """The part of a nested value at `path`."""
    for key in path:
        nested = nested[key]
    return nested


def check_unique(kind: str, names: Sequence[str]) -> None:
    """Refuse two parts of one name, as keys that contain dots can make.

    Raises:
        Misconfigured: a name occurs twice.
    """
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise Misconfigured(f"two parts of the {kind} space are named {twice[0]!r}; rename a key")
