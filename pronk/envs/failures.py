"""Environments that fail: what went wrong where, and how often is too often."""

from collections.abc import Callable
from typing import Literal, NamedTuple, TypeVar

from pronk.errors import Broken

PATIENCE = 5
"""Failures of a slot in a row, without one good step between them, that are borne."""
ERRORS = (Exception, SystemExit)
"""What an environment may raise without ending the process that plays it."""
_LONGEST = 300

Reason = Literal["crash", "hang", "non_finite", "range", "shape"]
Result = TypeVar("Result")


class Unusable(ValueError):  # noqa: N818 - it reads as what it says
    """What an environment did or showed is nothing that can be learned from."""

    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Failure(NamedTuple):
    """An environment that failed and was, or is to be, replaced by a new one."""

    slot: int | None
    """Where; None when all slots are one environment."""
    reason: Reason
    said: str
    """One line for a person."""


Tell = Callable[[Failure], None]


def keep_quiet(_: Failure) -> None:
    """Tell nobody."""


def failure(slot: int | None, error: BaseException) -> Failure:
    """What `error` means for `slot`."""
    said = " ".join(str(error).split())[:_LONGEST]
    if isinstance(error, Unusable):
        return Failure(slot, error.reason, said)
    name = type(error).__name__
    return Failure(slot, "crash", f"{name}: {said}" if said else name)


class Failures:
    """Tells of an environment's failures, and ends its play when nothing else comes any more."""

    def __init__(self, environment: str, tell: Tell) -> None:
        """Tell `tell` of what fails in `environment`."""
        self._environment = environment
        self._tell = tell
        self._row = 0
        self._streaks: dict[int | None, tuple[int, int]] = {}

    def stepped(self) -> None:
        """Every slot is about to step once more."""
        self._row += 1

    def add(self, failed: Failure) -> None:
        """Take note of a failure.

        Raises:
            Broken: the slot failed `PATIENCE` times in a row.
        """
        self._tell(failed)
        last, streak = self._streaks.get(failed.slot, (self._row, 0))
        streak = streak + 1 if self._row - last <= 1 else 1
        self._streaks[failed.slot] = (self._row, streak)
        if streak >= PATIENCE:
            where = "" if failed.slot is None else f" (slot {failed.slot})"
            raise Broken(
                f"environment {self._environment}{where} failed {streak} times in a row: "
                f"{failed.said}"
            )


def persist(
    error: BaseException, note: Callable[[BaseException], None], begin: Callable[[], Result]
) -> Result:
    """Call `begin` until it works, `note` before each try; `note` raises when that is enough."""
    while True:
        note(error)
        try:
            return begin()
        except ERRORS as another:
            error = another
