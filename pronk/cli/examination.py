"""What `pronk doctor RUN_DIR` looks at: the run's own files, and what each service says."""

import importlib
from collections.abc import Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

from pronk import config
from pronk.cli import checks
from pronk.cli.rundir import RunDirectory
from pronk.cli.verbs import ENTRY_POINTS
from pronk.errors import Misconfigured
from pronk.finding import Finding
from pronk.policy.bundle import Bundle
from pronk.policy.folders import released


def examine(run_dir: Path) -> list[Finding]:
    """Look at everything in a run directory; nothing is written.

    Raises:
        Misconfigured: there is no such directory.
    """
    if not run_dir.is_dir():
        raise Misconfigured(f"no run directory {run_dir}")
    return [
        _config(RunDirectory(run_dir)),
        *_of_services(run_dir),
        *[_policy(run_dir, folder) for folder in released(run_dir)],
        checks.disk(run_dir),
    ]


def _config(directory: RunDirectory) -> Finding:
    try:
        experiment = config.load(directory.config)
    except Misconfigured as error:
        if not directory.config.exists() and not directory.logs.exists():
            return Finding("config.yaml", "optional", "none", "one service's own files need none")
        advice = "restore it: every checkpoint holds a copy"
        return Finding("config.yaml", "missing", str(error), advice)
    return Finding("config.yaml", "ok", f"{experiment.name}, {experiment.env.id}")


def _policy(run_dir: Path, folder: Path) -> Finding:
    name = str(folder.relative_to(run_dir))
    try:
        manifest = Bundle.load(folder).manifest
    except Misconfigured as error:
        return Finding(name, "missing", str(error), "remove it, or restore it")
    return Finding(name, "ok", f"policy of {manifest.frames} frames, whole")


def _of_services(run_dir: Path) -> Iterator[Finding]:
    """A service that keeps files in a run directory has a module `examine`, with a function."""
    packages = {point.module.partition(".")[0] for point in entry_points(group=ENTRY_POINTS)}
    for package in sorted(packages):
        if find_spec(f"{package}.examine") is None:
            continue
        try:
            module = importlib.import_module(f"{package}.examine")
        except ModuleNotFoundError as error:
            advice = "not looked at: ask where that is installed"
            yield Finding(f"files of {package}", "optional", f"no {error.name} here", advice)
        else:
            yield from module.examine(run_dir)
