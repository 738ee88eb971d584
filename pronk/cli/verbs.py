"""What `pronk` can be told to do: known by name and one line, loaded only when asked for."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.exceptions import TyperException

from pronk.cli.failure import Failed
from pronk.errors import Broken, Misconfigured
from pronk.words import printable

ENTRY_POINTS = "pronk.commands"
"""Where the services are found."""


@dataclass(frozen=True)
class Verb:
    """A word after `pronk`.

    Attributes:
        target: `module:attribute`; a function for typer, or a `typer.Typer` of further words.
        help: one line.
        extra: what to install for it.
        panel: heading in the help.
    """

    name: str
    target: str
    help: str
    extra: str
    panel: str

    def load(self) -> Callable[..., Any] | typer.Typer:
        """Import it.

        Raises:
            Misconfigured: a package that it needs is not installed.
        """
        module, _, attribute = self.target.partition(":")
        try:
            loaded: Callable[..., Any] | typer.Typer = getattr(
                importlib.import_module(module), attribute
            )
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            if missing.startswith("pronk"):  # a defect of ours and no missing package
                raise
            raise Misconfigured(
                f"`pronk {self.name}` needs the package {missing}, which is not installed: "
                f"pip install 'pronk[{self.extra}]'"
            ) from None
        return loaded


_RUN, _ASK, _SERVE = "Train", "Look and measure", "One service, as its container runs it"

_OWN = (
    Verb("up", "pronk.cli.up:up", "Train on this machine: a whole cluster.", "local", _RUN),
    Verb(
        "status",
        "pronk.cli.status:status",
        "Who is in the cluster, how fast, who waits for whom.",
        "actor",
        _ASK,
    ),
    Verb("policy", "pronk.cli.policy:policy", "List, show and export policies.", "actor", _ASK),
    Verb(
        "fetch",
        "pronk.cli.fetch:fetch",
        "Policies, curves and summary of a remote run.",
        "actor",
        _ASK,
    ),
    Verb("bench", "pronk.cli.bench:bench", "Measure how fast this machine trains.", "local", _ASK),
    Verb(
        "doctor",
        "pronk.cli.doctor:doctor",
        "What this machine has and lacks, and what to do about it.",
        "local",
        _ASK,
    ),
)
_SERVICES = {
    "evaluate": ("Play with a stored policy and report its return.", "actor", _RUN),
    "actor": ("Play environments and send what happened.", "actor", _SERVE),
    "learner": ("Train a policy on what actors send.", "learner", _SERVE),
    "param-server": ("Keep members, versions and policies.", "param-server", _SERVE),
}


def verbs() -> list[Verb]:
    """Every verb: the command line's own, and what installed packages add by entry point."""
    found = list(_OWN)
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        line, extra, panel = _SERVICES.get(point.name, (f"From {point.module}.", "local", _SERVE))
        found.append(Verb(point.name, point.value, line, extra, panel))
    panels = [_RUN, _ASK, _SERVE]
    return sorted(found, key=lambda verb: panels.index(verb.panel))


def see_working_directory() -> None:
    """Let `module:function` of an experiment name a module in the working directory.

    It comes last on the path, so that a file there never shadows an installed module.

    Raises:
        Misconfigured: the working directory was removed.
    """
    try:
        here = os.getcwd()  # noqa: PTH109 - sys.path holds strings
    except OSError:
        raise Misconfigured("the working directory is gone: go to one that is there") from None
    if here not in sys.path:
        sys.path.append(here)


@contextmanager
def ending_well(command: str = "pronk") -> Iterator[None]:
    """Turn what a person did wrong into one line on standard error and status 2."""
    try:
        yield
    except TyperException as error:
        message = error.format_message().rstrip(".")
        if not message:  # its help was shown instead
            sys.exit(2)
        _refuse(f"{message}; see `{command} --help`")
    except Misconfigured as error:
        _refuse(str(error))
    except (Broken, Failed) as error:
        _refuse(str(error), status=1)
    except OSError as error:
        if error.filename is None:  # not of a path that a person gave
            raise
        _refuse(f"cannot use {error.filename}: {error.strerror}")
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


def _refuse(message: str, status: int = 2) -> None:
    with suppress(OSError):  # nobody may be there to read it
        print(f"pronk: {printable(' '.join(message.split()))}", file=sys.stderr, flush=True)
    sys.exit(status)
