"""`ggprune bench` beside llama-bench, alternating in one run: the same numbers, the same columns.

Both tools are started anew in every round and measure the same file with the same settings; who is
first changes with every round. Rounds are short and many, so that a machine whose speed drifts
disturbs both alike. Both load the libraries of llama-cpp-python (on Linux), since two builds of one
source can differ by more than the tools. The model is synthetic, unless one is named. llama-bench
must be on PATH or be named with --llama-bench.

    python benchmarks/peers_bench.py [MODEL.gguf] [--rounds N] [--threads N] [-p N] [-n N]
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ggprune.bench.ratio import Ratio, paired_ratio
from ggprune.report.blocks import markdown_table
from ggprune.report.units import ratio_cell

SHAPE = ("--shape", "llama-3.2-1b", "--type", "Q4_K_M")
BAR = 0.02  # how far apart the two may be


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("model", type=Path, nargs="?", help="a GGUF file; synthetic without one")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--repetitions", type=int, default=2, help="of each tool in each round")
    parser.add_argument("-p", "--n-prompt", default="64")
    parser.add_argument("-n", "--n-gen", default="24")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--llama-bench", default=shutil.which("llama-bench"))
    asked = parser.parse_args(arguments)
    if asked.llama_bench is None:
        print("bench: skipped, llama-bench is not on PATH; name it with --llama-bench")
        return
    with tempfile.TemporaryDirectory(prefix="peers-bench-") as folder:
        model = asked.model or synthesize(Path(folder) / "synthetic.gguf")
        threads = ["-t", str(asked.threads)]
        ours = [sys.executable, "-m", "ggprune", "bench", str(model), *threads]
        theirs = [asked.llama_bench, "-m", str(model), *threads]
        tests = ["-p", asked.n_prompt, "-n", asked.n_gen, "-r", str(asked.repetitions)]
        print(render_speeds(alternate(ours, theirs, tests, asked.rounds)))
        print()
        print(render_formats(ours, theirs))


def synthesize(path: Path) -> Path:
    command = [sys.executable, "-m", "ggprune", "synth", *SHAPE, str(path)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return path


def run(command: list[str], *options: str) -> str:
    spec = importlib.util.find_spec("llama_cpp")
    assert spec is not None
    assert spec.origin is not None
    env = {**os.environ, "LD_LIBRARY_PATH": str(Path(spec.origin).parent / "lib")}
    done = subprocess.run([*command, *options], check=True, capture_output=True, text=True, env=env)
    return done.stdout


def alternate(
    ours: list[str], theirs: list[str], tests: list[str], n_round: int
) -> dict[str, tuple[list[float], list[float]]]:
    """Tokens per second of both by test: each round's best, since disturbance only slows down."""
    found: dict[str, tuple[list[float], list[float]]] = {}
    for i in range(n_round):
        for which in (0, 1) if i % 2 else (1, 0):
            command = (ours, theirs)[which]
            rows = json.loads(run(command, *tests, "-o", "json"))
            for row in rows:
                test = f"pp{row['n_prompt']}" if row["n_prompt"] else f"tg{row['n_gen']}"
                found.setdefault(test, ([], []))[which].append(max(row["samples_ts"]))
    return found


def render_speeds(found: dict[str, tuple[list[float], list[float]]]) -> str:
    rows = []
    for test, (ours, theirs) in found.items():
        ratio = paired_ratio(ours, theirs)
        means = [f"{sum(speeds) / len(speeds):.2f}" for speeds in (ours, theirs)]
        rows.append([test, *means, ratio_cell(ratio), str(ratio.n), verdict(ratio)])
    headers = ("test", "ggprune t/s", "llama-bench t/s", "ratio (95 %)", "rounds", "within 2 %")
    return markdown_table(headers, rows, left=(0,))


def verdict(ratio: Ratio) -> str:
    """Only an interval that lies inside the bar proves it; one outside disproves it."""
    if ratio.low is None or ratio.high is None:
        return "not known"
    if ratio.low >= 1 - BAR and ratio.high <= 1 + BAR:
        return "yes"
    is_outside = ratio.high < 1 - BAR or ratio.low > 1 + BAR
    return "no" if is_outside else "not settled"


def render_formats(ours: list[str], theirs: list[str]) -> str:
    """Do both tools print the same columns?"""
    tests = ("-p", "16", "-n", "2", "-r", "1")
    rows = []
    for form, columns in READERS.items():
        a, b = (columns(run(command, *tests, "-o", form)) for command in (ours, theirs))
        rows.append([form, str(len(a)), str(len(b)), "yes" if a == b else "no"])
    return markdown_table(("-o", "ours", "llama-bench's", "same columns"), rows)


def _sql_columns(text: str) -> list[Any]:
    with sqlite3.connect(":memory:") as database:
        database.executescript(text)
        found = database.execute("PRAGMA table_info(llama_bench)")
        return [(column[1], column[2]) for column in found]


READERS: dict[str, Callable[[str], list[Any]]] = {
    "md": lambda text: [len(cell) for cell in text.splitlines()[1].split("|")],
    "csv": lambda text: next(csv.reader(text.splitlines())),
    "json": lambda text: [(k, type(v)) for k, v in json.loads(text)[0].items()],
    "jsonl": lambda text: [(k, type(v)) for k, v in json.loads(text.splitlines()[0]).items()],
    "sql": _sql_columns,
}


if __name__ == "__main__":
    main()
