"""YAML as people mean it: one value per key, and `1e-3` is a number."""

import re
from collections.abc import Iterable
from itertools import islice
from typing import Any

import yaml

DEEPEST = 32
"""Levels of sections and lists."""
_WIDEST = 10_000
"""Values of one level."""
_BITS = 128
"""Of a whole number: what needs more is a mistake, and Python does not print any number."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice, where PyYAML would silently take the last."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """The value of a node; PyYAML raises whatever it stumbles over in one."""
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise _error(f"{str(node.value)[:40]!r} is no {kind}", node) from None
        if isinstance(value, int) and value.bit_length() > _BITS:
            raise _error(f"a whole number has at most {_BITS} bits", node)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node."""
        seen = set()
        for key_node, _value in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str):
                raise _error(f"keys are names, found {key!r}", key_node)
            if key in seen:
                raise _error(f"{key} is there twice", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)


def _error(problem: str, node: yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


# YAML 1.1 takes numbers such as 1e-3 (no point) and 2.5e6 (no sign) for text.
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"),
    list("-+0123456789"),
)


def read(text: str) -> Any:
    """The value of a YAML document.

    Raises:
        ValueError: not YAML, a key that is there twice, a value that contains itself; the message
            says where.
    """
    try:
        value = yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{where}{error.problem or error.context}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(" ".join(str(error).split())) from None
    _check_size(value)
    return value


def _check_size(value: Any) -> None:
    """Refuse what could not be walked through; by aliases, little text means much."""
    level = [value]
    for _ in range(DEEPEST):
        level = list(islice((child for each in level for child in _children(each)), _WIDEST + 1))
        if len(level) > _WIDEST:
            raise ValueError(f"a level holds more than {_WIDEST} values")
        if not level:
            return
    raise ValueError(f"it is nested more than {DEEPEST} deep, or contains itself")


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list | tuple | set) else ()
