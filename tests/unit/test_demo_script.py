"""How `make compose-demo` ends; with a Compose that only notes what it was asked."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts/compose_demo.sh"
NO_PLUGIN = "#!/bin/sh\nexit 1\n"
COMPOSE = r"""#!/bin/sh
echo "$COMPOSE_PROJECT_NAME $COMPOSE_FILE $EXPERIMENT $PRONK_PORT: $*" >> "$LOG"
case "$*" in *status*) [ "$STATE" ] && echo "{\"state\": \"$STATE\", \"frames\": 1}" ;; esac
"""


@pytest.fixture
def demo(tmp_path):
    """Runs it, in a cluster whose `pronk status` answers with a state, or not at all."""
    for name, text in (("docker", NO_PLUGIN), ("docker-compose", COMPOSE)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def run(state: str, **variables: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "LOG": str(tmp_path / "log")}
        done = subprocess.run(
            ["sh", SCRIPT],
            env=os.environ | own | {"STATE": state, "DEMO_SECONDS": "1"} | variables,
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done, (tmp_path / "log").read_text().splitlines()

    return run


@pytest.mark.parametrize("state", ["", "RUNNING", "FAILED"], ids=str)
def test_what_does_not_finish_is_shown_and_taken_down(demo, state):
    done, calls = demo(state)

    assert done.returncode == 1
    assert f"the run's state is {state or 'unknown'}; it was given 1 s" in done.stderr
    assert [call.partition(": ")[2] for call in calls[-2:]] == ["logs --tail 20", "down --volumes"]


def test_it_has_a_project_of_its_own(demo):
    """Whatever the shell's own cluster is called: all of the demo's is removed at the end."""
    _, calls = demo("FAILED", COMPOSE_PROJECT_NAME="precious")

    assert all(call.startswith("pronk-demo docker-compose.yml cartpole 50051: ") for call in calls)


def test_name_and_files_can_be_others(demo):
    _, calls = demo("FAILED", DEMO_NAME="second", COMPOSE_FILE="a.yml:b.yml")

    assert all(call.startswith("second a.yml:b.yml cartpole 50051: ") for call in calls)


def test_the_port_it_speaks_of_is_the_one_it_has(demo):
    """A file `.env` beside Compose's own would say another."""
    done, calls = demo("FAILED", PRONK_PORT="50071")

    assert "PRONK_SERVER=localhost:50071 pronk status" in done.stdout
    assert all(" cartpole 50071: " in call for call in calls)


def test_a_cluster_that_would_refuse_it_is_not_started(tmp_path, demo):
    (tmp_path / "log").touch()
    done, calls = demo("", COMPOSE_FILE="docker-compose.yml:docker-compose.secure.yml")

    assert done.returncode == 2
    assert "leave docker-compose.secure.yml out of COMPOSE_FILE" in done.stderr
    assert calls == []
