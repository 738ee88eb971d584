"""What an experiment names by `module:attribute`."""

import importlib
from typing import Any

from pronk.errors import Misconfigured


def import_attribute(path: str, key: str) -> Any:
    """What `module:attribute` names.

    Args:
        path: where it is.
        key: of the experiment, for errors.

    Raises:
        Misconfigured: no such module or attribute.
    """
    module, _, name = path.partition(":")
    check_module(module, path, key)
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError as error:
        raise Misconfigured(f"{key}: cannot import {module} ({error})") from None
    except AttributeError:
        raise Misconfigured(f"{key}: {module} has no {name!r}") from None


def check_module(module: str, path: str, key: str) -> None:
    """See that a module can be called so: the import system says less of what it cannot read.

    Raises:
        Misconfigured: it can not.
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise Misconfigured(f"{key}: {path!r} names no module before its colon")
