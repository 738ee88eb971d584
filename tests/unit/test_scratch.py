"""Temporary folders of `pronk up`: private, and gone with it."""

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pronk.cli.scratch import scratch
from pronk.errors import Misconfigured

MAKER = """
import time
from pronk.cli.scratch import scratch
with scratch("pronk-test-") as folder:
    (folder / "secret").write_text("secret")
    print(folder, flush=True)
    time.sleep(60)
"""


def test_it_is_private_and_goes_with_the_context(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def fail() -> None:
        with scratch("pronk-test-") as folder:
            (folder / "full").touch()
            assert folder.parent == tmp_path
            assert stat.S_IMODE(folder.stat().st_mode) == 0o700
            raise KeyError

    old = os.umask(0)
    try:
        with pytest.raises(KeyError):
            fail()
    finally:
        os.umask(old)
    assert list(tmp_path.iterdir()) == []


def test_it_goes_when_its_maker_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", MAKER],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    ) as maker:
        assert maker.stdout is not None
        folder = Path(maker.stdout.readline().strip())
        assert (folder / "secret").exists()
        maker.kill()
    deadline = time.monotonic() + 10
    while folder.exists():
        assert time.monotonic() < deadline, "it stays"
        time.sleep(0.02)
    assert list(tmp_path.iterdir()) == []


def test_where_it_cannot_be_made_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    with pytest.raises(Misconfigured, match=r"cannot make .*nowhere.*No such"), scratch("a"):
        pass
