"""A parameter server in a thread, and one who speaks to it; some modules have others."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster_clients import Client
from param_servers import ServerThread


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ServerThread]:
    with ServerThread(tmp_path / "run") as running:
        yield running


@pytest.fixture
def client(server: ServerThread) -> Iterator[Client]:
    with Client(server) as client:
        yield client
