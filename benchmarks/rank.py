"""`ggprune rank` beside the loop that a user would write today, in one run: `make bench`.

The loop: llama-perplexity writes the base logits, then for every layer llama-quantize drops it
(COPY) and llama-perplexity --kl-divergence measures the file. Both tools must be on PATH. All are
whole commands: starting counts.

    python benchmarks/rank.py [MODEL.gguf] [TEXT] [--chunks N] [--ctx N]
    python benchmarks/rank.py --shape small|llama-3.2-1b|... [--type Q4_K_M]     random weights
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from ggprune.arch.hparams import n_trunk
from ggprune.model.model import open_model
from ggprune.pipeline.synth.shapes import Shape, find_shape
from ggprune.pipeline.synth.write import make_blueprint, synthesize
from ggprune.report.blocks import markdown_table
from ggprune.scoring.ranking import Ranking, read_ranking

FIXTURES = Path(__file__).parent.parent / "fixtures"
SMALL = Shape(
    name="small", source="made up", arch="llama", n_vocab=4096, n_embd=256, n_layer=12, n_ff=640,
    n_head=4, n_head_kv=4, head_dim=64, n_ctx=512, norm_eps=1e-5, tied=True, rope_base=10_000.0,
)  # fmt: skip
MEAN_KLD = re.compile(r"Mean +KLD: +([0-9.]+)")


def the_loop(
    model: Path, text: Path, n_layer: int, n_ctx: int, n_chunk: int, threads: int
) -> list[float]:
    """KLD of every layer, as printed by llama-perplexity."""
    common = ["-f", str(text), "-c", str(n_ctx), "--chunks", str(n_chunk), "-t", str(threads)]
    found = []
    with tempfile.TemporaryDirectory() as folder:
        base, pruned = Path(folder) / "base.kld", Path(folder) / "pruned.gguf"
        run("llama-perplexity", "-m", model, *common, "--kl-divergence-base", base)
        for layer in range(n_layer):
            run("llama-quantize", "--prune-layers", layer, model, pruned, "COPY")
            printed = run(
                "llama-perplexity", "-m", pruned, *common,
                "--kl-divergence-base", base, "--kl-divergence",
            )  # fmt: skip
            match = MEAN_KLD.search(printed)
            assert match is not None, printed[-2000:]
            found.append(float(match[1]))
    return found


def run(*command: object) -> str:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def ours(args: argparse.Namespace, model: Path, out: Path, *asked: object) -> Ranking:
    """Without a cache: nothing is known before."""
    run(
        sys.executable, "-m", "ggprune", "rank", model, "-f", args.text, "-c", args.ctx,
        "--chunks", args.chunks, "-t", args.threads, "--no-cache", "-o", out, "--force", *asked,
    )  # fmt: skip
    return read_ranking(out)


def synthetic(name: str, type_name: str, out: Path) -> Path:
    """A model with random weights; `small` has 9 M parameters."""
    shape = SMALL if name == SMALL.name else find_shape(name)
    return synthesize(make_blueprint(shape, type_name, seed=1), out).paths[0]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", nargs="?", type=Path, default=FIXTURES / "tiny.gguf")
    parser.add_argument("text", nargs="?", type=Path, default=FIXTURES / "calibration.txt")
    parser.add_argument("--shape", help="of a model with random weights, in place of MODEL")
    parser.add_argument("--type", default="F16", help="of its weights")
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=35)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    if not all(map(shutil.which, ("llama-quantize", "llama-perplexity"))):
        print("rank: skipped, llama-quantize and llama-perplexity are not on PATH")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        if args.shape is not None:
            args.model = synthetic(args.shape, args.type, Path(folder) / "model.gguf")
        compare(args, Path(folder) / "scores.json")
    return 0


def compare(args: argparse.Namespace, out: Path) -> None:
    n_layer = n_trunk(open_model(args.model))
    start = time.perf_counter()
    theirs = the_loop(args.model, args.text, n_layer, args.ctx, args.chunks, args.threads)
    loop_s = time.perf_counter() - start
    start = time.perf_counter()
    ranking = ours(args, args.model, out, "--exhaustive")
    all_s = time.perf_counter() - start
    rows = [("the loop", f"{loop_s:.1f}", "1.00x", f"{n_layer + 1} passes a chunk", "")]
    effort = ranking.effort
    share = effort.work / effort.n_pass
    rows.append(("rank --exhaustive", f"{all_s:.1f}", f"{loop_s / all_s:.2f}x",
                 f"{share:.2f} of the nodes", same(ranking, theirs)))  # fmt: skip
    lowest = np.argsort(theirs)
    for k in range(1, min(5, n_layer)):
        start = time.perf_counter()
        race = ours(args, args.model, out, "--decide", k)
        race_s = time.perf_counter() - start
        agree = set(race.order[:k]) == set(map(int, lowest[:k]))
        rows.append((f"rank --decide {k}", f"{race_s:.1f}", f"{loop_s / race_s:.2f}x",
                     f"{race.effort.n_pass / effort.n_pass:.2f} of the passes",
                     "the same set" if agree else "another set"))  # fmt: skip
    print(markdown_table(("", "time s", "faster", "work", "result"), rows, left=(0, 3, 4)))
    shares = {"statistics": effort.statistics_s, "callback": effort.callback_s}
    shown = ", ".join(f"{what} {100 * s / effort.decode_s:.1f} %" for what, s in shares.items())
    print(f"\nof the decode time: {shown}; {n_layer} layers, {effort.n_pass} passes")


def same(ranking: Ranking, theirs: list[float]) -> str:
    worst = max(abs(s.kld.value - t) for s, t in zip(ranking.layers, theirs, strict=True))
    return f"KLD differs by at most {worst:.6f} nats"


if __name__ == "__main__":
    sys.exit(main())
