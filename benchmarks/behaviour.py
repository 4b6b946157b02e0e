"""Everything that a tree of ggprune does on many command lines, to be compared with another tree.

`record` runs the cases of behaviour_cases.txt one after the other in a folder of their own and
writes what each printed, its exit code, and the files it made. `compare` shows as a diff in what
two recordings differ, and exits with 1 if they do; what varies from run to run does not count
(behaviour_normal.py). Knows ggprune only as a program and by the names of its library.

    python benchmarks/behaviour.py record --tree DIR --out record.json
    python benchmarks/behaviour.py compare before.json after.json
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import hashlib
import json
import os
import shlex
import sqlite3
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from behaviour_inputs import make_inputs
from behaviour_normal import normal

CASES = Path(__file__).with_name("behaviour_cases.txt")
TEXTS = (".json", ".md", ".svg")  # kept in the recording; of other files the hash
CACHE = ".sqlite"  # of these what is in them: the bytes depend on how often it was written
LIMIT_S = 300


@dataclass(frozen=True)
class Case:
    """One command line. `ggprune` stands for `python -m ggprune`."""

    name: str
    command: str


@dataclass(frozen=True)
class Made:
    """A file that a case has made or changed."""

    size: int
    sha256: str
    text: str | None


@dataclass(frozen=True)
class Outcome:
    """What can be seen of one case."""

    name: str
    command: str
    exit_code: int
    stdout: str
    stderr: str
    made: dict[str, Made]
    gone: list[str]


def read_cases(text: str) -> list[Case]:
    """`name: command`, and the indented lines below it; a line that begins with # is a comment."""
    found: list[tuple[str, str, list[str]]] = []
    for line in text.splitlines():
        if line.startswith((" ", "\t")) or (not line and found):
            found[-1][2].append(line)
        elif line and not line.startswith("#"):
            name, _, command = line.partition(": ")
            found.append((name, command, []))
    cases = [Case(n, "\n".join([c, textwrap.dedent("\n".join(m))]).strip()) for n, c, m in found]
    names = [case.name for case in cases]
    assert len(set(names)) == len(names), "two cases have the same name"
    return cases


def record(tree: Path, python: str, work: Path) -> Iterator[Outcome]:
    """Run all cases in `work`, an empty folder."""
    make_inputs(tree / "fixtures", work)
    environment = environment_of(tree, python, work)
    warm_up(python, environment, work)
    before = files_in(work)
    for case in read_cases(CASES.read_text("utf-8")):
        arguments = shlex.split(case.command)
        if arguments[0] == "ggprune":
            arguments = [python, "-m", *arguments]
        elif arguments[0] == "python":
            arguments[0] = python
        done = subprocess.run(
            arguments, cwd=work, env=environment, stdin=subprocess.DEVNULL, capture_output=True,
            timeout=LIMIT_S, check=False,
        )  # fmt: skip
        after = files_in(work)
        made = {name: made_file(work / name) for name, s in after.items() if before.get(name) != s}
        gone = sorted(before.keys() - after.keys())
        out, err = (shown(raw, tree, work) for raw in (done.stdout, done.stderr))
        yield Outcome(case.name, case.command, done.returncode, out, err, made, gone)
        for path in work.glob("never*"):  # should not be there, and must not be in the way
            path.unlink()
        before = files_in(work)


def environment_of(tree: Path, python: str, work: Path) -> dict[str, str]:
    """No more than is needed, so that two machines' habits do not matter."""
    home = work / ".home"
    home.mkdir()
    return {
        "PATH": os.environ["PATH"], "PYTHON": python, "PYTHONPATH": str(tree), "HOME": str(home),
        "XDG_CACHE_HOME": str(work / "cache"), "MPLCONFIGDIR": str(home / "matplotlib"),
        "HF_HOME": str(home / "huggingface"), "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1",
        "LANG": "C.UTF-8", "COLUMNS": "120", "LINES": "50", "NO_COLOR": "1", "TERM": "dumb",
    }  # fmt: skip


def warm_up(python: str, environment: Mapping[str, str], work: Path) -> None:
    """Make sure that the tree is what runs, and let matplotlib look for its fonts once."""
    script = "import ggprune; print(ggprune.__file__); import matplotlib.font_manager"
    done = subprocess.run(
        [python, "-c", script], cwd=work, env=dict(environment), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    tree = environment["PYTHONPATH"]
    assert done.stdout.startswith(f"{tree}/ggprune/"), f"{done.stdout!r} is not in {tree}"


def files_in(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Size, time and inode of every file by name; hidden folders do not count."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not name.parts[0].startswith("."):
            about = path.stat()
            found[str(name)] = (about.st_size, about.st_mtime_ns, about.st_ino)
    return found


def made_file(path: Path) -> Made:
    raw = path.read_bytes()
    text = raw.decode("utf-8", "backslashreplace") if path.suffix in TEXTS else None
    if path.suffix == CACHE:
        text = "".join(f"{line}\n" for line in entries_of(path))
    return Made(len(raw), hashlib.sha256(raw).hexdigest(), text)


def entries_of(path: Path) -> list[str]:
    """The tables of an SQLite file and their rows in order, long values as their hash."""
    with contextlib.closing(sqlite3.connect(path)) as connection:
        tables = connection.execute("SELECT name, sql FROM sqlite_master ORDER BY name").fetchall()
        lines = [f"{name}: {sql}" for name, sql in tables]
        for name, sql in tables:
            rows = connection.execute(f'SELECT * FROM "{name}"') if sql else ()
            lines += sorted(f"{name} {' '.join(map(cell, row))}" for row in rows)
    return lines


def cell(value: object) -> str:
    if isinstance(value, bytes):
        return f"{len(value)} bytes, {hashlib.sha256(value).hexdigest()}"
    return repr(value)


def shown(raw: bytes, tree: Path, work: Path) -> str:
    text = raw.decode("utf-8", "backslashreplace")
    return text.replace(str(work), "$WORK").replace(str(tree), "$TREE")


def write_record(tree: Path, out: Path, python: str) -> None:
    """Run and write everything, telling on stderr where it is."""
    outcomes, start = [], time.monotonic()
    with tempfile.TemporaryDirectory(prefix="behaviour-") as folder:
        for outcome in record(tree.resolve(), python, Path(folder).resolve()):
            outcomes.append(outcome)
            passed = f"{time.monotonic() - start:6.1f} s"
            print(f"{passed} {outcome.exit_code:3} {outcome.name}", file=sys.stderr)
    document = {"cases": [asdict(outcome) for outcome in outcomes]}
    out.write_text(json.dumps(document, indent=1, ensure_ascii=False), "utf-8")
    print(f"{len(outcomes)} cases in {out}")


def read_record(path: Path) -> dict[str, list[str]]:
    """The lines that count, by case."""
    cases = json.loads(path.read_text("utf-8"))["cases"]
    return {case["name"]: list(lines_of(outcome_of(case))) for case in cases}


def outcome_of(case: dict[str, object]) -> Outcome:
    outcome = Outcome(**case)  # type: ignore[arg-type]
    made = {name: Made(**about) for name, about in outcome.made.items()}  # type: ignore[arg-type]
    return Outcome(**{**case, "made": made})  # type: ignore[arg-type]


def lines_of(outcome: Outcome) -> Iterator[str]:
    """One outcome as text, with what varies taken out."""
    yield f"$ {outcome.command}"
    yield f"exit code {outcome.exit_code}"
    yield from part("stdout", normal(outcome.stdout))
    yield from part("stderr", normal(outcome.stderr))
    for name, made in sorted(outcome.made.items()):
        if made.text is not None:
            yield from part(name, normal(made.text))
        else:
            yield f"--- {name}: {made.size} bytes, {made.sha256}"
    yield from (f"--- {name} is gone" for name in outcome.gone)


def part(title: str, text: str) -> Iterator[str]:
    yield f"--- {title}, {'ends' if text.endswith(chr(10)) or not text else 'does not end'} a line"
    yield from text.splitlines()


def compare(before: Path, after: Path) -> int:
    """Print the differences; how many cases have some."""
    old, new = read_record(before), read_record(after)
    if list(old) != list(new):
        print(*difflib.unified_diff(list(old), list(new), "cases", "cases", lineterm=""), sep="\n")
    n_differ = int(list(old) != list(new))
    for name in [name for name in old if name in new]:
        diff = list(difflib.unified_diff(old[name], new[name], name, name, lineterm=""))
        n_differ += bool(diff)
        print(*diff, sep="\n", end="\n" if diff else "")
    print(f"{n_differ} of {len(old)} cases differ")
    return n_differ


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    commands = parser.add_subparsers(dest="command", required=True)
    recording = commands.add_parser("record", help="run all cases")
    recording.add_argument("--tree", type=Path, required=True, help="holds ggprune/ and fixtures/")
    recording.add_argument("--out", type=Path, required=True)
    recording.add_argument("--python", default=sys.executable)
    comparing = commands.add_parser("compare", help="show the differences of two recordings")
    comparing.add_argument("before", type=Path)
    comparing.add_argument("after", type=Path)
    asked = parser.parse_args()
    if asked.command == "record":
        write_record(asked.tree, asked.out, asked.python)
    else:
        sys.exit(1 if compare(asked.before, asked.after) else 0)


if __name__ == "__main__":
    main()
