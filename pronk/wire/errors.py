"""Why a message is refused."""

_LONGEST = 500
"""Characters of a message: it may quote names from the wire, which are as long as they like."""


class WireError(ValueError):
    """A message that cannot be used.

    Attributes:
        reason: a short word from a fixed set, used as a metric label: "magic", "version",
            "checksum", "malformed", "tensor", "shape", "dtype", "range", "non_finite", "run",
            "experiment", "policy", "spec", "oversized".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message[:_LONGEST])
        self.reason = reason
