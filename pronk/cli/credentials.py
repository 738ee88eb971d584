"""What a cluster on this machine needs to trust itself, made on the spot and thrown away.

An authority that signs a certificate for every role and is forgotten at once (its key is never
written down), a token per role, and a password per role on Redis. All lie in a private folder
outside of the run directory that goes when `pronk up` does, even if it is killed.

    FOLDER/ROLE/ca.crt tls.crt tls.key   certificates; ROLE is one of ROLES or `param-server`
    FOLDER/ROLE/token                    the role's token
    FOLDER/ROLE/env                      all of it as variables, to be sourced by a shell
    FOLDER/param-server/tokens           every role's token
    FOLDER/valkey.acl                    users of the buffer
"""

import os
import secrets
import shlex
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pronk.cli.scratch import scratch
from pronk.transport.acl import aclfile
from pronk.transport.security import ROLES

SERVER = "param-server"
_BUFFER_ROLES = ("actor", "learner")
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Credentials:
    """The credentials of one cluster.

    Attributes:
        folder: where they lie.
        server: address of the parameter server.
        redis_urls: of the buffer, with user and password, by role.
    """

    folder: Path
    server: str
    redis_urls: Mapping[str, str] = field(repr=False)

    @property
    def aclfile(self) -> Path:
        """Users of the buffer."""
        return self.folder / "valkey.acl"

    def environment(self, role: str) -> dict[str, str]:
        """The `PRONK_*` variables of a program: its own role's credentials and no other's."""
        own = {f"PRONK_{name.upper()}": str(path) for name, path in role_files(self.folder / role)}
        if role == SERVER:
            own["PRONK_TOKENS_FILE"] = str(self.folder / role / "tokens")
            del own["PRONK_TOKEN_FILE"]
        if role in self.redis_urls:
            own["PRONK_REDIS_URL"] = self.redis_urls[role]
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
    """New credentials for a cluster, as long as the context lasts.

    Args:
        server: address of the parameter server.
        valkey_port: of the buffer, on loopback.
    """
    with scratch("pronk-secure-") as folder:
        yield _make(folder, server, valkey_port)


def _make(folder: Path, server: str, valkey_port: int) -> Credentials:
    # Only `pronk up --secure` needs the package for certificates.
    from pronk.cli.authority import Authority

    authority = Authority()
    tokens = {role: secrets.token_urlsafe(32) for role in ROLES}
    passwords = {role: secrets.token_urlsafe(32) for role in _BUFFER_ROLES}
    urls = {role: f"redis://{role}:{p}@{_HOST}:{valkey_port}/0" for role, p in passwords.items()}
    made = Credentials(folder, server, urls)
    _write(made.aclfile, aclfile(passwords))
    for role in (SERVER, *ROLES):
        place = folder / role
        place.mkdir(mode=0o700)
        certificate, key = authority.issue(role, _HOST if role == SERVER else None)
        _write(place / "ca.crt", authority.certificate)
        _write(place / "tls.crt", certificate)
        _write(place / "tls.key", key)
    for role, token in tokens.items():
        _write(folder / role / "token", f"{token}\n")
        variables = {"PRONK_SERVER": server} | made.environment(role)
        lines = (f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())
        _write(made.env_file(role), "".join(lines))
    lines = (f"{role} {token}\n" for role, token in tokens.items())
    _write(folder / SERVER / "tokens", "".join(lines))
    return made


def _write(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
