"""Health checks as Kubernetes makes them: liveness and readiness apart, on their own port."""

import asyncio
import sqlite3
import threading
import time
from errno import ENOSPC
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from param_servers import ServerThread, eventually, free_port
from pronk_param_server import main, store
from pronk_param_server.writer import Writer
from structlog.testing import capture_logs

from pronk.errors import Misconfigured
from pronk.transport import probe
from pronk.transport.health import Health
from pronk.transport.settings import Address

ANY = Address("127.0.0.1", 0)
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def check(port: int, service: str) -> int:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        request = health_pb2.HealthCheckRequest(service=service)
        return int(stub.Check(request, timeout=5).status)


def test_liveness_and_readiness_are_apart() -> None:
    health = Health(ANY)
    assert check(health.port, "liveness") == SERVING
    assert check(health.port, "readiness") == check(health.port, "") == NOT_SERVING
    health.set_ready(True)
    assert check(health.port, "readiness") == check(health.port, "") == SERVING
    health.set_ready(False)
    assert check(health.port, "readiness") == NOT_SERVING
    assert check(health.port, "liveness") == SERVING
    health.close()


def test_liveness_is_red_without_beats_and_green_again_with_one() -> None:
    health = Health(ANY, limit=0.2)
    health.set_ready(True)
    assert check(health.port, "liveness") == SERVING
    time.sleep(0.3)
    assert check(health.port, "liveness") == NOT_SERVING
    assert check(health.port, "readiness") == SERVING
    health.beat()
    assert check(health.port, "liveness") == SERVING
    health.close()


def test_unknown_services_are_not_found() -> None:
    health = Health(ANY)
    with pytest.raises(grpc.RpcError) as error:
        check(health.port, "happiness")
    assert error.value.code() == grpc.StatusCode.NOT_FOUND
    health.close()


def test_nobody_may_hold_a_thread(caplog: pytest.LogCaptureFixture) -> None:
    health = Health(ANY)
    request = health_pb2.HealthCheckRequest(service="liveness")
    with grpc.insecure_channel(f"127.0.0.1:{health.port}") as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        watches = [stub.Watch(request, timeout=5) for _ in range(4)]
        for watch in watches:
            with pytest.raises(grpc.RpcError) as error:
                next(watch)
            assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
        with pytest.raises(grpc.RpcError) as error:
            stub.List(health_pb2.HealthListRequest(), timeout=5)
        assert error.value.code() == grpc.StatusCode.UNIMPLEMENTED
    assert check(health.port, "liveness") == SERVING
    assert not caplog.records, "no traceback"
    health.close()


def test_answers_while_the_main_thread_is_stuck() -> None:
    health = Health(ANY)
    answers: list[int] = []
    asker = threading.Thread(target=lambda: answers.append(check(health.port, "liveness")))
    asker.start()
    asker.join(10)  # this thread does nothing meanwhile, as one in a deadlock
    assert answers == [SERVING]
    health.close()


def test_a_port_in_use_is_one_line() -> None:
    health = Health(ANY)
    with pytest.raises(Misconfigured, match=r"PRONK_HEALTH_LISTEN: .*in use"):
        Health(Address("127.0.0.1", health.port))
    health.close()


def test_a_probe_asks_the_process_beside_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    health = Health(ANY, limit=0.0)
    health.set_ready(True)
    monkeypatch.setenv("PRONK_HEALTH_LISTEN", f"0.0.0.0:{health.port}")
    with capture_logs() as lines:
        assert probe.main([]) == 0
        assert probe.main(["liveness"]) == 1
    assert [(line["event"], line["threads"]) for line in lines] == [("stuck", ["work loop"])]
    assert capsys.readouterr().out.split() == ["SERVING", "NOT_SERVING"]
    assert probe.main(["happiness"]) == 2
    health.close()
    monkeypatch.setattr(probe, "_SECONDS", 0.2)
    assert probe.main([]) == 1
    monkeypatch.setenv("PRONK_HEALTH_LISTEN", "127.0.0.1:0")
    assert probe.main([]) == 2


def test_of_the_parameter_server(tmp_path: Path) -> None:
    address = Address("127.0.0.1", free_port())
    with ServerThread(tmp_path / "run", health_listen=address):
        eventually(lambda: check(address.port, "readiness") == SERVING)
        assert check(address.port, "liveness") == SERVING


async def test_a_stuck_writer_turns_the_parameter_server_red() -> None:
    health, writer = Health(ANY, limit=0.3), Writer()
    deadlock = threading.Event()
    stuck = asyncio.create_task(writer.run(deadlock.wait, 20))
    beats = asyncio.create_task(main._beat(health, writer))
    await asyncio.sleep(0.5)
    assert not health.alive
    deadlock.set()
    await stuck
    await asyncio.sleep(0.1)
    assert health.alive
    beats.cancel()
    writer.close()
    health.close()


@pytest.mark.parametrize("at", ["_prepare", "commit"])
def test_a_parameter_server_that_starts_on_a_full_disk_waits_for_room_and_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: str
) -> None:
    refused: list[None] = []

    def refuse(*_: object) -> None:
        refused.append(None)
        error = sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorcode = sqlite3.SQLITE_FULL
        raise error

    health = Address("127.0.0.1", free_port())
    server = ServerThread(tmp_path / "run", health_listen=health)
    with monkeypatch.context() as full:
        full.setattr(store if at == "_prepare" else store.Store, at, refuse)
        server._thread.start()
        eventually(lambda: len(refused) > 2)
        assert check(health.port, "liveness") == SERVING
        assert check(health.port, "readiness") == NOT_SERVING
        assert server.error is None
    eventually(lambda: check(health.port, "readiness") == SERVING)
    server.__exit__()
    assert server.error is None


def test_who_waits_for_room_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(ENOSPC, "No space left on device")

    monkeypatch.setattr(store, "_lock", refuse)
    server = ServerThread(tmp_path / "run")
    server._thread.start()
    time.sleep(0.3)
    server.__exit__()
    assert server.error is None
