"""`ggprune heal --train` beside what is only pruned and only fitted: losses, adapters, seeds.

One table: the pruned model, healed in closed form, and trained behind that (or instead of it) in
the ways listed. All are files, read together by `ggprune eval` against the original, on a text that
none was fitted to or trained on. "times" is the KLD as a share of that of the pruned model; "torch"
the KLD on rows set aside before the weights were stored, "stored" after it; where there are several
seeds, the spread of the former is given, and the file is that of the best.

    python benchmarks/train.py [MODEL.gguf] [--drop LAYERS] [-f TEXT] [--eval-file TEXT]
        [--fit-chunks N] [--tokens N] [--way NAME]... [--seeds N] [--eval-chunks N] [-t N]

Without -f a text is made by fixtures/corpus.py, which also made the tiny model's own.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from ggprune.healing.result import HealOptions
from ggprune.metrics.text import Text, read_texts
from ggprune.model.layers import parse_layers
from ggprune.model.model import Model, open_model
from ggprune.pipeline.evaluate import evaluate
from ggprune.pipeline.heal import HealJob, heal
from ggprune.pipeline.job import Job, write
from ggprune.pipeline.train import TrainJob, train
from ggprune.report.blocks import markdown_table
from ggprune.report.units import estimate
from ggprune.runtime.compute import Compute
from ggprune.runtime.library import versions
from ggprune.surgery.plan import make_plan
from ggprune.training.options import Loss, TrainOptions
from ggprune.training.samples import Corpus

FIXTURES = Path(__file__).parent.parent / "fixtures"
HEADERS = ("", "tokens", "KLD", "times", "PPL", "same top p", "torch", "stored", "time s", "tok/s")


@dataclass(frozen=True)
class Way:
    """How a model is trained: options, and whether it is fitted before."""

    loss: Loss = Loss.KD
    full: bool = False
    refit: bool = True


WAYS = {
    "kd": Way(),
    "kd, not fitted before": Way(refit=False),
    "ce": Way(loss=Loss.CE),
    "kd+ce": Way(loss=Loss.BOTH),
    "kd, full": Way(full=True),
}


@dataclass(frozen=True)
class Case:
    """A model, what leaves it, and what it is trained on."""

    base: Model
    drop: tuple[int, ...]
    corpus: Corpus
    options: TrainOptions
    compute: Compute


def trained(
    case: Case, name: str, pruned: Mapping[bool, Path], folder: Path
) -> tuple[Path, list[str]]:
    """The file, and its cells."""
    way, out = WAYS[name], folder / f"{name.replace(' ', '-')}.gguf"
    options = replace(case.options, loss=way.loss)
    if way.full:
        options = replace(options, lora=None, lr=None)  # the default of full training
    own = HealJob(
        base=case.base, out=out, pruned=open_model(pruned[way.refit]), text=Text("", ""),
        options=HealOptions(compute=case.compute), force=True, check_load=False,
    )  # fmt: skip
    done = train(TrainJob(heal=own, corpus=case.corpus, options=options, refit=False)).training
    runs, best = done.trained.runs, done.trained.best.best
    klds = [run.best.kld for run in runs]
    spread = f" ± {statistics.stdev(klds):.4f}" if len(runs) > 1 else ""
    speed = statistics.median(p.tok_per_s for p in done.trained.best.points if p.tok_per_s)
    return out, [
        str(best.n_token), f"{statistics.mean(klds):.4f}{spread}", f"{done.after.kld.value:.4f}",
        f"{done.trained.time_s:.0f}", f"{speed:.0f}",
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path, nargs="?", default=FIXTURES / "tiny.gguf")
    parser.add_argument("--drop", default="2,3,5")
    parser.add_argument("-f", "--file", type=Path)
    parser.add_argument("--eval-file", type=Path, default=FIXTURES / "evaluation.txt")
    parser.add_argument("--eval-chunks", type=int)
    parser.add_argument("--fit-chunks", type=int)
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--batch", type=int, default=2048)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--way", action="append", choices=list(WAYS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("-t", "--threads", type=int)
    asked = parser.parse_args()
    base, compute = open_model(asked.model), Compute(n_threads=asked.threads)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        text = asked.file or made_text(folder)
        options = TrainOptions(
            n_token=asked.tokens, lr=asked.lr, batch=asked.batch, n_seed=asked.seeds,
            n_thread=asked.threads,
        )  # fmt: skip
        drop = tuple(parse_layers(asked.drop, base.n_layer))
        case = Case(base, drop, Corpus(read_texts([text])), options, compute)
        print(table(case, asked, folder))
    print("\nggprune " + ", ".join(f"{k} {v}" for k, v in versions().items()))


def made_text(folder: Path) -> Path:
    """Of the kind that the tiny model was trained on, about 400,000 of its tokens."""
    script, text = str(FIXTURES / "corpus.py"), folder / "text.txt"
    with text.open("wb") as file:
        command = [sys.executable, script, "--seed", "103", "--kib", "1300"]
        subprocess.run(command, stdout=file, check=True)
    return text


def table(case: Case, asked: argparse.Namespace, folder: Path) -> str:
    assert case.corpus.text is not None
    plan = make_plan(case.base, case.drop)
    pruned = {False: folder / "pruned.gguf", True: folder / "refit.gguf"}
    write(Job(model=case.base, plan=plan, out=pruned[False], check_load=False))
    healing = heal(HealJob(
        base=case.base, out=pruned[True], plan=plan, text=case.corpus.text, check_load=False,
        options=HealOptions(n_chunk=asked.fit_chunks, compute=case.compute),
    )).healing  # fmt: skip
    entries = [
        ("nothing done", pruned[False], ["", "", "", "", ""]),
        ("refit", pruned[True], [str(healing.n_fitted), "", "", f"{healing.time_s:.0f}", ""]),
    ]
    for name in asked.way or WAYS:
        path, cells = trained(case, name, pruned, folder)
        entries.append((name, path, cells))
        print(name, *cells, file=sys.stderr, flush=True)
    found = evaluate(
        [path for _, path, _ in entries], read_texts([asked.eval_file]), base=case.base.path,
        n_chunk=asked.eval_chunks, compute=case.compute,
    )  # fmt: skip
    rows, first = list[tuple[str, ...]](), 0.0
    for (name, _, cells), evaluation in zip(entries, found, strict=True):
        divergence = evaluation.divergence
        assert divergence is not None
        kld = divergence.kld.mean
        first = first or kld.value
        if not rows:
            base_ppl = estimate(divergence.base_ppl)
            rows.append(("original", "", "", "", base_ppl, "", "", "", "", ""))
        rows.append((
            name, cells[0], estimate(kld), f"{kld.value / first:.3f}",
            estimate(evaluation.ppl), f"{100 * divergence.same_top_p.value:.1f} %", *cells[1:],
        ))  # fmt: skip
    return markdown_table(HEADERS, rows)


if __name__ == "__main__":
    main()
