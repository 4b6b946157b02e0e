"""Does a better type for the blocks beside a cut pay? At equal bytes, against other blocks.

For each set of layers and each mixture: two blocks are raised to a better type, those beside the
cut or any other two neighbours. The gain is how much of the KLD from the pruned, unquantized
model each takes away; `next mixtures` is what the line through the usual mixtures loses at as many
bytes as with the blocks beside the cut raised.

    python benchmarks/interface.py [MODEL.gguf] [--chunks N]
"""

from __future__ import annotations

import argparse
import itertools
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ggprune.evaluation.perplexity import evaluate
from ggprune.metrics.text import EVALUATION, Text, read_text, shipped_text
from ggprune.model.layers import format_layers
from ggprune.model.model import Model, open_model
from ggprune.pipeline.job import Job, write
from ggprune.quantize.forecast import Unpruned, forecast
from ggprune.quantize.options import QuantizeOptions
from ggprune.quantize.quantizer import quantize
from ggprune.report.blocks import markdown_table
from ggprune.runtime.compute import Compute
from ggprune.runtime.isolate import isolated
from ggprune.surgery.plan import make_plan

FIXTURES = Path(__file__).parent.parent / "fixtures"
LADDER = ("Q2_K", "Q3_K_S", "Q3_K_M", "Q4_K_S", "Q4_K_M", "Q5_K_S", "Q5_K_M", "Q6_K")
SETS = ((2, 3), (4,), (5, 6))
STEPS = (("Q2_K", "Q4_K"), ("Q3_K_M", "Q5_K"), ("Q4_K_M", "Q6_K"))


@dataclass(frozen=True)
class Pair:
    """Two blocks of the pruned model, raised, in a file of its own."""

    blocks: tuple[int, int]
    path: Path


def make_files(
    pruned: Path, folder: Path, steps: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], list[Pair]]:
    """The ladder of mixtures, and for each step all pairs of neighbours raised."""
    model = open_model(pruned)
    for name in LADDER:
        quantize(pruned, folder / f"{name}.gguf", QuantizeOptions(name))
    found: dict[tuple[str, str], list[Pair]] = {}
    for name, better in steps:
        for blocks in itertools.pairwise(range(model.n_layer)):
            path = folder / f"{name}-{blocks[0]}-{blocks[1]}.gguf"
            quantize(pruned, path, raised(model, blocks, name, better))
            found.setdefault((name, better), []).append(Pair(blocks, path))
    return found


def raised(model: Model, blocks: tuple[int, int], name: str, better: str) -> QuantizeOptions:
    names = frozenset(t.name for n in blocks for t in model.layers[n])
    options = QuantizeOptions(name, bump_interface=better)
    return forecast(model, options, None, Unpruned(model, {}, names)).options


def klds(paths: Sequence[Path], base: Path, text: Text, n_chunk: int | None) -> dict[Path, float]:
    found = isolated(
        evaluate, list(paths), text, base=base, n_ctx=256, n_chunk=n_chunk,
        compute=Compute(n_threads=1),
    )  # fmt: skip
    return {
        path: e.divergence.kld.mean.value for path, e in zip(paths, found, strict=True)
        if e.divergence is not None
    }  # fmt: skip


def rows_of(model: Model, drop: tuple[int, ...], texts: Sequence[Text], n_chunk: int | None,
            folder: Path) -> list[tuple[str, ...]]:  # fmt: skip
    pruned = folder / "pruned.gguf"
    write(Job(model=model, plan=make_plan(model, drop), out=pruned, check_load=False))
    beside = (min(drop) - 1, min(drop))  # in the numbers of the pruned model
    pairs = make_files(pruned, folder, STEPS)
    paths = [path for path in folder.iterdir() if path != pruned]
    rows: list[tuple[str, ...]] = []
    for number, text in enumerate(texts, 1):
        kld = klds(paths, pruned, text, n_chunk)
        shown = [folder / f"{name}.gguf" for name, _ in pairs]
        shown += [p.path for found in pairs.values() for p in found if p.blocks == beside]
        whole = klds(shown, model.path, text, n_chunk)
        for (name, better), all_pairs in pairs.items():
            plain = folder / f"{name}.gguf"
            gains = {p.blocks: 1 - kld[p.path] / kld[plain] for p in all_pairs}
            bumped = next(p.path for p in all_pairs if p.blocks == beside)
            others = [gain for blocks, gain in gains.items() if blocks != beside]
            n_better = sum(gain > gains[beside] for gain in others)
            usual = interpolated(folder, kld, bumped.stat().st_size)
            rows.append((
                format_layers(drop), str(number), f"{name} -> {better}",
                f"{bumped.stat().st_size / plain.stat().st_size - 1:+.1%}",
                f"{gains[beside]:+.1%}", f"{np.mean(others):+.1%}",
                f"{n_better + 1} of {len(gains)}", f"{1 - usual / kld[plain]:+.1%}",
                f"{whole[plain]:.4f}", f"{whole[bumped]:.4f}",
            ))  # fmt: skip
    return rows


def interpolated(folder: Path, kld: dict[Path, float], size_bytes: int) -> float:
    """KLD of the usual mixtures at that size, log-linear between neighbours on their lower hull."""
    points = sorted(((folder / f"{n}.gguf").stat().st_size, kld[folder / f"{n}.gguf"])
                    for n in LADDER)  # fmt: skip
    best = [p for i, p in enumerate(points) if all(p[1] < q[1] for q in points[:i])]
    sizes, values = zip(*best, strict=True)
    return float(np.exp(np.interp(size_bytes, sizes, np.log(values))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=FIXTURES / "tiny.gguf")
    parser.add_argument("--chunks", type=int)
    args = parser.parse_args()
    model = open_model(args.model)
    texts = (read_text(FIXTURES / "evaluation.txt"), shipped_text(EVALUATION))
    rows: list[tuple[str, ...]] = []
    for drop in SETS:
        with tempfile.TemporaryDirectory() as folder:
            rows += rows_of(model, drop, texts, args.chunks, Path(folder))
        print(format_layers(drop), "measured", file=sys.stderr)
    head = ("drop", "text", "raised", "size", "beside the cut", "other pairs", "rank",
            "next mixtures", "KLD from whole", "raised")  # fmt: skip
    print(markdown_table(head, rows, left=(0, 2)))


if __name__ == "__main__":
    main()
