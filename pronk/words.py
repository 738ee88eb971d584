"""Numbers as people read them, and text from elsewhere as terminals may have it."""

import math


def duration(seconds: float) -> str:
    """`42 s`, `3:07`, `2:03:07`; `–` of what is no number of seconds."""
    if not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02}:{rest:02}"
    return f"{minutes}:{rest:02}" if minutes else f"{rest} s"


def short(count: float) -> str:
    """`950`, `12.3 k`, `4.56 M`."""
    for factor, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= factor:
            return f"{count / factor:.3g} {unit}"
    return f"{count:g}"


def plural(count: int, noun: str) -> str:
    """`1 slot`, `2 slots`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def printable(text: str) -> str:
    """Text of somebody else on one line, without what a terminal would obey.

    For rich it is to be wrapped in `Text`, lest it be taken for markup.
    """
    return "".join(letter for letter in text if letter.isprintable())


def percent(share: float) -> str:
    """`45 %`."""
    return f"{100 * share:.0f} %"
