"""What the tests of the buffer do to it: producers, consumers, and traffic between them."""

import threading
import time
from collections import Counter
from collections.abc import Callable

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from pronk.transport.buffer import BufferKeys, Consumer, Producer
from pronk.transport.redis import connect

MAX_ENTRIES, MAX_BYTES = 8, 1 << 20
NEVER = threading.Event()


def prepare(client: Redis) -> None:
    """As if a learner had read from some buffer of the server."""
    assert Consumer(client, BufferKeys("other", "default"), "learner").read(1, 0) == []


def producer(client: Redis, keys: BufferKeys, max_entries: int = MAX_ENTRIES) -> Producer:
    return Producer(client, keys, max_entries, MAX_BYTES)


def fill(client: Redis, keys: BufferKeys, count: int, payload: bytes = b"x" * 100) -> None:
    """Add `count` entries with sequences from 1."""
    sender = producer(client, keys, max_entries=count)
    for sequence in range(1, count + 1):
        assert sender.send("member", sequence, payload, NEVER)


def stopped() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


class Delays(threading.Event):
    """A `stop` that is set after so many waits, none of which takes any time."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._count = count

    def wait(self, timeout: float | None = None) -> bool:
        assert timeout is not None
        self.seconds.append(timeout)
        return len(self.seconds) >= self._count


def wait_until(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


def losing_the_first_answer(call: Callable) -> Callable:
    """The server does it, and the connection breaks before it can say so."""
    lost = []

    def once(*args, **kwargs):
        answer = call(*args, **kwargs)
        if not lost:
            lost.append(answer)
            raise RedisConnectionError("lost")
        return answer

    return once


class Traffic:
    """Producers in threads and a consumer in another, until everything has been sent."""

    def __init__(
        self,
        url: str,
        keys: BufferKeys,
        *,
        each: int = 100,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.url = url
        self.keys = keys
        self.each = each
        self.stop = threading.Event()
        self.received: Counter[tuple[str, int]] = Counter()
        self.failures: list[BaseException] = []
        self._done = threading.Event()
        self._max_bytes = max_bytes
        self.members = [f"member-{index}" for index in range(4)]
        self.producers = [
            threading.Thread(target=self._guard, args=(self._produce, member), daemon=True)
            for member in self.members
        ]
        self.consumer = threading.Thread(target=self._guard, args=(self._consume,), daemon=True)

    @property
    def everything(self) -> set[tuple[str, int]]:
        return {(m, s) for m in self.members for s in range(1, self.each + 1)}

    def start(self) -> None:
        for thread in (*self.producers, self.consumer):
            thread.start()

    def finish(self) -> None:
        """Wait until all was sent and the buffer is empty."""
        for thread in self.producers:
            thread.join(60)
            assert not thread.is_alive()
        self._done.set()
        self.consumer.join(60)
        assert not self.consumer.is_alive()
        assert not self.failures

    def _guard(self, work: Callable[..., None], *args: str) -> None:
        try:
            work(*args)
        except BaseException as error:  # the test's thread raises it
            self.failures.append(error)

    def _produce(self, member: str) -> None:
        with connect(self.url) as client:
            sender = Producer(client, self.keys, MAX_ENTRIES, self._max_bytes)
            for sequence in range(1, self.each + 1):
                payload = f"{member} {sequence}".encode().ljust(1000)
                assert sender.send(member, sequence, payload, self.stop)

    def _consume(self) -> None:
        with connect(self.url) as client:
            reader = Consumer(client, self.keys, "learner")
            while True:
                done = self._done.is_set()
                entries = reader.read(4, 50)
                for entry in entries:
                    member, sequence = entry.payload.decode().split()
                    self.received[member, int(sequence)] += 1
                reader.ack([entry.id for entry in entries])
                if done and not entries:
                    return
