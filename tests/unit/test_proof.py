"""The runner of proofs, on a table about a project of one file."""

import importlib
import json
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
LINE = {
    "id": "sum",
    "claim": "Two and two are four.",
    "command": "echo ran >> $LOG; python check.py",
    "inputs": ["pronk"],
    "sabotage": [
        {"what": "a wrong sign", "file": "pronk/add.py", "search": "a + b", "replace": "a - b"}
    ],
}


@pytest.fixture
def proof(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "scripts")
    return importlib.import_module("proof")


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A repository whose package shadows nothing installed, and a log of what ran."""
    root = tmp_path / "project"
    for folder in ("pronk", "docs", "proof"):
        (root / folder).mkdir(parents=True)
    (root / "pronk/__init__.py").touch()
    (root / "pronk/add.py").write_text("def add(a, b):\n    return a + b\n")
    (root / "check.py").write_text(
        "import sys; from pronk.add import add; print('sum', add(2, 2)); sys.exit(add(2, 2) != 4)\n"
    )
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    git(root, "init", "--quiet")
    commit(root)
    return root


def git(root, *words):
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", root, *words],
                   check=True)  # fmt: skip


def commit(root):
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "change")


def table(root, *lines):
    (root / "proof/lines.yaml").write_text(yaml.safe_dump(list(lines)))
    commit(root)


def stored(root):
    return {
        line["id"]: line for line in json.loads((root / "docs/proof.json").read_text())["lines"]
    }


def runs(root):
    return len((root.parent / "log").read_text().split())


def test_a_line_is_proved_by_green_and_by_red_under_sabotage(proof, project):
    table(project, LINE)

    assert proof.main([], project) == 0

    line = stored(project)["sum"]
    assert (line["proved"], line["shows"]) == (True, "sum 4")
    assert line["sabotage"][0] | {"seconds": 0} == {
        "what": "a wrong sign", "red": True, "status": 1, "shows": "sum 0", "seconds": 0,
    }  # fmt: skip
    head = subprocess.check_output(["git", "-C", project, "rev-parse", "HEAD"], text=True).strip()
    assert line["commit"] == json.loads((project / "docs/proof.json").read_text())["commit"] == head
    assert "1 of 1 lines are proved" in (project / "docs/proof.md").read_text()


def test_nobodys_files_are_touched(proof, project):
    table(project, LINE)
    (project / "pronk/add.py").write_text("# being written\n")

    assert proof.main([], project) == 0

    assert (project / "pronk/add.py").read_text() == "# being written\n"
    assert subprocess.check_output(["git", "-C", project, "worktree", "list"]).count(b"\n") == 1


def test_a_proof_that_survives_its_sabotage_is_a_defect(proof, project):
    table(project, LINE | {"sabotage": [LINE["sabotage"][0] | {"replace": "b + a"}]})

    assert proof.main([], project) == 1
    assert not stored(project)["sum"]["proved"]
    assert "stayed green" in (project / "docs/proof.md").read_text()


@pytest.mark.parametrize(
    "sabotage",
    [
        {"search": "a * b", "replace": "a - b"},
        {"search": "a", "replace": "b"},
        {"search": "a + b", "replace": "a +", "command": "python check.py || exit 2"},
        {"search": "a + b", "replace": "a - b", "command": "exit 1"},
    ],
    ids=["absent text", "text more than once", "could not run", "red in any case"],
)
def test_a_sabotage_that_was_not_seen_to_fail_a_check_does_not_count(proof, project, sabotage):
    table(project, LINE | {"sabotage": [LINE["sabotage"][0] | sabotage]})

    assert proof.main([], project) == 1


def test_a_red_line_tries_no_sabotage(proof, project):
    table(project, LINE | {"command": "echo ran >> $LOG; echo broken; exit 1"})

    assert proof.main([], project) == 1
    assert stored(project)["sum"]["sabotage"] == []
    assert stored(project)["sum"]["shows"] == "broken"


def test_a_line_that_hangs_is_ended_with_all_it_started(proof, project):
    table(project, LINE | {"command": "sleep 60 & sleep 60", "minutes": 0.01})

    assert proof.main([], project) == 1
    assert stored(project)["sum"]["seconds"] < 20


def test_a_line_goes_on_with_the_sabotage_that_could_not_be_tried(proof, project):
    sign = LINE["sabotage"][0]
    other = sign | {"what": "another", "command": "test -e $LOG.quiet; python check.py"}
    table(project, LINE | {"sabotage": [sign, other]})
    assert proof.main([], project) == 1
    assert [each["red"] for each in stored(project)["sum"]["sabotage"]] == [True, False]
    first = runs(project)

    (project.parent / "log.quiet").touch()
    assert proof.main([], project) == 0
    assert [each["red"] for each in stored(project)["sum"]["sabotage"]] == [True, True]
    assert runs(project) == first == 2, "neither the line nor what was red"


def test_a_line_whose_sabotage_stayed_green_is_run_as_a_whole(proof, project):
    survived = {"what": "the same", "file": "pronk/add.py", "search": "a + b", "replace": "b + a"}
    table(project, LINE | {"sabotage": [LINE["sabotage"][0], survived]})
    assert proof.main([], project) == 1
    first = runs(project)

    assert proof.main([], project) == 1
    assert runs(project) == 2 * first


def test_what_is_proved_is_run_again_only_when_its_inputs_change(proof, project):
    table(project, LINE)
    proof.main([], project)
    first = runs(project)

    (project / "README.md").write_text("else")
    commit(project)
    proof.main([], project)
    assert runs(project) == first == 2, "the line and its sabotage, once each"

    proof.main(["--again"], project)
    assert runs(project) == 2 * first

    (project / "pronk/add.py").write_text(
        '"""Adds."""\n\n\ndef add(a, b):\n    """The same."""\n    return a + b  # as it was\n'
    )
    commit(project)
    proof.main([], project)
    assert runs(project) == 2 * first, "words are no code"

    (project / "pronk/add.py").write_text("def add(b, a):\n    return a + b\n")
    commit(project)
    proof.main([], project)
    assert runs(project) == 3 * first

    (project / "check.py").write_text("from pronk.add import add; assert add(2, 2) == 4\n")
    commit(project)
    proof.main([], project)
    assert runs(project) == 4 * first, "a file that the command names"


def test_what_a_test_shares_with_others_counts_and_what_it_does_not_share_does_not(proof, project):
    for folder in ("tests/near", "tests/far"):
        (project / folder).mkdir(parents=True)
    (project / "tests/near/test_sum.py").write_text("import helper\n")
    for file in ("conftest", "helper", "other", "near/conftest", "far/conftest"):
        (project / "tests" / f"{file}.py").write_text("x = 0\n")
    table(project, LINE | {"inputs": ["pronk", "tests/near/test_sum.py"]})
    proof.main([], project)
    counting = []
    for number, file in enumerate(("conftest", "helper", "other", "near/conftest", "far/conftest")):
        before = runs(project)
        (project / "tests" / f"{file}.py").write_text(f"x = {number + 1}\n")
        commit(project)
        proof.main([], project)
        if runs(project) > before:
            counting.append(file)
    assert counting == ["conftest", "helper", "near/conftest"]


def test_what_tests_share_counts_for_those_that_use_it(proof, project):
    files = {
        "tests/test_sum.py": "import near; assert near.ONE == 1",
        "tests/near.py": "from far import ONE",
        "tests/far.py": "ONE = 1",
        "tests/other.py": "TWO = 2",
    }
    (project / "tests").mkdir()
    for name, text in files.items():
        (project / name).write_text(text)
    command = "echo ran >> $LOG; python check.py && python tests/test_sum.py"
    table(project, LINE | {"command": command})
    assert proof.main([], project) == 0
    first = runs(project)

    (project / "tests/other.py").write_text("TWO = 1 + 1")
    commit(project)
    assert proof.main([], project) == 0
    assert runs(project) == first

    (project / "tests/far.py").write_text("ONE = 2 - 1")
    commit(project)
    assert proof.main([], project) == 0
    assert runs(project) == 2 * first


def test_chosen_lines_keep_the_results_of_others(proof, project):
    table(project, LINE, LINE | {"id": "other"})
    proof.main(["sum"], project)
    assert stored(project).keys() == {"sum"}

    proof.main(["other"], project)
    assert stored(project).keys() == {"sum", "other"}


def test_proofs_beside_each_other_keep_each_others_results(proof, project, monkeypatch):
    table(project, LINE, LINE | {"id": "other"})
    prove = proof.prove

    def beside(root, tree, line, before):
        if line.id == "sum":
            assert proof.main(["other"], project) == 0
        return prove(root, tree, line, before)

    monkeypatch.setattr(proof, "prove", beside)
    assert proof.main(["sum"], project) == 0
    assert set(stored(project)) == {"sum", "other"}


def test_what_a_line_makes_for_the_project_is_kept(proof, project):
    table(project, LINE | {"command": "mkdir docs; echo picture > docs/curve.txt; python check.py",
                           "keep": ["docs/curve.txt"]})  # fmt: skip

    assert proof.main([], project) == 0
    assert (project / "docs/curve.txt").read_text() == "picture\n"


def test_a_line_without_sabotage_is_refused(proof, project):
    table(project, LINE | {"sabotage": []})

    with pytest.raises(ValueError, match="proves nothing"):
        proof.main([], project)


def test_the_projects_own_table_can_be_read_and_its_sabotages_applied(proof):
    lines = proof.read_lines(ROOT / "proof/lines.yaml")

    assert len({line.id for line in lines}) == len(lines)
    for line in lines:
        for each in line.sabotage:
            text = (ROOT / each.file).read_text()
            assert text.count(each.search) == 1, f"{line.id}: {each.what}"
            assert each.search != each.replace
            if each.file.endswith(".py"):  # what cannot be read fails every command
                compile(text.replace(each.search, each.replace), each.file, "exec")


def test_a_proof_that_begins_keeps_what_another_has_just_stored(proof, project, monkeypatch):
    table(project, LINE, LINE | {"id": "other"})
    proof.main(["other"], project)
    others = (project / "docs/proof.json").read_text()
    (project / "docs/proof.json").unlink()

    def looks(*_):
        (project / "docs/proof.json").write_text(others)
        return False

    monkeypatch.setattr(proof, "_fresh", looks)
    proof.main(["sum"], project)
    assert stored(project).keys() == {"sum", "other"}
