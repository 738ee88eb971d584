"""`pronk policy`: list, show and export released policies."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pronk.cli.releases import open_source, pick
from pronk.errors import Misconfigured
from pronk.policy.manifest import Manifest
from pronk.policy.signature import Port
from pronk.words import printable, short

policy = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")

RunDir = Annotated[
    Path | None,
    typer.Argument(
        metavar="RUN_DIR",
        help="A run directory or a policy folder; default: what PRONK_SERVER has.",
    ),
]
Name = Annotated[
    str | None, typer.Option("--release", help="Its name in the list; default: the newest.")
]


@policy.command("list")
def list_(run_dir: RunDir = None) -> None:
    """List the released policies of a run.

    [bold]Example[/bold]  [cyan]pronk policy list runs/NAME[/cyan]
    """
    with open_source(run_dir) as source:
        releases = source.list()
    table = Table(box=None, padding=(0, 3, 0, 0))
    for column in ("release", "frames", "network", "environment", "when", "reason"):
        table.add_column(column, header_style="dim")
    for release in releases:
        manifest = release.manifest
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(release.created))
        row = (
            release.name,
            short(manifest.frames),
            _network(manifest),
            manifest.environment.environment,
            when,
            release.reason,
        )
        table.add_row(*map(_foreign, row))
    Console().print(table if releases else "no released policies yet")


@policy.command()
def show(run_dir: RunDir = None, name: Name = None) -> None:
    """Show what a policy is: version, network, inputs and outputs, hashes.

    [bold]Example[/bold]  [cyan]pronk policy show runs/NAME --release default-1200[/cyan]
    """
    with open_source(run_dir) as source:
        manifest = pick(source, name).manifest
    table = Table.grid(padding=(0, 3, 0, 0))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    for key, value in facts(manifest):
        table.add_row(key, _foreign(value))
    Console().print(table)


@policy.command()
def export(
    out: Annotated[Path, typer.Option(help="Where to; a new or empty directory.")],
    run_dir: RunDir = None,
    name: Name = None,
) -> None:
    """Copy a policy, its hashes checked: a folder that any ONNX runtime can run.

    [bold]Example[/bold]  [cyan]pronk policy export runs/NAME --out my-policy[/cyan]
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise Misconfigured(f"--out {out}: it is there already and not an empty directory")
    with open_source(run_dir) as source:
        release = pick(source, name)
        bundle = source.fetch(release.name)
    try:
        bundle.save(out)
    except OSError as error:
        raise Misconfigured(f"cannot write {out}: {error.strerror}") from None
    print(f"{release.name} → {out}")


def _foreign(text: str) -> Text:
    return Text("\n".join(map(printable, text.split("\n"))))


def facts(manifest: Manifest) -> list[tuple[str, str]]:
    """What a person wants to know of a policy, as names and values."""
    return [
        ("policy", manifest.policy),
        ("version", f"{manifest.number} (epoch {manifest.epoch})"),
        ("frames", f"{manifest.frames:,}"),
        ("environment", manifest.environment.environment),
        ("network", _network(manifest)),
        ("engine", manifest.engine),
        ("inputs", _ports(manifest.inputs)),
        ("outputs", _ports(manifest.outputs)),
        ("graph", manifest.graph or "–"),
        ("weights", manifest.weights),
        ("probe", manifest.probe),
        ("format", manifest.format),
    ]


def _network(manifest: Manifest) -> str:
    network = manifest.network
    core = "" if network.core == "none" else f" + {network.core.value} {network.core_size}"
    settings = "".join(f" {key}={value}" for key, value in network.kwargs.items())
    return f"{network.id}{settings}{core}"


def _ports(ports: tuple[Port, ...]) -> str:
    shown = (f"{p.name} {p.dtype}[{', '.join(map(str, ('N', *p.shape)))}]" for p in ports)
    return "\n".join(shown)
