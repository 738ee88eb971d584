"""What a buffer costs its server: the numbers of `docs/decisions/bounded-by-producers.md`.

A server of its own for as long as that takes, on a free port of this machine. This process is actor
and learner in turn.
"""

import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from statistics import median
from typing import Any

from _report import interleaved, options, publish, table, versions_of
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import OutOfMemoryError

from pronk.cli.cluster import free_ports
from pronk.cli.scratch import scratch
from pronk.errors import Misconfigured
from pronk.startup import tune_allocator
from pronk.transport.buffer import BufferKeys, Consumer, scripts
from pronk.transport.buffer.server import read_state
from pronk.transport.redis import connect
from pronk.transport.valkey import valkey_command

ROUNDS = 7
PACKAGES = ("redis", "hiredis")
FULL_MEMORY, MEMORY = 32 << 20, 512 << 20
START_SECONDS = 30.0
NO_LIMIT = 1 << 40
BATCH_SIZE = 64
ASKED = "asking how full the buffer is"
REFUSED = "refusing an entry of 1 MiB"
BATCH = f"{BATCH_SIZE} entries of 64 KiB at a time"
MOVES = {
    BATCH: [bytes(64 << 10)] * BATCH_SIZE,
    "an entry of 1 MB": [bytes(10**6)],
    "an entry of 10 MB": [bytes(10**7)],
}

Call = Callable[[], object]


@contextmanager
def server(max_memory: int) -> Iterator[Redis]:
    """A client of a new, empty server.

    Raises:
        Misconfigured: there is none to start, or it does not answer.
    """
    (port,) = free_ports(1)
    with scratch("pronk-bench-") as folder:
        command = valkey_command(port, folder, max_memory)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        try:
            with connect(f"redis://127.0.0.1:{port}/0") as client:
                _await(client, process.pid)
                yield client
        finally:
            process.kill()
            process.wait()


def _await(client: Redis, pid: int) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until:
        with suppress(RedisConnectionError):
            if client.info("server")["process_id"] == pid:
                return
        time.sleep(0.05)
    raise Misconfigured(f"the server did not answer within {START_SECONDS:g} s")


class Buffer:
    """A buffer without any limit but the server's memory, as actors and a learner use it."""

    def __init__(self, client: Redis) -> None:
        self.keys = BufferKeys("bench", "default")
        self._client = client
        self._consumer = Consumer(client, self.keys, "learner")
        self._add = client.register_script(scripts.ADD)
        self._sequence = 0

    def add(self, payloads: list[bytes]) -> None:
        """Add entries in one round trip."""
        pipeline = self._client.pipeline(transaction=False)
        for payload in payloads:
            self._add_one(payload, pipeline)
        pipeline.execute()

    def is_refused(self, payload: bytes) -> bool:
        """Try to add an entry: whether the server has no memory for it."""
        try:
            self._add_one(payload, self._client)  # a pipeline's error would quote it all, slowly
        except OutOfMemoryError:
            return True
        return False

    def take(self, count: int) -> None:
        """Read entries in one round trip, and acknowledge them in another."""
        entries = self._consumer.read(count, block_ms=1000)
        self._consumer.ack([entry.id for entry in entries])

    def move(self, payloads: list[bytes]) -> None:
        """In and out again."""
        self.add(payloads)
        self.take(len(payloads))

    def _add_one(self, payload: bytes, client: Redis) -> None:
        self._sequence += 1
        keys = [self.keys.stream, self.keys.sizes, self.keys.seen("actor")]
        limits = [self._sequence, NO_LIMIT, NO_LIMIT, 60]
        self._add(keys=keys, args=[*limits, payload], client=client)


def processor_seconds(client: Redis, call: Call, times: int) -> float:
    """Seconds of the server's processor for a call."""
    before = _used(client)
    for _ in range(times):
        call()
    return (_used(client) - before) / times


def _used(client: Redis) -> float:
    cpu: dict[str, Any] = client.info("cpu")
    return float(cpu["used_cpu_user"] + cpu["used_cpu_sys"])


def bytes_per_second(buffer: Buffer, payloads: list[bytes], times: int) -> float:
    """Payload that goes in and out again in a second on the wall."""
    began = time.perf_counter()
    for _ in range(times):
        buffer.move(payloads)
    return times * sum(map(len, payloads)) / (time.perf_counter() - began)


def measure_full(client: Redis) -> dict[str, float]:
    """Seconds of the server's processor: what a blocked actor asks, and a refusal instead."""
    buffer, payload = Buffer(client), bytes(1 << 20)
    while not buffer.is_refused(payload):
        pass
    ask, add = partial(read_state, client, buffer.keys), partial(buffer.is_refused, payload)
    found = interleaved(
        {
            ASKED: partial(processor_seconds, client, ask, 500),
            REFUSED: partial(processor_seconds, client, add, 100),
        },
        ROUNDS,
    )
    return {name: median(values) for name, values in found.items()}


def measure_moves(client: Redis) -> tuple[dict[str, float], float]:
    """Seconds of the server's processor for each of `MOVES`, and bytes per second of batches."""
    buffer = Buffer(client)
    measures = {
        name: partial(processor_seconds, client, partial(buffer.move, payloads), 10)
        for name, payloads in MOVES.items()
    }
    rate = partial(bytes_per_second, buffer, MOVES[BATCH], 20)
    found = interleaved(measures | {"rate": rate}, ROUNDS)
    medians = {name: median(values) for name, values in found.items()}
    return medians, medians.pop("rate")


def version_of(client: Redis) -> dict[str, str]:
    """The server's version; Valkey tells that of the Redis it stands for beside its own."""
    told: dict[str, str] = client.info("server")
    name = "valkey" if "valkey_version" in told else "redis"
    return {f"{name}-server": told[f"{name}_version"]}


def main() -> None:
    """Measure with a full server, then with one that has room."""
    given = options(__doc__, "buffer.py").parse_args()
    tune_allocator()  # as every process does that uses the buffer
    with server(FULL_MEMORY) as client:
        full = measure_full(client)
    with server(MEMORY) as client:
        moves, rate = measure_moves(client)
        versions = versions_of(PACKAGES) | version_of(client)
    rates = {BATCH: f"{rate / 1e9:.2f} GB/s"}
    publish(
        [
            table(("a full buffer", "server"), [(n, _shown(s)) for n, s in full.items()]),
            table(
                ("in and out again", "server", "payload"),
                [(n, _shown(s), rates.get(n, "")) for n, s in moves.items()],
            ),
        ],
        {"full": full, "moves": moves, "bytes_per_second": rate},
        versions,
        given.json,
    )


def _shown(seconds: float) -> str:
    return f"{1e3 * seconds:.1f} ms" if seconds > 1e-3 else f"{1e6 * seconds:.0f} µs"


if __name__ == "__main__":
    main()
