"""The learner's publisher: whether it goes on."""

import threading
import time
from types import SimpleNamespace
from typing import Any

from param_servers import eventually
from pronk_learner.publisher import Publisher, Snapshot

from pronk.transport.heart import Heart


class FakeClient:
    """Waits for a parameter server, or for ever."""

    def __init__(self) -> None:
        self.there = threading.Event()
        self.stuck = False

    def publish(self, _: Any, beat: Any) -> bool:
        while not self.there.wait(0.01):
            if not self.stuck:
                beat()
        return True


def test_it_is_late_only_when_it_is_stuck() -> None:
    heart, client = Heart(0.2), FakeClient()
    exporter: Any = SimpleNamespace(bundle=lambda *_, **__: None)
    with Publisher(exporter, client, "default", heart) as publisher:  # type: ignore[arg-type]
        time.sleep(0.3)
        assert not heart.late(), "it has nothing to do"
        publisher.submit(Snapshot({}, 1, 1, 0))
        time.sleep(0.3)
        assert not heart.late(), "the parameter server is away"
        client.stuck = True
        eventually(lambda: heart.late() == ["publisher"])
        client.there.set()
        eventually(lambda: not heart.late())
