"""A server and a buffer of it for every test."""

import itertools
from collections.abc import Iterator

import pytest
from buffers import prepare
from redis import Redis
from valkeys import EmbeddedValkey

from pronk.transport.buffer import BufferKeys
from pronk.transport.redis import connect

_runs = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path_factory.mktemp("valkey")) as running:
        yield running


@pytest.fixture
def own_server(tmp_path) -> Iterator[EmbeddedValkey]:
    with EmbeddedValkey(tmp_path) as running:
        yield running


@pytest.fixture
def client(server) -> Iterator[Redis]:
    with connect(server.url) as client:
        prepare(client)
        yield client


@pytest.fixture
def keys() -> BufferKeys:
    """Of a buffer that no other test uses."""
    return BufferKeys(f"run-{next(_runs)}", "default")
