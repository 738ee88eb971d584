"""`pronk status`: who is in the cluster, how fast, who waits for whom."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import grpc
import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pronk.cli.asking import asked, telling_outage
from pronk.cli.vitals import Member, Monitor, Vitals
from pronk.transport.cluster import status as ask
from pronk.words import duration, percent, printable, short

_SECONDS = 2.5
"""Rates need two answers, and members report about once a second."""


def status(
    run_dir: Annotated[
        Path | None,
        typer.Argument(
            metavar="RUN_DIR", help="The run directory of a `pronk up` on this machine."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C.")] = False,
) -> None:
    """Show who is in the cluster, how fast it is, and who waits for whom.

    Without a run directory PRONK_SERVER names the parameter server; token and TLS come from the
    environment too.

    [bold]Examples[/bold]

    [cyan]PRONK_SERVER=cluster:50051 PRONK_TLS_CA=ca.pem PRONK_TOKEN_FILE=token pronk status[/cyan]

    [cyan]pronk status runs/cartpole-20260102-030405 --watch[/cyan]

    [cyan]pronk status --json[/cyan]
    """
    with asked(run_dir) as (server, channel), telling_outage(server):
        readings = _readings(channel)
        first = next(readings)
        if watch:
            _watch(first, readings, as_json)
            return
        vitals = next(readings) if any(m.alive for m in first.members) else first
    if as_json:
        print(json.dumps(vitals.as_json()))
    else:
        Console().print(report(vitals))


def report(vitals: Vitals) -> RenderableType:
    """The condition of a cluster as a page."""
    return Group(_headline(vitals), Text(), _totals(vitals), Text(), _members(vitals.members))


def _readings(channel: grpc.Channel) -> Iterator[Vitals]:
    monitor = Monitor()
    while True:
        yield monitor.observe(ask(channel), time.monotonic())
        time.sleep(_SECONDS)


def _watch(first: Vitals, readings: Iterator[Vitals], as_json: bool) -> None:
    if as_json:
        for vitals in readings:
            print(json.dumps(vitals.as_json()), flush=True)
        return
    with Live(report(first), auto_refresh=False) as live:
        for vitals in readings:
            live.update(report(vitals), refresh=True)


def _headline(vitals: Vitals) -> Text:
    colour = {"RUNNING": "green", "FINISHED": "cyan", "FAILED": "red"}.get(vitals.state, "yellow")
    reason = f"  {printable(vitals.reason)}" if vitals.reason else ""
    name = ("run ", "dim"), (printable(vitals.run), "bold"), "  "
    return Text.assemble(*name, (vitals.state, colour), reason)


def _totals(vitals: Vitals) -> Table:
    grid = Table.grid(padding=(0, 3, 0, 0))
    grid.add_column(style="dim")
    grid.add_column()
    speed = [
        f"{value:,.0f} {unit}"
        for value, unit in (
            (vitals.steps_per_second, "steps/s"),
            (vitals.frames_per_second, "frames/s"),
        )
        if value is not None
    ]
    learned = [f"{short(vitals.frames)} frames", f"{short(vitals.updates)} updates"]
    if vitals.lag is not None:
        learned.append(f"lag {vitals.lag:.1f}")
    if vitals.refused:
        learned.append(f"{vitals.refused} unrolls refused")
    grid.add_row("speed", " · ".join(speed) or "–")
    grid.add_row("learned", " · ".join(learned))
    grid.add_row("return", "–" if vitals.return_mean is None else f"{vitals.return_mean:.2f}")
    verdict = f" → {vitals.verdict}" if vitals.verdict else ""
    grid.add_row("waiting", Text.assemble(vitals.who_waits() or "–", (verdict, "cyan")))
    if vitals.actor_demand is not None:
        grid.add_row("demand", f"{vitals.actor_demand:.1f} actors would keep the learner busy")
    if vitals.seconds_left is not None:
        # A return that ends the run may come first; whether one does, the server does not tell.
        grid.add_row("left", f"at most {duration(vitals.seconds_left)}")
    return grid


def _members(members: tuple[Member, ...]) -> RenderableType:
    if not members:
        return Text("nobody has registered yet", style="dim")
    table = Table(box=None, padding=(0, 3, 0, 0))
    for column in ("member", "state", "where", "policy", "steps/s", "waiting"):
        table.add_column(column, header_style="dim")
    for member in members:
        table.add_row(
            f"{member.kind} {member.index}",
            Text("● alive", style="green")
            if member.alive
            else Text(f"● silent for {member.seconds_since_heartbeat:.0f} s", style="red"),
            Text(printable(f"{member.host}:{member.pid}")),
            Text(printable(" ".join(f"{n}-{number}" for n, number in member.versions.items()))),
            "" if member.steps_per_second is None else f"{member.steps_per_second:,.0f}",
            "" if member.waiting is None else percent(member.waiting),
        )
    return table
