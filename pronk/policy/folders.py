"""Where a run keeps the policies that were released."""

from pathlib import Path

_MANIFESTS = "policies/*/manifest.json"


def released(run_dir: Path, policy: str | None = None) -> list[Path]:
    """Folders of released policies in a run directory, by policy and number.

    A run with several policies keeps those of each in a folder of its own.
    """
    found = []
    for manifest in [*run_dir.glob(_MANIFESTS), *run_dir.glob("*/" + _MANIFESTS)]:
        name, _, number = manifest.parent.name.rpartition("-")
        if number.isdigit() and policy in (None, name):
            found.append((name, int(number), manifest.parent))
    return [folder for _, _, folder in sorted(found)]
