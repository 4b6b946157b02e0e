"""The best whole layers, half-shifted runs and units of a small model, before and after healing.

All sets of so many units are tried on a model small enough for that. A set of units counts if
generating reads as few bytes without it as without the layers. What is found on one text is
healed with it and judged on another one.

    python benchmarks/units.py [MODEL.gguf] [TEXT] [JUDGE] [--layers 2] [--chunks N]
"""

from __future__ import annotations

import argparse
import tempfile
from itertools import combinations
from pathlib import Path

import numpy as np

from ggprune.arch.footprint import footprints_of
from ggprune.arch.legal import legal_cut
from ggprune.evaluation.perplexity import evaluate
from ggprune.healing.result import HealOptions
from ggprune.metrics.text import Text, read_text
from ggprune.model.cut import Cut
from ggprune.model.model import Model, open_model
from ggprune.pipeline.heal import HealJob, heal
from ggprune.pipeline.job import Job, write
from ggprune.progress import SILENT
from ggprune.report.blocks import markdown_table
from ggprune.report.units import estimate
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.remembered import open_rows
from ggprune.surgery.plan import make_plan

ROOT = Path(__file__).parents[1]
N_CTX = 256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=ROOT / "fixtures/tiny.gguf")
    parser.add_argument("text", nargs="?", type=Path, default=ROOT / "fixtures/calibration.txt")
    parser.add_argument("judge", nargs="?", type=Path, default=ROOT / "fixtures/evaluation.txt")
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--chunks", type=int, default=8)
    asked = parser.parse_args()
    model, text, judge = open_model(asked.model), read_text(asked.text), read_text(asked.judge)
    best = best_of_kinds(model, text, asked.layers, asked.chunks)
    lines = [line(model, name, n, cut, text, judge) for name, (n, cut) in best.items()]
    headers = ("", "sets", "best", "bytes a token", "KLD", "PPL ratio", "healed KLD", "PPL ratio")
    print(markdown_table(headers, lines, left=(0, 2)))


def best_of_kinds(
    model: Model, text: Text, n_layer: int, n_chunk: int
) -> dict[str, tuple[int, Cut]]:
    """How many sets of every kind there are, and the one with the least KLD on the text."""
    model.read_fingerprint(SILENT)
    footprints = footprints_of(model)
    sets = [Cut.of_units(c) for c in combinations(range(2 * model.n_layer), 2 * n_layer)]
    whole = [cut for cut in sets if cut.is_whole]
    needed = max(footprints.without(cut).token_bytes for cut in whole)
    sets = [
        cut for cut in sets
        if footprints.without(cut).token_bytes <= needed and legal_cut(model, cut)
    ]  # fmt: skip
    options = MeasureOptions(n_ctx=N_CTX, n_chunk=n_chunk, halves=True)
    total = np.zeros(len(sets))
    with open_rows(model, text, options) as source:
        for i in range(source.n_chunk):
            total += [float(rows.kld.mean()) for rows in source.rows(i, sets)]
    order = [sets[int(i)] for i in np.argsort(total)]
    kinds = {
        "whole layers": [cut for cut in order if cut.is_whole],
        "half-shifts too": [cut for cut in order if cut.depth == n_layer],
        "any units": order,
    }
    return {name: (len(found), found[0]) for name, found in kinds.items()}


def line(model: Model, name: str, n: int, cut: Cut, text: Text, judge: Text) -> list[str]:
    with tempfile.TemporaryDirectory() as folder:
        plain, healed = (Path(folder) / f"{what}.gguf" for what in ("plain", "healed"))
        plan = make_plan(model, cut)
        write(Job(model=model, plan=plan, out=plain))
        heal(HealJob(base=model, out=healed, plan=plan, text=text, options=HealOptions()))
        rows = evaluate([plain, healed], judge, base=model.path, n_ctx=N_CTX)
        cells = []
        for row in rows:
            assert row.divergence is not None
            cells += [estimate(row.divergence.kld.mean), estimate(row.divergence.ratio)]
    n_byte = footprints_of(model).without(cut).token_bytes
    return [name, str(n), str(cut), f"{n_byte:,}", *cells]


if __name__ == "__main__":
    main()
