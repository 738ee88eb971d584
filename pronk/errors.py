"""Errors that end a process."""


class Misconfigured(ValueError):  # noqa: N818 - it reads as what it says
    """The process cannot do what it was asked, and waiting would not help.

    The message is one line for a person and says what to do. Entry points print it and end with
    status 2; supervisors do not restart such a process.
    """


class Fenced(RuntimeError):  # noqa: N818
    """Another learner holds a newer epoch: this one must not acknowledge, publish or save."""


class Broken(RuntimeError):  # noqa: N818
    """What the process works with fails again and again; starting anew may help.

    The message is one line for a person. Entry points print it and end with status 1.
    """
