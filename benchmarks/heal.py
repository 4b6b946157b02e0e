"""`ggprune heal` beside the pruned model that nothing was done to, and beside ReplaceMe.

For each set of dropped layers one table: every model is written as a file, and all files are read
together by `ggprune eval`, against the original. "times" is the KLD as a share of that of the
pruned model. Both healers get the same chunks of the same text and leave one in 8 aside; the time
is that of the whole fit, models loaded and judged, without writing. Memory is the most that the
fitting process had, models included; disk is what it kept beside the output meanwhile. ReplaceMe
with least squares (benchmarks/replaceme.py) has the ridge that is best on its chunks set aside; of
quantized models it stores its matrices in their own type and, in another file, in F16.

    python benchmarks/heal.py [MODEL.gguf] [--drop LAYERS]... [-f TEXT] [--eval-file TEXT]
        [--chunks N...] [--eval-chunks N] [--ridge X|auto...] [-t N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from replaceme import NAME, Replaced, Task, replace_cuts

from ggprune.arch.hparams import n_trunk
from ggprune.errors import ArchitectureError
from ggprune.evaluation.perplexity import Evaluation
from ggprune.healing.result import HealOptions
from ggprune.metrics.text import Text, read_texts
from ggprune.model.layers import format_layers, parse_layers
from ggprune.model.model import Model, open_model
from ggprune.pipeline.evaluate import evaluate
from ggprune.pipeline.heal import HealJob, heal
from ggprune.pipeline.job import Job, write
from ggprune.quantize.options import QuantizeOptions
from ggprune.report.blocks import markdown_table
from ggprune.report.units import estimate, size
from ggprune.runtime.compute import Compute
from ggprune.runtime.library import versions
from ggprune.surgery.plan import make_plan

FIXTURES = Path(__file__).parent.parent / "fixtures"
HEADERS = ("", "tokens", "ridge", "KLD", "times", "PPL", "time s", "memory", "disk")
RIDGE = HealOptions().ridge  # None: chosen for every matrix
ORIGINAL, NOTHING, REFIT = "original", "nothing done", "refit"


@dataclass(frozen=True, kw_only=True)
class Case:
    """A model, what leaves it, the texts, and what the result is stored as."""

    base: Model
    drop: tuple[int, ...]
    text: Text
    evaluation: Text
    compute: Compute
    n_eval: int | None = None  # chunks; None: all
    n_ctx: int = 512
    quantize: QuantizeOptions | None = None  # None: tensors stay what they are


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A file to be compared, and what it took to make it."""

    name: str
    path: Path
    n_fitted: int | None = None  # tokens
    ridge: str = ""
    time_s: float | None = None
    peak_bytes: int | None = None
    stored_bytes: int | None = None


def unhealed(case: Case, folder: Path) -> Entry:
    """The pruned model, quantized if that is asked for."""
    out = folder / "pruned.gguf"
    plan = make_plan(case.base, case.drop)
    write(Job(model=case.base, plan=plan, out=out, quantize=case.quantize, check_load=False))
    return Entry(name=NOTHING, path=out)


def peers(case: Case, n_chunk: int | None, folder: Path) -> list[Entry]:
    """ReplaceMe in the matrices' own type and, where that is a quantized one, in F16.

    Raises ArchitectureError where its matrix has no place.
    """
    task = Task(
        base=case.base, drop=case.drop, text=case.text, n_ctx=case.n_ctx, n_chunk=n_chunk,
        compute=case.compute,
    )  # fmt: skip
    types = [None, "F16"] if _is_quantized(case) else [None]
    out = folder / f"peer-{n_chunk}.gguf"
    done, paths = replace_cuts(task, types, out, case.quantize)
    return [_peer(done, i, path) for i, path in enumerate(paths)]


def _is_quantized(case: Case) -> bool:
    """Are the matrices that a peer fits quantized, and do they stay what they are?"""
    fitted = [case.base.by_name.get(f"blk.{n}.ffn_down.weight") for n in range(case.base.n_layer)]
    is_any = any(tensor is not None and tensor.type.block_size > 1 for tensor in fitted)
    return is_any and case.quantize is None


def _peer(done: Replaced, i: int, path: Path) -> Entry:
    variant = done.variants[i]
    name = f"{NAME}, stored in {variant.type}" if variant.type else NAME
    return Entry(
        name=name, path=path, n_fitted=done.n_fitted, ridge=f"{variant.ridge:.1g}",
        time_s=variant.time_s, peak_bytes=done.peak_bytes, stored_bytes=done.stored_bytes,
    )  # fmt: skip


def refit(
    case: Case,
    n_chunk: int | None,
    folder: Path,
    *,
    ridge: float | None = RIDGE,
    quantize_last: bool = False,
) -> Entry:
    """`ggprune heal`; a ridge of None is chosen for every matrix."""
    shown = "auto" if ridge is None else f"{ridge:g}"
    out = folder / f"refit-{n_chunk}-{shown}-{int(quantize_last)}.gguf"
    options = HealOptions(n_ctx=case.n_ctx, n_chunk=n_chunk, ridge=ridge, compute=case.compute)
    job = HealJob(
        base=case.base, out=out, plan=make_plan(case.base, case.drop), text=case.text,
        options=options, quantize=case.quantize, quantize_last=quantize_last, force=True,
        check_load=False,
    )  # fmt: skip
    done = heal(job).healing
    when = {None: "", False: ", quantized first", True: ", quantized last"}
    return Entry(
        name=REFIT + when[quantize_last if case.quantize is not None else None], path=out,
        n_fitted=done.n_fitted, ridge=shown, time_s=done.time_s, peak_bytes=done.peak_bytes,
        stored_bytes=done.stored_bytes,
    )  # fmt: skip


def measure(case: Case, entries: Sequence[Entry]) -> tuple[Evaluation, ...]:
    """All files beside the original, in one run."""
    return evaluate(
        [entry.path for entry in entries], case.evaluation, base=case.base.path,
        n_ctx=case.n_ctx, n_chunk=case.n_eval, compute=case.compute,
    )  # fmt: skip


def kld_of(evaluation: Evaluation) -> float:
    """Mean KL divergence from the original, nats."""
    assert evaluation.divergence is not None
    return evaluation.divergence.kld.mean.value


def table(entries: Sequence[Entry], found: Sequence[Evaluation]) -> str:
    """The first entry is what others are compared with."""
    reference, first = kld_of(found[0]), found[0].divergence
    assert first is not None
    rows = [(ORIGINAL, "", "", "", "", estimate(first.base_ppl), "", "", "")]
    for entry, evaluation in zip(entries, found, strict=True):
        assert evaluation.divergence is not None
        kld = evaluation.divergence.kld.mean
        rows.append((
            entry.name, _cell(entry.n_fitted), entry.ridge, estimate(kld),
            f"{kld.value / reference:.3f}", estimate(evaluation.ppl),
            f"{entry.time_s:.1f}" if entry.time_s is not None else "",
            size(entry.peak_bytes) if entry.peak_bytes is not None else "",
            size(entry.stored_bytes) if entry.stored_bytes is not None else "",
        ))  # fmt: skip
    return markdown_table(HEADERS, rows)


def _cell(n: int | None) -> str:
    return "" if n is None else str(n)


def compare(
    case: Case,
    chunks: Sequence[int | None],
    ridges: Sequence[float | None],
    *,
    lasts: Sequence[bool] = (False,),
    with_peer: bool = True,
    folder: Path | None = None,
) -> str:
    """The table of one set of layers, and notes. `lasts`: whether to quantize after the fit."""
    notes = []
    with tempfile.TemporaryDirectory(dir=folder) as name:
        place = Path(name)
        entries = [unhealed(case, place)]
        for n_chunk in chunks:
            try:
                entries += peers(case, n_chunk, place) if with_peer else []
            except ArchitectureError as e:
                notes.append(f"{NAME}: not possible: {e}")
            for ridge in ridges:
                entries += [
                    refit(case, n_chunk, place, ridge=ridge, quantize_last=last) for last in lasts
                ]
        found = measure(case, entries)
        text = found[0].text
        return "\n".join([
            table(entries, found),
            f"\n{text.n_chunk} chunks of {text.n_ctx} of {Path(text.source).name}, "
            f"{text.n_token} tokens scored",
            *dict.fromkeys(notes),
        ])  # fmt: skip


def print_case(name: str, case: Case) -> None:
    """What follows is about this."""
    stored = f", then {case.quantize.type}" if case.quantize is not None else ""
    print(f"\n{name} without layers {format_layers(case.drop)}{stored}\n", flush=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """What is common to scripts that heal."""
    parser.add_argument(
        "--drop", action="append", metavar="LAYERS", help="repeatable: one table each"
    )
    parser.add_argument("-f", "--file", type=Path, action="append", help="text to fit to")
    parser.add_argument("--eval-file", type=Path, help="text to measure on")
    parser.add_argument("--eval-chunks", type=int, help="all of it by default")
    parser.add_argument(
        "--ridge", type=parse_ridge, nargs="+", default=[RIDGE], help="of the refit"
    )
    parser.add_argument("--no-peer", action="store_true", help="without ReplaceMe")
    parser.add_argument("-c", "--ctx-size", type=int, default=512)
    parser.add_argument("-t", "--threads", type=int)
    parser.add_argument("--folder", type=Path, help="for the files while they are compared")


def parse_ridge(text: str) -> float | None:
    return None if text == "auto" else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n", maxsplit=1)[0])
    parser.add_argument("model", nargs="?", type=Path, default=FIXTURES / "tiny.gguf")
    parser.add_argument("--chunks", type=int, nargs="+", help="to fit to; all by default")
    add_options(parser)
    asked = parser.parse_args()
    model = open_model(asked.model)
    for drop in asked.drop or ["2,3,5"]:
        case = Case(
            base=model, drop=parse_layers(drop, n_trunk(model)),
            text=read_texts(asked.file or [FIXTURES / "calibration.txt"]),
            evaluation=read_texts([asked.eval_file or FIXTURES / "evaluation.txt"]),
            n_eval=asked.eval_chunks, n_ctx=asked.ctx_size,
            compute=Compute(n_threads=asked.threads),
        )  # fmt: skip
        print_case(model.path.name, case)
        print(compare(case, asked.chunks or [None], asked.ridge,
                      with_peer=not asked.no_peer, folder=asked.folder), flush=True)  # fmt: skip
    print("\n" + ", ".join(f"{name} {version}" for name, version in versions().items()))


if __name__ == "__main__":
    main()
