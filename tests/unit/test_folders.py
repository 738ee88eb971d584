"""A run's folders of policies, whose names may begin alike."""

import os
from pathlib import Path

from pronk.policy.folders import keep_newest, released

NAMES = ("a-9", "a-10", "a-11", "a-b-1", "a-b-2", "a-1-3", "b-a-4", "a-b", "a-5x", ".a-6", "ba-7")


def test_only_a_policy_s_own_folders_are_removed(tmp_path: Path) -> None:
    for age, name in enumerate(NAMES):
        (tmp_path / name).mkdir()
        (tmp_path / name / "manifest.json").touch()
        os.utime(tmp_path / name, (age, age))
    keep_newest(tmp_path, "a", 2)
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES) - {"a-9"}
    keep_newest(tmp_path, "a-b", 1)
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES) - {"a-9", "a-b-1"}


def test_policies_are_found_by_their_whole_names(tmp_path: Path) -> None:
    for name in NAMES:
        (tmp_path / "policies" / name).mkdir(parents=True)
        (tmp_path / "policies" / name / "manifest.json").touch()
    found = {policy: [p.name for p in released(tmp_path, policy)] for policy in ("a", "a-b", "a-1")}
    assert found == {"a": ["a-9", "a-10", "a-11"], "a-b": ["a-b-1", "a-b-2"], "a-1": ["a-1-3"]}
