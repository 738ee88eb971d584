"""`pronk`: the one command."""

import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from typing import Annotated

import typer
from typer.main import get_command

from pronk.cli.verbs import Verb, ending_well, see_working_directory, verbs
from pronk.startup import limit_threads, tune_allocator

_HELP = "IMPALA as microservices: actors, learners and a parameter server that train policies."
_EXAMPLES = """[bold]Examples[/bold]

[cyan]pronk up configs/cartpole.yaml[/cyan]  train and watch; Ctrl-C stops

[cyan]pronk up configs/cartpole.yaml --set env.id=Acrobot-v1[/cyan]  any Gymnasium id

[cyan]pronk evaluate runs/… --gif play.gif[/cyan]  see what was learned

[cyan]pronk VERB --help[/cyan]  more about one verb"""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `pronk` with `arguments` (default: the process's) and end the process."""
    # First: numeric libraries read the number of threads when they are imported. A service sets
    # its own number later, and is loaded after that.
    limit_threads()
    tune_allocator()
    given = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    known = {verb.name: verb for verb in verbs()}
    with ending_well("pronk " + given[0] if given[0] in known else "pronk"):
        see_working_directory()
        command = get_command(build(known.values(), given[0]))
        status = command.main(given, "pronk", standalone_mode=False)
    sys.exit(status if isinstance(status, int) else 0)


def build(known: Iterable[Verb], wanted: str) -> typer.Typer:
    """The command line, with `wanted` loaded and of all other verbs only name and help."""
    app = typer.Typer(
        name="pronk",
        help=_HELP,
        epilog=_EXAMPLES,
        add_completion=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for verb in known:
        _add(app, verb, load=verb.name == wanted)
    return app


def _add(app: typer.Typer, verb: Verb, *, load: bool) -> None:
    target = verb.load() if load else _nothing
    if isinstance(target, typer.Typer):
        app.add_typer(target, name=verb.name, help=verb.help, rich_help_panel=verb.panel)
    elif load:
        app.command(verb.name, rich_help_panel=verb.panel)(target)
    else:
        app.command(verb.name, help=verb.help, rich_help_panel=verb.panel)(target)


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"pronk {version('pronk')}")
        raise typer.Exit


def _options(
    _version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", is_eager=True, callback=_tell_version
        ),
    ] = False,
) -> None:
    pass


def _nothing() -> None:
    pass


if __name__ == "__main__":
    main()
