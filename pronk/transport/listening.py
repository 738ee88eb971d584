"""Whether an address can be listened on, told in one line."""

import socket

from pronk.errors import Misconfigured
from pronk.transport.settings import Address


def check_free(address: Address, variable: str) -> None:
    """Bind the address and let it go again: gRPC itself does not say what is wrong, and logs.

    Args:
        address: where a server is about to listen.
        variable: the environment variable that names it.

    Raises:
        Misconfigured: it is taken, or not this machine's.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as probe:
            # Connections of an earlier server that are not over yet do not matter.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            probe.listen(1)
    except OSError as error:
        raise Misconfigured(
            f"{variable}: cannot listen on {address}: {error.strerror or error}"
        ) from None
