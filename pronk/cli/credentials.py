"""What a cluster needs to trust itself, made on the spot.

An authority that signs a certificate for every role and is forgotten at once (its key is never
written down), a token per role, and a password per role on Redis.

    FOLDER/ROLE/ca.crt tls.crt tls.key   certificates; ROLE is one of ROLES or `param-server`
    FOLDER/ROLE/token                    the role's token
    FOLDER/ROLE/redis_url                the buffer's URL with the role's password
    FOLDER/ROLE/env                      all of it as variables, to be sourced by a shell
    FOLDER/param-server/tokens           every role's token
    FOLDER/redis/users.acl               users of the buffer, by hashes of their passwords
    FOLDER/redis/ca.crt tls.crt tls.key  the buffer's own certificate, where it speaks TLS
"""

import os
import secrets
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pronk.cli.scratch import scratch
from pronk.transport.acl import aclfile
from pronk.transport.security import ROLES

SERVER = "param-server"
_BUFFER = "redis"
_BUFFER_ROLES = ("actor", "learner")
_HERE = ("127.0.0.1", "localhost")


@dataclass(frozen=True)
class Credentials:
    """The credentials of one cluster.

    Attributes:
        folder: where they lie.
        server: address of the parameter server.
    """

    folder: Path
    server: str

    @property
    def aclfile(self) -> Path:
        """Users of the buffer."""
        return self.folder / _BUFFER / "users.acl"

    def environment(self, role: str) -> dict[str, str]:
        """The `PRONK_*` variables of a program: its own role's credentials and no other's."""
        own = {f"PRONK_{name.upper()}": str(path) for name, path in role_files(self.folder / role)}
        if role == SERVER:
            own["PRONK_TOKENS_FILE"] = str(self.folder / role / "tokens")
            del own["PRONK_TOKEN_FILE"]
        if role in _BUFFER_ROLES:
            own["PRONK_REDIS_URL_FILE"] = str(self.folder / role / "redis_url")
        return own

    def env_file(self, role: str) -> Path:
        """What to source in a shell in order to ask this cluster."""
        return self.folder / role / "env"


def role_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Fields of `Settings` and the files in a role's folder that they name."""
    yield "tls_ca", folder / "ca.crt"
    yield "tls_cert", folder / "tls.crt"
    yield "tls_key", folder / "tls.key"
    yield "token_file", folder / "token"


@contextmanager
def throwaway(server: str, valkey_port: int) -> Iterator[Credentials]:
    """New credentials for a cluster on this machine, as long as the context lasts.

    They lie in a private folder outside of the run directory that goes when `pronk up` does, even
    if it is killed.

    Args:
        server: address of the parameter server.
        valkey_port: of the buffer, on loopback.
    """
    with scratch("pronk-secure-") as folder:
        yield make(folder, server, _HERE, f"redis://{{user}}@{_HERE[0]}:{valkey_port}/0")


def make(
    folder: Path,
    server: str,
    names: Sequence[str],
    buffer_url: str,
    buffer_names: Sequence[str] = (),
) -> Credentials:
    """New credentials for a cluster, readable by this user only.

    Args:
        folder: an empty one.
        server: address of the parameter server, as people reach it.
        names: addresses and hosts by which the parameter server is known to its clients.
        buffer_url: of the buffer; `{user}` stands for a role and its password.
        buffer_names: those of the buffer; none: it speaks no TLS.
    """
    # Only who makes certificates needs the package for them.
    from pronk.cli.authority import Authority

    authority, made = Authority(), Credentials(folder, server)
    hosts = dict.fromkeys(ROLES, ()) | {SERVER: names} | {_BUFFER: buffer_names}
    for holder, own_names in hosts.items():
        place = folder / holder
        place.mkdir(mode=0o700)
        if holder == _BUFFER and not buffer_names:
            continue
        certificate, key = authority.issue(holder, own_names)
        _write(place / "ca.crt", authority.certificate)
        _write(place / "tls.crt", certificate)
        _write(place / "tls.key", key)
    passwords = {role: secrets.token_urlsafe(32) for role in _BUFFER_ROLES}
    _write(made.aclfile, aclfile(passwords))
    for role, password in passwords.items():
        _write(folder / role / "redis_url", buffer_url.format(user=f"{role}:{password}") + "\n")
    tokens = {role: secrets.token_urlsafe(32) for role in ROLES}
    _write(folder / SERVER / "tokens", "".join(f"{role} {tokens[role]}\n" for role in ROLES))
    for role, token in tokens.items():
        _write(folder / role / "token", f"{token}\n")
        variables = {"PRONK_SERVER": server} | made.environment(role)
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        _write(made.env_file(role), "".join(lines))
    return made


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
