"""Prove every claim of `proof/lines.yaml`, and that each proof can fail.

A line names a claim and the command that shows it, and sabotages: small wrong changes to the code
under which the command must end with status 1 (some check failed; not: something could not run).
Everything happens in scratch worktrees of the newest commit whose packages are imported instead of
the installed ones; nobody's files are touched. Results are kept in `docs/proof.json` after every
line and shown in `docs/proof.md`; a line whose inputs have not changed since it was proved is not
run again, and one of whose sabotages could not be tried goes on with those. `proof.py [ID …]` runs
only those lines; `--again` runs them in any case; `--jobs N` runs N lines side by side, except
those that measure time, which come last and alone. Proofs of different lines may go on beside each
other (but not beside one that measures time): each adds its results to what is there.
"""

import argparse
import contextlib
import fcntl
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import yaml
from proof_inputs import fingerprint

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("actor", "learner", "param_server")
INPUTS = ("pronk", "services", "constraints.txt")
"""What a line rests on unless it says so, beside what `proof_inputs` finds by itself."""
RED = 1
_SHOWN_CHARACTERS = 10_000
"""Of the output of a line that is red, for whoever must find out why."""
_NOT_TRIED = "its command is not green without it"
STOPPING = threading.Event()
"""Set when the proof is told to end: nothing more is started."""


@dataclass(frozen=True)
class Sabotage:
    """A wrong change of one file, and the command that must notice (the line's, unless given)."""

    what: str
    file: str
    search: str
    replace: str
    command: str | None = None


@dataclass(frozen=True)
class Line:
    """A claim, the command that shows it, and what must turn it red."""

    id: str
    claim: str
    command: str
    sabotage: tuple[Sabotage, ...]
    inputs: tuple[str, ...] = INPUTS
    minutes: float = 10.0
    alone: bool = False
    """It measures time: nothing else may run beside it."""
    keep: tuple[str, ...] = ()
    """Files that the command makes and that belong to the project: pictures, tables."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    status: int
    shows: str
    seconds: float
    output: str = field(repr=False)


@dataclass
class Result:
    """A line as it was last run."""

    id: str
    claim: str
    command: str
    commit: str
    inputs: str
    proved: bool
    shows: str
    seconds: float
    sabotage: list[dict[str, Any]] = field(default_factory=list)


def read_lines(path: Path) -> list[Line]:
    """The table of lines."""
    lines = []
    for entry in yaml.safe_load(path.read_text(encoding="utf-8")):
        entry["sabotage"] = tuple(Sabotage(**each) for each in entry["sabotage"])
        if not entry["sabotage"]:
            raise ValueError(f"{entry['id']}: a proof without a sabotage proves nothing")
        entry |= {key: tuple(entry[key]) for key in ("inputs", "keep") if key in entry}
        lines.append(Line(**entry))
    return lines


def git(root: Path, *words: str) -> str:
    """Output of a git command."""
    done = subprocess.run(["git", "-C", root, *words], check=True, capture_output=True, text=True)
    return done.stdout.strip()


@contextlib.contextmanager
def worktree(root: Path) -> Iterator[Path]:
    """A scratch copy of the newest commit."""
    with tempfile.TemporaryDirectory(prefix="pronk-proof-") as folder:
        tree = Path(folder, "tree")
        git(root, "worktree", "add", "--quiet", "--detach", str(tree))
        try:
            yield tree
        finally:
            git(root, "worktree", "remove", "--force", str(tree))


def run(tree: Path, command: str, minutes: float, **variables: str) -> Outcome:
    """Run a command in the tree, with the tree's packages; what it starts ends with it."""
    packages = [tree, *(tree / "services" / name for name in SERVICES)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(map(str, packages)),
        "PYTHONDONTWRITEBYTECODE": "1",  # a change within one second would go unnoticed
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        **variables,
    }
    start = time.monotonic()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=tree, env=environment, stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            status = _wait(process, start + minutes * 60)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    lines = [each.strip(" =") for each in text.splitlines() if each.strip(" =")]
    shows, seconds = lines[-1] if lines else "", round(time.monotonic() - start, 1)
    return Outcome(status, shows, seconds, text)


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int:
    while not STOPPING.is_set():
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(0.2)
        if time.monotonic() > deadline:
            return 124
    raise InterruptedError


def try_sabotage(tree: Path, line: Line, sabotage: Sabotage) -> dict[str, Any]:
    """Apply a sabotage, see the command turn red, take it back."""
    path = tree / sabotage.file
    source = path.read_text(encoding="utf-8") if path.is_file() else ""
    command = sabotage.command or line.command
    if source.count(sabotage.search) != 1:
        outcome = Outcome(0, f"{sabotage.file} does not hold the text to change once", 0.0, "")
    else:
        path.write_text(source.replace(sabotage.search, sabotage.replace), encoding="utf-8")
        try:
            # One failure is red enough.
            outcome = run(tree, command, line.minutes, PYTEST_ADDOPTS="--exitfirst")
        finally:
            path.write_text(source, encoding="utf-8")
    red = outcome.status == RED
    return {
        "what": sabotage.what, "red": red, "status": outcome.status,
        "shows": outcome.shows, "seconds": outcome.seconds,
    }  # fmt: skip


def try_sabotages(tree: Path, line: Line, tried: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Try all that were not; a command of a sabotage's own must be green without it."""
    known = {each["what"]: each for each in tried}
    own = {each.command for each in line.sabotage if each.what not in known} - {None}
    sound = {command: run(tree, command, line.minutes).status == 0 for command in own if command}
    for each in line.sabotage:
        if each.what in known:
            yield known[each.what]
        elif sound.get(each.command or "", True):
            yield try_sabotage(tree, line, each)
        else:
            yield {
                "what": each.what, "red": False, "status": 0, "shows": _NOT_TRIED, "seconds": 0.0
            }  # fmt: skip


def prove(root: Path, tree: Path, line: Line, before: Result | None) -> Result:
    """Run a line and its sabotages, or go on where the same was left `before`."""
    tried = [] if before is None else _red(tree, line, before)
    if before is not None and tried:
        outcome = Outcome(0, before.shows, before.seconds, "")
    else:
        outcome = run(tree, line.command, line.minutes)
    proved = outcome.status == 0
    if not proved:
        print(outcome.output[-_SHOWN_CHARACTERS:], flush=True)
    if proved:
        for name in line.keep:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(tree / name, root / name)
        tried = list(try_sabotages(tree, line, tried))
    return Result(
        id=line.id,
        claim=line.claim,
        command=line.command,
        commit=git(tree, "rev-parse", "HEAD"),
        inputs=_inputs(tree, line),
        proved=proved and all(each["red"] for each in tried),
        shows=outcome.shows,
        seconds=outcome.seconds,
        sabotage=tried,
    )


def _red(tree: Path, line: Line, before: Result) -> list[dict[str, Any]]:
    """The sabotages that count already, where the others only could not be tried."""
    red = [each for each in before.sabotage if each["red"]]
    others = {each["shows"] for each in before.sabotage if not each["red"]}
    return red if others == {_NOT_TRIED} and before.inputs == _inputs(tree, line) else []


def prove_all(
    root: Path,
    lines: list[Line],
    jobs: int,
    done: Callable[[Result], None],
    before: dict[str, Result],
) -> None:
    """Prove lines in `jobs` worktrees side by side, then those that measure time alone.

    Args:
        root: the project.
        lines: to prove.
        jobs: how many at once.
        done: called with every result, in the caller's thread.
        before: earlier results, by the lines' ids.
    """
    with contextlib.ExitStack() as stack:
        trees: queue.SimpleQueue[Path] = queue.SimpleQueue()
        for _ in range(jobs):
            trees.put(stack.enter_context(worktree(root)))

        def work(line: Line) -> Result:
            tree = trees.get()
            try:
                return prove(root, tree, line, before.get(line.id))
            finally:
                trees.put(tree)

        with ThreadPoolExecutor(jobs) as pool:
            try:
                together = [pool.submit(work, line) for line in lines if not line.alone]
                for future in as_completed(together):
                    done(future.result())
            except BaseException:
                STOPPING.set()
                pool.shutdown(cancel_futures=True)
                raise
        for line in lines:
            if line.alone:
                done(work(line))


def render(lines: list[Line], results: dict[str, Result], current: set[str]) -> str:
    """The page for people: every line, also those that were not run or are out of date.

    Args:
        lines: the whole table.
        results: by id, of the lines that were run.
        current: ids whose inputs are still those of their result.
    """
    proved = sum(results[line.id].proved for line in lines if line.id in current)
    parts = [
        "# What is proved, and how\n",
        "Made by `make proof`. Every claim has a command that shows it and sabotages: wrong "
        "changes that were seen to turn it red.\n",
        f"{proved} of {len(lines)} lines are proved by what is in the tree now; the others say why "
        "not.\n",
    ]
    for line in lines:
        parts.append(f"## {line.id}\n\n{line.claim}\n")
        if (result := results.get(line.id)) is None:
            parts.append(f"- **not run yet**: `{' '.join(line.command.split())}`\n")
            continue
        verdict = "proved" if result.proved else "**not proved**"
        if line.id not in current:
            verdict += " (**inputs have changed since**)"
        parts.append(f"- {verdict} at `{result.commit[:10]}` in {result.seconds:g} s")
        parts.append(f"- `{' '.join(result.command.split())}`: {result.shows}")
        for each in result.sabotage:
            colour = "red" if each["red"] else "**stayed green**"
            parts.append(f"- sabotage: {each['what']} → {colour}: {each['shows']}")
        parts.append("")
    return "\n".join(parts)


def main(arguments: list[str], root: Path = ROOT) -> int:
    """Prove what is not proved yet; 0 when every chosen line is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("ids", nargs="*", metavar="ID")
    parser.add_argument("--again", action="store_true", help="run what is proved already, too")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="lines at a time")
    options = parser.parse_args(arguments)
    lines = read_lines(root / "proof" / "lines.yaml")
    if unknown := set(options.ids) - {line.id for line in lines}:
        parser.error(f"no such line: {', '.join(sorted(unknown))}")
    store = root / "docs" / "proof.json"
    results = _read(store)
    chosen = [line for line in lines if not options.ids or line.id in options.ids]
    if git(root, "status", "--porcelain", "--untracked-files=no"):
        print("uncommitted changes take no part: what is proved is the newest commit")
    with worktree(root) as tree:
        todo = [line for line in chosen if options.again or not _fresh(tree, line, results)]
        print(f"{len(chosen) - len(todo)} lines are proved already, {len(todo)} to go", flush=True)

        def done(result: Result) -> None:
            results.update(_write(tree, store, lines, result))
            _tell(result)

        _write(tree, store, lines)
        prove_all(root, todo, options.jobs, done, {} if options.again else dict(results))
    return 0 if all(results[line.id].proved for line in chosen) else 1


def _inputs(tree: Path, line: Line) -> str:
    """Changes whenever the line's command, its sabotages or one of its inputs does."""
    own = [each.command for each in line.sabotage if each.command]
    inputs = [*line.inputs, *(each.file for each in line.sabotage)]
    return fingerprint(tree, " ".join([line.command, *own]), inputs, str(line.sabotage))


def _fresh(tree: Path, line: Line, results: dict[str, Result]) -> bool:
    """Whether a line was proved by what is in the tree."""
    old = results.get(line.id)
    return old is not None and old.proved and old.inputs == _inputs(tree, line)


def _tell(result: Result) -> None:
    colour = "green" if result.proved or result.sabotage else "RED"
    print(f"{result.id}: {colour} in {result.seconds:g} s: {result.shows}")
    for each in result.sabotage:
        print(f"  {each['what']} → {'red' if each['red'] else 'NOT RED'}: {each['shows']}")
    sys.stdout.flush()


def _read(store: Path) -> dict[str, Result]:
    stored = json.loads(store.read_text())["lines"] if store.exists() else []
    return {each["id"]: Result(**each) for each in stored}


def _write(tree: Path, store: Path, lines: list[Line], *new: Result) -> dict[str, Result]:
    """Write the page with new results beside all that are stored, which other proofs may add to."""
    with _held(store.parent):
        results = _read(store) | {each.id: each for each in new}
        run = [results[line.id] for line in lines if line.id in results]
        data = {"commit": git(tree, "rev-parse", "HEAD"), "lines": [asdict(each) for each in run]}
        temporary = store.with_suffix(".tmp")
        temporary.write_text(
            json.dumps(data, indent=2, ensure_ascii=False) + "\n", encoding="utf-8"
        )
        temporary.replace(store)
        by_id = {line.id: line for line in lines}
        current = {each.id for each in run if each.inputs == _inputs(tree, by_id[each.id])}
        store.with_suffix(".md").write_text(render(lines, results, current), encoding="utf-8")
    return results


@contextlib.contextmanager
def _held(folder: Path) -> Iterator[None]:
    """While no other process holds the folder."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # leave no worktree behind
    sys.exit(main(sys.argv[1:]))
