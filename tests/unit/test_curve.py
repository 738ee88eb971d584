"""The picture of a run is drawn from whatever a run left."""

from pathlib import Path

from pronk_learner import curve


def row(frames: int, mean: float | None) -> dict[str, float | None]:
    return {
        "frames": frames,
        "seconds": frames / 1000,
        "return_mean": mean,
        "return_low": mean and mean - 5,
        "return_high": mean and mean + 5,
        "steps_per_second": None if frames == 0 else 900.0,
        "entropy": 0.5,
        "lag": 2.0,
    }


def test_a_run_is_drawn(tmp_path: Path) -> None:
    rows = [row(0, None)] + [row(n * 1000, n * 2.0) for n in range(1, 50)]
    curve.draw(rows, tmp_path / "curve.png", title="CartPole-v1", target=80.0)
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_run_without_episodes_has_no_picture(tmp_path: Path) -> None:
    curve.draw([row(0, None)], tmp_path / "curve.png", title="x", target=None)
    assert not (tmp_path / "curve.png").exists()
