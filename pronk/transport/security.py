"""Who may call what: tokens, roles and TLS. Everything not allowed is refused."""

import hashlib
import ssl
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import grpc
from google.protobuf.descriptor import ServiceDescriptor

from pronk.errors import Misconfigured
from pronk.transport.settings import Address, Settings, read_bytes, read_text
from pronk.wire.v1 import access_pb2

Roles = frozenset[int]
"""Values of `access_pb2.Role`."""
Metadata = Iterable[tuple[str, str | bytes]]

ROLES: Mapping[str, int] = {
    "actor": access_pb2.ROLE_ACTOR,
    "learner": access_pb2.ROLE_LEARNER,
    "operator": access_pb2.ROLE_OPERATOR,
    "reader": access_pb2.ROLE_READER,
}
ALL_ROLES: Roles = frozenset(ROLES.values())
_SCHEME = "Bearer "


class Authority:
    """Knows the roles of a token.

    Args:
        tokens: roles by the token's SHA-256; None: nobody shows a token and everybody has every
            role, which is for loopback and trusted networks.
    """

    def __init__(self, tokens: Mapping[bytes, Roles] | None) -> None:
        self._tokens = tokens

    def roles(self, metadata: Metadata) -> Roles | None:
        """The roles of a call's token; None without one that is known."""
        if self._tokens is None:
            return ALL_ROLES
        for key, value in metadata:
            if key == "authorization" and isinstance(value, str) and value.startswith(_SCHEME):
                return self._tokens.get(_digest(value.removeprefix(_SCHEME)))
        return None


def authority(settings: Settings) -> Authority:
    """The authority of a server's `PRONK_TOKENS_FILE`.

    Raises:
        Misconfigured: the file cannot be read, or a line of it is not `role token`.
    """
    path = settings.tokens_file
    return Authority(None if path is None else _read_tokens(path))


def _read_tokens(path: Path) -> dict[bytes, Roles]:
    tokens: dict[bytes, Roles] = {}
    for number, line in enumerate(read_text(path, "PRONK_TOKENS_FILE").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or words[0] not in ROLES or not words[1].isascii():
            raise Misconfigured(
                f"PRONK_TOKENS_FILE: line {number} of {path} is not `role token`; "
                f"roles are {', '.join(ROLES)}"
            )
        digest = _digest(words[1])
        tokens[digest] = tokens.get(digest, frozenset()) | {ROLES[words[0]]}
    if not tokens:
        raise Misconfigured(f"PRONK_TOKENS_FILE: {path} holds no token")
    return tokens


def _digest(token: str) -> bytes:
    # Looking hashes up tells a caller's clock nothing about a token.
    return hashlib.sha256(token.encode()).digest()


def required_roles(services: Sequence[ServiceDescriptor]) -> dict[str, Roles]:
    """Roles that may call each method, by path, as the `roles` option of the proto says."""
    return {
        f"/{service.full_name}/{method.name}": frozenset(
            method.GetOptions().Extensions[access_pb2.roles]
        )
        for service in services
        for method in service.methods
    }


def check_listen(settings: Settings, address: Address) -> None:
    """Refuse to offer the parameter server to others without TLS and tokens.

    Raises:
        Misconfigured: the address is not loopback and protection is missing.
    """
    if address.is_loopback or settings.insecure:
        return
    if settings.tokens_file is None or settings.tls_cert is None:
        raise Misconfigured(
            f"listening on {address} needs PRONK_TLS_CERT, PRONK_TLS_KEY and PRONK_TOKENS_FILE; "
            "PRONK_INSECURE=1 allows it without on a trusted network"
        )


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """TLS of a server, None without a certificate; a CA makes it demand clients' certificates.

    Raises:
        Misconfigured: a file is missing, cannot be read or is not what it should be.
    """
    pair = _key_and_certificate(settings)
    roots = _roots(settings)
    if pair is None:
        if roots is not None:
            raise Misconfigured("PRONK_TLS_CA on a server needs PRONK_TLS_CERT and PRONK_TLS_KEY")
        return None
    return grpc.ssl_server_credentials(
        [pair], root_certificates=roots, require_client_auth=roots is not None
    )


def client_credentials(settings: Settings) -> grpc.ChannelCredentials | None:
    """TLS of a client, None without a CA.

    Raises:
        Misconfigured: a file is missing, cannot be read or is not what it should be.
    """
    pair = _key_and_certificate(settings)
    roots = _roots(settings)
    if roots is None:
        return None
    key, certificate = pair or (None, None)
    return grpc.ssl_channel_credentials(roots, key, certificate)


def _key_and_certificate(settings: Settings) -> tuple[bytes, bytes] | None:
    paths = settings.tls_key, settings.tls_cert
    if paths == (None, None):
        return None
    if paths[0] is None or paths[1] is None:
        raise Misconfigured("PRONK_TLS_CERT and PRONK_TLS_KEY go together: one of them is missing")
    key, certificate = _read(paths[0], "PRONK_TLS_KEY"), _certificates(paths[1], "PRONK_TLS_CERT")
    try:
        # Keys with a password are of no use to gRPC; without this OpenSSL would ask for it.
        _context().load_cert_chain(paths[1], paths[0], password=b"")
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise Misconfigured(
            f"PRONK_TLS_KEY: {paths[0]} is no key of PRONK_TLS_CERT's certificate "
            f"({_reason(error)})"
        ) from None
    return key, certificate


def _roots(settings: Settings) -> bytes | None:
    return None if settings.tls_ca is None else _certificates(settings.tls_ca, "PRONK_TLS_CA")


def _certificates(path: Path, variable: str) -> bytes:
    """A PEM file of certificates. gRPC would call a server unreachable where they are none."""
    content = _read(path, variable)
    try:
        _context().load_verify_locations(cadata=content.decode("ascii", "ignore"))
    except (OSError, ValueError) as error:
        raise Misconfigured(f"{variable}: {path} holds no certificate ({_reason(error)})") from None
    return content


def _context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _reason(error: Exception) -> str:
    return getattr(error, "reason", None) or str(error)


def _read(path: Path, variable: str) -> bytes:
    content = read_bytes(path, variable)
    if b"-----BEGIN" not in content:
        raise Misconfigured(f"{variable}: {path} is not a PEM file")
    return content
