"""Bounds of numbers on the wire that no experiment bounds."""

MAX_FIGURE = 1e15
"""Of a return, and of the seconds, rates and shares that members tell of themselves: more than any
has, and so little that sums and quotients of such numbers are finite."""
