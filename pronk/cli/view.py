"""What `pronk up` shows: a quiet picture on a terminal, plain lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.live import Live
from rich.text import Text

from pronk.cli.picture import Scene, line, picture, sparkline

_SPARKS = 32
_REDRAW_SECONDS = 0.25
_LINE_SECONDS = 5.0


class View(Protocol):
    """Shows scenes and events; a lost terminal must not end a run."""

    def show(self, scene: Scene) -> None:
        """Show it, if it is time to."""

    def tell(self, event: str) -> None:
        """Show one line that stays."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class LiveView:
    """Redraws one picture in place."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, transient=True)
        self._live.start()
        self._sparks = Sparks()
        self._drawn = 0.0

    def show(self, scene: Scene) -> None:
        """Redraw four times a second."""
        now = time.monotonic()
        if scene.vitals is not None and scene.vitals.return_mean is not None:
            self._sparks.add(scene.vitals.return_mean, now)
        if now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            self._live.update(picture(scene, self._sparks.text()), refresh=True)

    def tell(self, event: str) -> None:
        """Print a line above the picture."""
        self._console.print(Text(event, style="yellow"))

    def close(self) -> None:
        """Take the picture away."""
        self._live.stop()


class PlainView:
    """Prints a line every few seconds."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed = float("-inf")
        self._phase = ""

    def show(self, scene: Scene) -> None:
        """Print a line when it is time, and whenever the phase changes."""
        now = time.monotonic()
        if now - self._printed >= _LINE_SECONDS or scene.phase != self._phase:
            self._printed, self._phase = now, scene.phase
            self._print(line(scene))

    def tell(self, event: str) -> None:
        """Print it."""
        self._print(event)

    def close(self) -> None:
        """There is nothing to take away."""

    def _print(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class Terminal(Console):
    """A console that says so when its reader went away, instead of ending the process."""

    def on_broken_pipe(self) -> None:
        """Called by rich while it handles the error."""
        raise BrokenPipeError


@contextmanager
def surviving_its_reader() -> Iterator[None]:
    """Leave the block where standard output cannot be written; what is buffered goes nowhere."""
    try:
        yield
    except OSError:
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


class Screen:
    """A view whose terminal may go away: a run does not end because nobody watches it."""

    def __init__(self, view: View) -> None:
        self._view: View | None = view

    def show(self, scene: Scene) -> None:
        """Show a scene, if it can be shown."""
        self._do(lambda view: view.show(scene))

    def tell(self, event: str) -> None:
        """Show one line that stays, if it can be shown."""
        self._do(lambda view: view.tell(event))

    def close(self) -> None:
        """Leave the terminal as it was."""
        self._do(lambda view: view.close())

    def _do(self, act: Callable[[View], None]) -> None:
        if self._view is None:
            return
        with surviving_its_reader():
            act(self._view)
            return
        self._view = None


class Sparks:
    """A history of values as a line of small bars; a long one is thinned out."""

    def __init__(self) -> None:
        self._values: list[float] = []
        self._added = float("-inf")
        self._interval = 1.0

    def add(self, value: float, now: float) -> None:
        """Take in a value, at first one a second."""
        if now - self._added < self._interval:
            return
        self._values.append(value)
        self._added = now
        if len(self._values) >= 2 * _SPARKS:
            self._values = self._values[::2]
            self._interval *= 2

    def text(self) -> str:
        """At most 32 bars between the smallest and the largest value."""
        return sparkline(self._values, _SPARKS)
