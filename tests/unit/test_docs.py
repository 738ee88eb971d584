"""What the pages promise is there: links, make targets, verbs and their options, experiments."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from typer.main import get_command

from pronk.cli.main import build
from pronk.cli.verbs import verbs

ROOT = Path(__file__).parents[2]
LISTED = subprocess.check_output(
    ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"], cwd=ROOT, text=True
)
PAGES = [ROOT / name for name in LISTED.split()]
IDS = [str(page.relative_to(ROOT)) for page in PAGES]
LINK = re.compile(r"\]\(([^)#]*)(#[^)]*)?\)")
COMMAND = re.compile(r"(?:^|`)(pronk [a-z][^`\n]*)", re.MULTILINE)
BLOCK = re.compile(r"```(?:sh)?\n(.*?)```", re.DOTALL)


def heading_anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-") for text in headings}


def commands(text: str) -> list[list[str]]:
    """Every `pronk …` in code, as words; placeholders and comments left out."""
    code = "\n".join(BLOCK.findall(text)) + "\n" + "\n".join(re.findall(r"`[^`\n]+`", text))
    lines = (line.partition("#")[0].partition("→")[0] for line in COMMAND.findall(code))
    return [shlex.split(line.replace("[", "").replace("]", "")) for line in lines]


@pytest.fixture(scope="module")
def app():
    group = get_command(build((), ""))
    for verb in verbs():
        group.add_command(get_command(build([verb], verb.name)).commands[verb.name])
    return group


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_links_lead_somewhere(page):
    for target, anchor in LINK.findall(page.read_text()):
        if target.startswith("http"):
            continue
        path = (page.parent / target) if target else page
        assert path.exists(), target
        if anchor and path.suffix == ".md":
            assert anchor[1:] in heading_anchors(path), f"{target}{anchor}"


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_make_targets_exist(page):
    known = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    code = "\n".join(BLOCK.findall(page.read_text()))
    code += "\n" + "\n".join(re.findall(r"`make [^`\n]+`", page.read_text()))
    for words in re.findall(r"\bmake ([a-z-]+(?: [a-z-]+)*)", code):
        assert set(words.split()) <= known, words


@pytest.mark.parametrize("page", PAGES, ids=IDS)
def test_verbs_options_and_experiments_exist(page, app):
    for words in commands(page.read_text()):
        command = app
        rest = words[1:]
        while hasattr(command, "commands") and rest and not rest[0].startswith("-"):
            assert rest[0] in command.commands, " ".join(words)
            command = command.commands[rest.pop(0)]
        options = {name for parameter in command.params for name in parameter.opts}
        for word in rest:
            if word.startswith("--"):
                assert word in options | {"--help"}, " ".join(words)
            if word.startswith("configs/"):
                assert (ROOT / word).exists(), word


def test_the_check_of_commands_finds_some():
    found = commands((ROOT / "README.md").read_text())

    assert ["pronk", "up", "configs/pendulum.yaml"] in found
    assert len(found) > 8
