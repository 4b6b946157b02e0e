"""`ggprune eval` beside llama-perplexity, in one run: the printed numbers and the time.

PPL, all lines of the KL divergence statistics, base-logits files written by either and read by
both, the three choice tasks; then wall times, taking turns. llama-perplexity must be on PATH.

    python benchmarks/peers_eval.py [MODEL.gguf] [TEXT] [--drop LAYERS] [--chunks N] [--repeat N]
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
from pathlib import Path

from ggprune.arch import n_trunk
from ggprune.model import open_model
from ggprune.pipeline import prune
from ggprune.report.table import markdown_table
from ggprune.runtime.library import default_threads
from ggprune.surgery import make_plan, parse_layers

FIXTURES = Path(__file__).parent.parent / "fixtures"
TASKS = FIXTURES / "tasks"
PEER = "llama-perplexity"
TRIES = 10
START = "start and load"
LINE = re.compile(r"^(?!\d+\.\d\d\.)(.*?\S) *: +(-?[0-9.]+(?:%| ± +[0-9.]+)?)", re.MULTILINE)
PPL = re.compile(r"Final estimate: (PPL = [0-9.]+ \+/- [0-9.]+)")
CHOICES = (  # option, file, llama-perplexity's option for the file, the last line of its table
    ("--hellaswag", TASKS / "hellaswag.txt", "-f", r"^\d+\t([0-9.]+)%\t\["),
    ("--winogrande", TASKS / "winogrande.csv", "-f", r"^\d+\t([0-9.]+)\t"),
    ("--multiple-choice", TASKS / "multiple-choice.bin", "-bf", r"^\d+\t([0-9.]+)$"),
)

Row = tuple[str, str, str, str]


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def peer(*args: object, until: str) -> str:
    """What llama-perplexity prints. Its log is written by a thread that may be cut off at exit:
    it is run again until the line that should come last is there."""
    for _ in range(TRIES):
        printed = run(PEER, *args)
        if re.search(until, printed, re.MULTILINE):
            return printed
    raise SystemExit(f"{PEER} {' '.join(map(str, args))}: no line {until} in {TRIES} runs")


def ours(*args: object) -> str:
    return run(sys.executable, "-m", "ggprune", "eval", *args)


def compare(name: str, our: str, their: str) -> Row:
    return name, our, their, "the same" if our == their else "differs"


def statistics_rows(name: str, our: str, their: str) -> list[Row]:
    """A row for all lines that agree, one for each that does not."""
    found, expected = dict(LINE.findall(blocks(our))), dict(LINE.findall(blocks(their)))
    assert len(expected) > 30, their[-2000:]
    rows = [compare(f"{name}: {k}", found.get(k, "-"), v) for k, v in expected.items()]
    same = sum(row[3] == "the same" for row in rows)
    total = (f"{name}: lines", str(len(found)), str(len(expected)), f"{same} the same")
    return [total, *(row for row in rows if row[3] != "the same")]


def blocks(printed: str) -> str:
    return printed[printed.index("=====") :]


def perplexity_rows(
    base: Path, pruned: Path, text: list[object], threads: list[object], folder: Path
) -> list[Row]:
    """PPL and, for base logits in memory and in either file, the statistics."""
    our_file, their_file = folder / "ours.kld", folder / "theirs.kld"
    found = PPL.search(ours(base, *text, "--save-logits", our_file))
    run(PEER, "-m", base, *text, "--save-all-logits", their_file)
    expected = PPL.search(peer("-m", base, *text, until="Final estimate"))
    assert found is not None
    assert expected is not None
    rows = [compare("PPL", found[1], expected[1])]
    divergence = ("--kl-divergence", "--kl-divergence-base")
    theirs = {
        f: peer("-m", pruned, *divergence, f, *threads, until="^Same top p")
        for f in (our_file, their_file)
    }
    for name, file in (("our file", our_file), ("their file", their_file)):
        rows += statistics_rows(
            f"KLD by {name}", ours(pruned, "--kl-divergence-base", file, *threads), theirs[file]
        )
    live = ours(pruned, "--base", base, *text)
    rows += statistics_rows("KLD by --base, not rounded to 16 bits", live, theirs[their_file])
    return rows


def choice_rows(model: Path, threads: list[object]) -> list[Row]:
    rows = []
    for option, file, flag, pattern in CHOICES:
        table = ours(model, option, file, *threads)
        found = table.splitlines()[2].split("|")[3].strip()
        n_task = table.splitlines()[2].split("|")[2].strip()
        command = ("-m", model, option, flag, file, "-np", 8, *threads)
        printed = peer(*command, until=rf"^{n_task}\t")
        expected = re.findall(pattern, printed, re.MULTILINE)[-1]
        rows.append(compare(option, found, f"{float(expected):.4f}"))
    return rows


def times(commands: dict[str, list[object]], n: int) -> dict[str, float]:
    """Median wall time of each, taking turns."""
    taken: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(n):
        for name, command in commands.items():
            start = time.perf_counter()
            run(*command)
            taken[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in taken.items()}


def time_rows(
    base: Path, pruned: Path, text: list[object], threads: list[object], folder: Path, n: int
) -> list[Row]:
    file = folder / "theirs.kld"
    me = [sys.executable, "-m", "ggprune", "eval"]
    hellaswag = TASKS / "hellaswag.txt"
    least = ["-c", 16, "--chunks", 2]  # the later option counts
    pairs: dict[str, tuple[list[object], list[object]]] = {
        START: ([*me, base, *text, *least], [PEER, "-m", base, *text, *least]),
        "PPL": ([*me, base, *text], [PEER, "-m", base, *text]),
        "KLD of a file": (
            [*me, pruned, "--kl-divergence-base", file, *threads],
            [PEER, "-m", pruned, "--kl-divergence", "--kl-divergence-base", file, *threads],
        ),
        "--hellaswag": (
            [*me, base, "--hellaswag", hellaswag, *threads],
            [PEER, "-m", base, "--hellaswag", "-f", hellaswag, *threads],
        ),
    }
    taken = {name: times({"our": our, "their": their}, n) for name, (our, their) in pairs.items()}
    taken["PPL without it"] = {
        who: taken["PPL"][who] - taken[START][who] for who in ("our", "their")
    }
    return [
        (name, f"{t['our']:.2f} s", f"{t['their']:.2f} s", f"{t['our'] / t['their']:.2f}x")
        for name, t in taken.items()
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=FIXTURES / "tiny.gguf")
    parser.add_argument("text", nargs="?", type=Path, default=FIXTURES / "evaluation.txt")
    parser.add_argument("--drop", default="1,2")
    parser.add_argument("--chunks", type=int, default=35)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--repeat", type=int, default=3)
    args = parser.parse_args()
    if shutil.which(PEER) is None:
        print(f"eval: skipped, {PEER} is not on PATH")
        return 0
    threads: list[object] = ["-t", args.threads]
    text: list[object] = ["-f", args.text, "--chunks", args.chunks, *threads]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pruned, model = folder / "pruned.gguf", open_model(args.model)
        plan = make_plan(model, parse_layers(args.drop, n_trunk(model)))
        prune(model, plan, pruned, check_load=False)
        rows = perplexity_rows(args.model, pruned, text, threads, folder)
        rows += choice_rows(args.model, threads)
        rows += time_rows(args.model, pruned, text, threads, folder, args.repeat)
    print(markdown_table(("", "ggprune", PEER, "ratio or agreement"), rows, left=(0, 3)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
