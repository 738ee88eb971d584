"""Where things run and with which credentials: the `PRONK_*` environment variables."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from pronk.errors import Misconfigured

_PREFIX = "PRONK_"
_HOST = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


@dataclass(frozen=True)
class Address:
    """A host and a port; port 0 asks a server for a free one."""

    host: str
    port: int

    def __str__(self) -> str:
        """`host:port`, IPv6 in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Only this machine can reach it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


def parse_address(text: str | Address) -> Address:
    """The address that `host:port` or `[v6]:port` names.

    Raises:
        ValueError: it is no address; the message says so.
    """
    if isinstance(text, Address):
        return text
    host, separator, port = text.strip().rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    well_formed = _is_ipv6(host) if bracketed else bool(_HOST.fullmatch(host))
    if not (separator and well_formed and port.isascii() and port.isdigit()):
        raise ValueError(f"{text!r} is not HOST:PORT, for example 127.0.0.1:50051")
    if int(port) > 65535:
        raise ValueError(f"{text!r}: a port is at most 65535")
    return Address(host, int(port))


def _is_ipv6(host: str) -> bool:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        return False
    return True


def _lower_case(value: Any) -> Any:
    return value.lower() if isinstance(value, str) else value


Endpoint = Annotated[Address, BeforeValidator(parse_address)]


class Settings(BaseSettings):
    """The environment of a process; keyword arguments replace variables in tests."""

    model_config = SettingsConfigDict(
        env_prefix=_PREFIX,
        env_ignore_empty=True,
        # Addresses are no JSON.
        enable_decoding=False,
        frozen=True,
        use_attribute_docstrings=True,
    )

    server: Endpoint = Address("127.0.0.1", 50051)
    """The parameter server, as its clients reach it."""
    listen: Endpoint = Address("127.0.0.1", 50051)
    """Where the parameter server listens."""
    health_listen: Endpoint = Address("127.0.0.1", 0)
    """Where a process answers gRPC health checks; port 0: any free one."""
    metrics_listen: Endpoint = Address("127.0.0.1", 0)
    """Where a process serves Prometheus metrics; port 0: any free one."""
    redis_url: SecretStr = SecretStr("redis://127.0.0.1:6379/0")
    """The buffer; it may hold a password."""
    redis_url_file: Path | None = None
    """A file with the buffer's URL; it comes before `PRONK_REDIS_URL`."""
    run_dir: Path | None = None
    """The run's state; the learner and the parameter server need it."""
    token: SecretStr | None = None
    """A client's token."""
    token_file: Path | None = None
    """A file with a client's token."""
    tokens_file: Path | None = None
    """The parameter server's tokens: `role token`, one a line."""
    tls_ca: Path | None = None
    """Client: certificates that the server's must descend from. Server: the clients'."""
    tls_cert: Path | None = None
    """Own certificate."""
    tls_key: Path | None = None
    """Own private key."""
    insecure: bool = False
    """Allow addresses that others reach without TLS and tokens."""
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], BeforeValidator(_lower_case)
    ] = "info"
    """debug, info, warning or error."""
    commit: str | None = None
    """The source's commit in `summary.json`, where it is no git checkout."""

    def client_token(self) -> str | None:
        """The token that a client shows, None without one.

        Raises:
            Misconfigured: the file cannot be read, or what it holds is no token.
        """
        if self.token is not None:
            return _token(self.token.get_secret_value(), "PRONK_TOKEN")
        if self.token_file is None:
            return None
        return _token(read_text(self.token_file, "PRONK_TOKEN_FILE"), "PRONK_TOKEN_FILE")

    def buffer_url(self) -> str:
        """The buffer's URL; never to be logged.

        Raises:
            Misconfigured: the file cannot be read.
        """
        if self.redis_url_file is None:
            return self.redis_url.get_secret_value()
        return read_text(self.redis_url_file, "PRONK_REDIS_URL_FILE").strip()

    def required_run_dir(self) -> Path:
        """The run directory.

        Raises:
            Misconfigured: none was given.
        """
        if self.run_dir is None:
            raise Misconfigured("PRONK_RUN_DIR is not set: name the folder that holds the run")
        return self.run_dir


def load() -> Settings:
    """The settings of this process's environment.

    Raises:
        Misconfigured: a variable has an impossible value.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = _PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        raise Misconfigured(f"{name}: {first['msg'].removeprefix('Value error, ')}") from None


def read_bytes(path: Path, variable: str) -> bytes:
    """The content of a file that an environment variable names.

    Raises:
        Misconfigured: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise Misconfigured(f"{variable}: cannot read {path}: {error.strerror}") from None


def read_text(path: Path, variable: str) -> str:
    """The text of a file that an environment variable names; see `read_bytes`."""
    try:
        return read_bytes(path, variable).decode()
    except UnicodeDecodeError:
        raise Misconfigured(f"{variable}: {path} is not a UTF-8 text file") from None


def _token(text: str, variable: str) -> str:
    token = text.strip()
    if not token or not token.isascii() or not token.isprintable() or " " in token:
        raise Misconfigured(f"{variable}: a token is one word of printable ASCII characters")
    return token
