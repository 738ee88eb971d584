"""Why a message is refused."""


class WireError(ValueError):
    """A message that cannot be used.

    Attributes:
        reason: a short word from a fixed set, used as a metric label: "magic", "version",
            "checksum", "malformed", "tensor", "shape", "dtype", "range", "non_finite", "run",
            "experiment", "policy", "spec", "oversized".
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason
