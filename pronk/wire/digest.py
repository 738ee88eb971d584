"""The hash that names bytes."""

import hashlib


def digest(blob: bytes) -> str:
    """Hex SHA-256: the name of a blob."""
    return hashlib.sha256(blob).hexdigest()
