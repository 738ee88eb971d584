"""A Prometheus to test with, and a cluster for it to watch: real processes on loopback."""

import io
import json
import os
import shutil
import signal
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, redirect_stdout, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from pronk.cli.cluster import choose_addresses, free_ports, programs
from pronk.cli.credentials import throwaway
from pronk.cli.main import main
from pronk.cli.process import Process, Program
from pronk.cli.rundir import RunDirectory
from pronk.cli.supervisor import RestartRule, Supervisor
from pronk.config import Experiment

ROOT = Path(__file__).parents[1]
RULES = ROOT / "monitoring" / "prometheus" / "rules" / "pronk.yml"
SCRAPE_SECONDS = 2
RESTART = RestartRule(first_seconds=0.2, longest_seconds=1.0, deaths=1_000)
Series = dict[str, Any]


def needs(*tools: str) -> pytest.MarkDecorator:
    """Skip where one of these programs is not on PATH."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    reason = f"not on PATH: {', '.join(missing)} (Debian: prometheus, prometheus-alertmanager)"
    return pytest.mark.skipif(bool(missing), reason=reason)


class Prometheus:
    """A server with our rules and static targets; ends with its context.

    Attributes:
        url: where it answers.
    """

    def __init__(self, folder: Path, targets: Mapping[str, Sequence[int]]) -> None:
        """`targets`: loopback ports by job."""
        (port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{port}"
        jobs = {**targets, "prometheus": [port]}
        folder.mkdir(parents=True, exist_ok=True)
        config = folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(_config(jobs)), encoding="utf-8")
        self._program = Program(
            "prometheus",
            (
                shutil.which("prometheus") or "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
            ),
            folder / "prometheus.log",
        )
        self._process: Process | None = None

    def __enter__(self) -> Self:
        self._process = Process(self._program)
        deadline = time.monotonic() + 60
        while not self._is_ready():
            assert time.monotonic() < deadline, self._program.log.read_text()
            time.sleep(0.1)
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()

    def value(self, query: str) -> float | None:
        """The one value of an instant query, or None of none."""
        found = self.instant(query)
        return float(found[0]["value"][1]) if found else None

    def instant(self, query: str, at: float | None = None) -> list[Series]:
        """The series of an instant query, now or at a Unix time."""
        return self._ask("query", query=query, time=time.time() if at is None else at)

    def range(self, query: str, start: float, end: float, step: float) -> list[Series]:
        """The series of a query over a range of Unix seconds."""
        return self._ask("query_range", query=query, start=start, end=end, step=step)

    def _ask(self, verb: str, **parameters: object) -> list[Series]:
        url = f"{self.url}/api/v1/{verb}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=30) as answer:
                result: list[Series] = json.load(answer)["data"]["result"]
        except urllib.error.HTTPError as error:
            raise ValueError(f"{parameters['query']}: {json.load(error)['error']}") from None
        return result

    def _is_ready(self) -> bool:
        with suppress(OSError), urllib.request.urlopen(f"{self.url}/-/ready", timeout=1):
            return True
        return False


def _config(jobs: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    every = f"{SCRAPE_SECONDS}s"
    return {
        "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": job,
                "static_configs": [{"targets": [f"127.0.0.1:{port}" for port in ports]}],
            }
            for job, ports in jobs.items()
        ],
    }


class Watched:
    """A secured cluster whose processes serve their metrics on ports that are known.

    Attributes:
        ports: of the metrics, by job.
        folder: the run's.
        environments: of each program.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        change: Callable[[Program], Program] = lambda program: program,
    ) -> None:
        """`change` may put other commands and variables into the programs."""
        self.folder = folder
        self.ports: dict[str, list[int]] = {}
        self._stack = ExitStack()
        directory = RunDirectory(folder)
        folder.mkdir(parents=True)
        directory.write_config(experiment)
        addresses = choose_addresses()
        assert addresses.valkey_port is not None
        self.credentials = self._stack.enter_context(
            throwaway(addresses.server, addresses.valkey_port)
        )
        found = programs(experiment, directory, addresses, self.credentials)
        self._stack.enter_context(
            directory.announced(addresses.server, self.credentials.folder / "reader")
        )
        started = [change(self._with_known_port(program)) for program in found]
        self.environments = {program.name: program.environment for program in started}
        self._supervisor = Supervisor(started, RESTART)

    def __enter__(self) -> Self:
        self._stack.enter_context(self._supervisor)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def until(self, condition: Callable[[], Any], seconds: float, what: str) -> None:
        """Look after the processes until `condition` holds."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain for {what}\n{self.last_lines()}"
            self._supervisor.tick()
            time.sleep(0.2)

    def rest(self, seconds: float) -> None:
        """Look after the processes for so long."""
        end = time.monotonic() + seconds
        self.until(lambda: time.monotonic() > end, seconds + 60, "time to pass")

    def kill(self, name: str) -> None:
        """Kill a program; it is started again."""
        pid = next(each.pid for each in self._supervisor.statuses() if each.name == name)
        assert pid is not None
        os.killpg(pid, signal.SIGKILL)

    def status(self) -> dict[str, Any]:
        """What `pronk status --json` says."""
        said = io.StringIO()
        with redirect_stdout(said), suppress(SystemExit):
            main(["status", str(self.folder), "--json"])
        found: dict[str, Any] = json.loads(said.getvalue())
        return found

    def last_lines(self) -> str:
        """What every process said last, for a person who reads a failure."""
        logs = sorted((self.folder / "logs").glob("*.log"))
        return "\n".join(f"{log.name}: {log.read_text()[-500:]}" for log in logs)

    def _with_known_port(self, program: Program) -> Program:
        if "PRONK_METRICS_LISTEN" not in program.environment:
            return program
        (port,) = free_ports(1)
        job = program.name.rstrip("-0123456789")
        self.ports.setdefault(job, []).append(port)
        known = {**program.environment, "PRONK_METRICS_LISTEN": f"127.0.0.1:{port}"}
        return replace(program, environment=known)
