"""Where a run keeps the policies that were released: in folders `policies/NAME-NUMBER`."""

import re
from pathlib import Path

from pronk.policy.bundle import remove

_MANIFESTS = "policies/*/manifest.json"
_NAME = re.compile(r"(.+)-([0-9]+)")
"""A policy's own name may have a hyphen too, and digits after it."""


def released(run_dir: Path, policy: str | None = None) -> list[Path]:
    """Folders of released policies in a run directory, by policy and number.

    A run with several policies keeps those of each in a folder of its own.
    """
    found = []
    for manifest in [*run_dir.glob(_MANIFESTS), *run_dir.glob("*/" + _MANIFESTS)]:
        named = _NAME.fullmatch(manifest.parent.name)
        if named and policy in (None, named[1]):
            found.append((named[1], int(named[2]), manifest.parent))
    return [folder for _, _, folder in sorted(found)]


def keep_newest(policies: Path, policy: str, count: int) -> None:
    """Remove all of a policy's folders in `policies` but the `count` that were written last.

    Raises:
        OSError: one cannot be removed.
    """
    own = [
        path for path in policies.iterdir() if (n := _NAME.fullmatch(path.name)) and n[1] == policy
    ]
    for path in sorted(own, key=lambda path: path.stat().st_mtime)[:-count]:
        remove(path)
