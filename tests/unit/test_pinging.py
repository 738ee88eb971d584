"""A Redis of somebody else that does not answer is told, and its password is not."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import pytest

from pronk.cli.pinging import Pinger, address
from pronk.cli.rundir import RunDirectory
from pronk.cli.session import cluster
from pronk.cli.up import _watch
from pronk.config import parse

EXPERIMENT = parse("{name: x, env: {id: CartPole-v1}}")
NOBODY = "redis://me:hunter2@127.0.0.1:1/0"


class Nothing:
    """A supervisor of no processes."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def tick(self) -> None:
        pass


def test_a_redis_that_does_not_answer_is_told_again_and_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pronk.cli.session.Supervisor", Nothing)
    monkeypatch.setattr("pronk.cli.session.SILENCE_SECONDS", 0.5)
    told: list[str] = []
    signals = SimpleNamespace(stop=threading.Event())

    def tell(event: str) -> None:
        if "127.0.0.1:1 " in event:
            told.append(event)
        if len(told) == 2:
            signals.stop.set()

    director: Any = SimpleNamespace(tell=tell, show=lambda _: None)
    end = threading.Timer(20.0, signals.stop.set)
    end.start()
    with cluster(EXPERIMENT, RunDirectory(tmp_path), NOBODY, tell) as running:
        _watch(running, director, signals)  # type: ignore[arg-type]
    end.cancel()
    assert len(told) == 2
    for each in told:
        assert each.startswith("redis://127.0.0.1:1 has not answered for ")
        assert "Connection refused" in each
        assert "hunter2" not in each


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://host:6379/0", "redis://host:6379"),
        ("rediss://me:hunter2@host:6379/0?ssl_ca_certs=ca.pem", "rediss://host:6379"),
        ("redis://host?password=hunter2", "redis://host"),
        ("redis://:hun@ter2@host:1", "redis://host:1"),
        ("redis://hunter:2/2@host:1", "the Redis of --redis-url"),
        ("redis://hunter:2?2@host:1", "the Redis of --redis-url"),
        ("redis://hunter:2#2@host:1", "the Redis of --redis-url"),
        ("unix:///run/redis.sock?password=hunter2", "the Redis of --redis-url"),
    ],
)
def test_of_a_url_only_the_address_is_shown(url: str, shown: str) -> None:
    assert address(url) == shown


def test_an_answer_that_quotes_the_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    pinger = Pinger("redis://me:hunt%65r2@127.0.0.1:1/0")

    def refuse() -> None:
        raise ValueError("-ERR AUTH me hunter2")

    monkeypatch.setattr(pinger._client, "ping", refuse)
    assert pinger._ask() == "ValueError"
    monkeypatch.setattr(pinger._client, "ping", lambda: True)
    assert pinger._ask() == ""
