"""The error of the command line's own verbs."""


class Failed(RuntimeError):  # noqa: N818 - it reads as what it says
    """What was asked for could not be done, and nobody is to blame. One line; status 1."""
