"""Who may do what on Redis: one user per role. Everything not allowed is refused.

A script runs with the rights of whoever calls it, so that each role needs what its scripts do, on
the keys they do it to, and no more. This is the one place that says so: `aclfile` makes the file
that a Valkey or Redis (7 or newer) is started with, `--aclfile`.

What no rule can say: whoever may XADD may trim with its MAXLEN, and actors, who share one user,
may write each other's keys (docs/security.md).
"""

import hashlib
from collections.abc import Mapping

from pronk.errors import Misconfigured

_STREAM, _SIZES, _SEEN = "~pronk:*:*:unrolls", "~pronk:*:*:sizes", "~pronk:*:*:seen:*"
"""`pronk.transport.buffer.BufferKeys`."""

# How full the memory is, and the scripts by their hash.
_COMMON = "+ping +info"
_SCRIPTS = "+evalsha ~pronk:*"

RULES: Mapping[str, str] = {
    # Adds, and nothing else: it reads no unroll, removes none, and runs no script of its own, which
    # might never end.
    "actor": (
        f"{_COMMON} {_SCRIPTS} ({_STREAM} +xlen +xadd) ({_SIZES} +hget +hset) ({_SEEN} +get +set)"
    ),
    # Reads, acknowledges, deletes, takes over what dead learners left, and mends what actors' hands
    # did; it adds nothing.
    "learner": (
        f"{_COMMON} {_SCRIPTS} +script|load "
        f"({_STREAM} +xlen +xgroup|create +xgroup|delconsumer +xinfo|consumers +xreadgroup "
        "+xpending +xclaim +xack +xdel +xinfo|stream +memory|usage +del) "
        f"({_SIZES} +hget +hincrby +hdel +del)"
    ),
    # Probes and exporters of metrics.
    "monitor": _COMMON,
}
"""Rules of each role's user, in the syntax of ACL SETUSER."""


def aclfile(passwords: Mapping[str, str]) -> str:
    """The file for `--aclfile`: the users of `passwords`, and nobody else.

    It holds hashes of the passwords; the user `default`, that of clients without a name, is off.

    Args:
        passwords: by role.

    Raises:
        Misconfigured: there is no such role, or a password is empty.
    """
    lines = ["user default reset off"]
    for role, password in passwords.items():
        if role not in RULES or not password:
            raise Misconfigured(
                f"{role}: the buffer's roles are {', '.join(RULES)}, each with a password"
            )
        digest = hashlib.sha256(password.encode()).hexdigest()
        lines.append(f"user {role} reset on #{digest} {RULES[role]}")
    return "\n".join(lines) + "\n"
