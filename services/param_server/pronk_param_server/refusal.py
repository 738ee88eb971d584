"""Why a call is refused."""

import grpc

INVALID = grpc.StatusCode.INVALID_ARGUMENT
NOT_FOUND = grpc.StatusCode.NOT_FOUND
DENIED = grpc.StatusCode.PERMISSION_DENIED
# A newer epoch, another spec, another experiment: waiting or repeating does not help.
PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
EXISTS = grpc.StatusCode.ALREADY_EXISTS
DATA_LOSS = grpc.StatusCode.DATA_LOSS
TOO_SLOW = grpc.StatusCode.DEADLINE_EXCEEDED
EXHAUSTED = grpc.StatusCode.RESOURCE_EXHAUSTED
# A defect of the server's own.
INTERNAL = grpc.StatusCode.INTERNAL


class Refusal(Exception):  # noqa: N818
    """Ends a call with a status and a sentence for a person; nothing was changed."""

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code
