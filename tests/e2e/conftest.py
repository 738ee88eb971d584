"""What the tests of the cluster in containers share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from compose_cluster import Cluster
from compose_programs import build_images, generations


@pytest.fixture(scope="session")
def images() -> None:
    """Our three images, of what is in this tree."""
    build_images()


@pytest.fixture
def cluster(images: None, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster that is not started yet; the test takes it down and leaves nothing.

    By the generation of Compose to prefer, unless the test is asked of each: `indirect=True`.
    """
    programs = generations()
    made = Cluster(tmp_path, programs[getattr(request, "param", next(iter(programs)))])
    try:
        yield made
        assert not made.left_behind()
    except BaseException:
        print(made.compose("logs", "--no-color", "--tail", "60"))
        raise
    finally:
        made.compose("down", "--volumes", "--timeout", "30")
