"""Bounds of numbers on the wire that no experiment bounds."""

MAX_FLOAT = 1e9
"""Of every float, either sign, whatever its space declares: float32 cannot tell such numbers from
their neighbours any more, 64 apart. Their squares, and the square of a return of a thousand such
rewards, summed over a million rows, are finite float32: none alone ends a run as diverged, or makes
running statistics infinite."""
MAX_RETURN = MAX_FLOAT**2
"""Of an episode, either sign: a billion of the largest rewards. Such returns have a mean."""
MAX_FIGURE = 1e15
"""Of the seconds, rates and shares that members tell of themselves: more than any
has, and so little that sums and quotients of such numbers are finite."""
