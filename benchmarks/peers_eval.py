"""`ggprune eval` beside llama-perplexity, in one run: the printed numbers and the time.

PPL, all lines of the KL divergence statistics, base-logits files written by either and read by
both, the three choice tasks; then wall times of a model of a usual size, taking turns.
llama-perplexity must be on PATH.

    python benchmarks/peers.py eval [MODEL.gguf] [TEXT] [--drop LAYERS] [--shape NAME] [--repeat N]
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

from ggprune.arch.hparams import n_trunk
from ggprune.bench.ratio import paired_ratio
from ggprune.model.layers import parse_layers
from ggprune.model.model import open_model
from ggprune.pipeline.job import Job, write
from ggprune.report.blocks import markdown_table
from ggprune.report.units import ratio_cell
from ggprune.runtime.library import default_threads
from ggprune.surgery.plan import make_plan

FIXTURES = Path(__file__).parent.parent / "fixtures"
TASKS = FIXTURES / "tasks"
PEER = "llama-perplexity"
TRIES = 10
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


def time_both(our: list[object], their: list[object], n_round: int) -> tuple[str, ...]:
    """Medians of wall time, and the ratio by round; who is first changes with every round."""
    taken: tuple[list[float], list[float]] = ([], [])
    for i in range(n_round):
        for which in (0, 1) if i % 2 else (1, 0):
            start = time.perf_counter()
            run(*(our, their)[which])
            taken[which].append(time.perf_counter() - start)
    medians = [f"{statistics.median(times):.2f}" for times in taken]
    return *medians, ratio_cell(paired_ratio(*taken))


def time_rows(
    tiny: Path, large: Path, text: Path, threads: list[object], n_chunk: int, n_round: int
) -> list[tuple[str, ...]]:
    """Whole commands, start and load included; on the tiny model starting is all there is."""
    file, saved = large.with_name("base.kld"), large.with_name("saved.kld")
    me = [sys.executable, "-m", "ggprune", "eval"]
    some: list[object] = ["-f", text, "--chunks", n_chunk, *threads]
    least: list[object] = ["-f", text, "-c", 16, "--chunks", 2, *threads]
    hellaswag, n_task = TASKS / "hellaswag.txt", 2 * n_chunk
    run(PEER, "-m", large, *some, "--save-all-logits", file)
    divergence = ["--kl-divergence-base", file, *threads]
    save = [large, *some]
    pairs: dict[str, tuple[list[object], list[object]]] = {
        "start and load": ([*me, tiny, *least], [PEER, "-m", tiny, *least]),
        "PPL": ([*me, large, *some], [PEER, "-m", large, *some]),
        "--save-logits": (
            [*me, *save, "--save-logits", saved, "--force"],
            [PEER, "-m", *save, "--save-all-logits", saved],
        ),
        "--kl-divergence-base": (
            [*me, large, *divergence],
            [PEER, "-m", large, "--kl-divergence", *divergence],
        ),
        "--hellaswag": (
            [*me, large, "--hellaswag", hellaswag, "--hellaswag-tasks", n_task, *threads],
            [PEER, "-m", large, "--hellaswag", "-f", hellaswag, "--hellaswag-tasks", n_task,
             *threads],
        ),
    }  # fmt: skip
    rows: list[tuple[str, ...]] = []
    for name, (our, their) in pairs.items():
        rows.append((name, *time_both(our, their, n_round)))
        print(*rows[-1], file=sys.stderr)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=FIXTURES / "tiny.gguf")
    parser.add_argument("text", nargs="?", type=Path, default=FIXTURES / "evaluation.txt")
    parser.add_argument("--drop", default="1,2")
    parser.add_argument("--chunks", type=int, default=35)
    parser.add_argument("--threads", type=int, default=default_threads())
    parser.add_argument("--shape", default="llama-3.2-1b", help="of the model that is timed")
    parser.add_argument("--time-chunks", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=4, help="rounds of timing; 0: none")
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
        write(Job(model=model, plan=plan, out=pruned, check_load=False))
        rows = perplexity_rows(args.model, pruned, text, threads, folder)
        rows += choice_rows(args.model, threads)
        print(markdown_table(("", "ggprune", PEER, "agreement"), rows, left=(0, 3)))
        if args.repeat:
            large = folder / "large.gguf"
            run(sys.executable, "-m", "ggprune", "synth", "--shape", args.shape,
                "--type", "Q4_K_M", large)  # fmt: skip
            print(f"\n{args.shape} in Q4_K_M, random weights, {args.time_chunks} chunks of 512")
            times = time_rows(args.model, large, args.text, threads, args.time_chunks, args.repeat)
            print(markdown_table(("whole command", "ggprune s", f"{PEER} s", "ratio"), times))
    return 0


if __name__ == "__main__":
    sys.exit(main())
