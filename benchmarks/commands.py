"""Whole commands on a small model beside llama.cpp's own, in turns: what starting costs.

    python benchmarks/commands.py [--rounds N]

`ggprune eval` of one chunk beside llama-perplexity, `ggprune quantize` beside llama-quantize, and
the floor: a Python that imports llama_cpp and does nothing. Who is first changes in every round.
Shown are medians, and what a command takes beyond its peer in floors. Before that, that both say
the same. llama-perplexity and llama-quantize must be on PATH.
"""

from __future__ import annotations

import argparse
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from ggprune.report.blocks import markdown_table

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
MODEL, TEXT = FIXTURES / "tiny.gguf", FIXTURES / "evaluation.txt"
PPL = re.compile(r"PPL = ([0-9.]+ \+/- [0-9.]+)")
FLOOR = "import llama_cpp"
Commands = Mapping[str, Sequence[str]]


def commands(folder: Path) -> Commands:
    ours = [sys.executable, "-m", "ggprune"]
    text = ["-f", str(TEXT), "--chunks", "1"]
    mine, theirs = str(folder / "mine.gguf"), str(folder / "theirs.gguf")
    return {
        FLOOR: [sys.executable, "-c", FLOOR],
        "llama-perplexity": ["llama-perplexity", "-m", str(MODEL), *text],
        "ggprune eval": [*ours, "eval", str(MODEL), *text],
        "llama-quantize": ["llama-quantize", str(MODEL), theirs, "Q4_K_M"],
        "ggprune quantize": [*ours, "quantize", str(MODEL), mine, "Q4_K_M", "--force"],
    }


PEERS = {"ggprune eval": "llama-perplexity", "ggprune quantize": "llama-quantize"}


def run(command: Sequence[str]) -> tuple[float, str]:
    """Seconds, and everything that was printed."""
    start = time.perf_counter()
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True
    )
    return time.perf_counter() - start, done.stdout + done.stderr


def perplexity(command: Sequence[str]) -> str:
    """What it prints. llama-perplexity may end before its log has written its last line."""
    for _ in range(10):
        if (match := PPL.search(run(command)[1])) is not None:
            return match[1]
    raise SystemExit(f"{command[0]} prints no perplexity")


def check_answers(all_commands: Commands) -> None:
    """Raises SystemExit if a command does not say what its peer says. Also warms all up."""
    for command in all_commands.values():
        run(command)
    found = {perplexity(all_commands[name]) for name in ("llama-perplexity", "ggprune eval")}
    if len(found) != 1:
        raise SystemExit(f"the perplexities differ: {found}")
    mine, theirs = (all_commands[name] for name in ("ggprune quantize", "llama-quantize"))
    if Path(mine[5]).read_bytes() != Path(theirs[2]).read_bytes():
        raise SystemExit("the quantized files differ")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=9)
    rounds = parser.parse_args().rounds
    if not all(map(shutil.which, PEERS.values())):
        print("commands: skipped, llama-perplexity and llama-quantize are not on PATH")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        all_commands = commands(Path(folder))
        check_answers(all_commands)
        times: dict[str, list[float]] = {name: [] for name in all_commands}
        for number in range(rounds):
            names = list(all_commands)
            for name in names if number % 2 == 0 else reversed(names):
                times[name].append(run(all_commands[name])[0])
    medians = {name: statistics.median(seconds) for name, seconds in times.items()}
    rows = []
    for name, seconds in times.items():
        beyond = ""
        if name in PEERS:
            beyond = f"{(medians[name] - medians[PEERS[name]]) / medians[FLOOR]:.2f}"
        rows.append((name, f"{medians[name]:.3f}", f"{min(seconds):.3f}", beyond))
    print(markdown_table(("command", "median s", "fastest s", "beyond its peer, floors"), rows,
                         left=(0,)))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
