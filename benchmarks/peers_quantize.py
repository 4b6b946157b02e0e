"""`ggprune quantize` beside llama-quantize, and pruning first beside doing both at once.

First table: the same types made by both of the tiny model, tensor by tensor. Second: the time of
both on a model of a usual size, taking turns; ggprune's is that of the whole command, start, dry
run, flushing to the disk and loading the result included. Third: `ggprune prune --type Q4_K_M`
beside `llama-quantize --prune-layers ... Q4_K_M`, which chooses its mixture by the depth before.

    python benchmarks/peers.py quantize [--types Q4_K_M,...] [--shape NAME] [--repeat N]
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from ggprune.bench.ratio import paired_ratio
from ggprune.evaluation.perplexity import evaluate
from ggprune.metrics.text import read_text
from ggprune.model.layers import format_layers
from ggprune.model.model import Model, open_model
from ggprune.report.blocks import markdown_table
from ggprune.report.units import ratio_cell, size
from ggprune.runtime.compute import Compute
from ggprune.runtime.isolate import isolated

FIXTURES = Path(__file__).parent.parent / "fixtures"
PLAIN = "F16,BF16,Q1_0,Q4_0,Q4_1,Q5_0,Q5_1,Q8_0,Q2_K,Q3_K_S,Q3_K_M,Q3_K_L,Q4_K_S,Q4_K_M," \
        "Q5_K_S,Q5_K_M,Q6_K,TQ1_0,TQ2_0,IQ4_NL,IQ4_XS,IQ3_S,IQ3_M,MXFP4_MOE,COPY"  # fmt: skip
WITH_IMATRIX = "Q2_K_S,IQ1_S,IQ1_M,IQ2_XXS,IQ2_XS,IQ2_S,IQ2_M,IQ3_XXS,IQ3_XS,Q4_K_M,IQ4_XS"
TIMED = ("Q4_K_M", "Q8_0")
OURS, THEIRS = "ours.gguf", "theirs.gguf"
TOOLS = ("llama-quantize", "llama-imatrix")


def same_tensors(folder: Path) -> str:
    """`yes`, or how many of the tensors are not the same."""
    a, b = digests(folder / OURS), digests(folder / THEIRS)
    differ = [name for name in a.keys() | b.keys() if a.get(name) != b.get(name)]
    return f"no: {len(differ)} of {len(b)}" if differ else "yes"


def digests(path: Path) -> dict[str, str]:
    found = {}
    with path.open("rb") as file:
        for t in open_model(path).tensors:
            file.seek(t.offset)
            found[t.name] = t.type.name + hashlib.sha256(file.read(t.size_bytes)).hexdigest()
    return found


def timed(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def run(*command: object) -> None:
    subprocess.run(list(map(str, command)), capture_output=True, check=True)


def ggprune(*arguments: object) -> None:
    run(sys.executable, "-m", "ggprune", *arguments)


def quantize_both(model: Path, name: str, matrix: Sequence[object], folder: Path,
                  *options: object) -> tuple[float, float]:  # fmt: skip
    """Seconds of ggprune and of llama-quantize; both write a new file, as a user's first run does.

    A file that is replaced in place gives its memory to the one that replaces it.
    """
    ours, theirs = folder / OURS, folder / THEIRS
    ours.unlink(missing_ok=True)
    theirs.unlink(missing_ok=True)
    us = ("quantize", model, ours, name, *matrix, *options, "--force")
    return timed(lambda: ggprune(*us)), timed(
        lambda: run("llama-quantize", *matrix, model, theirs, name)
    )


def same_rows(
    model: Path, imatrix: Path | None, types: Sequence[str], folder: Path
) -> list[tuple[str, ...]]:
    """Type, imatrix, identical."""
    matrix = ("--imatrix", imatrix) if imatrix else ()
    found: list[tuple[str, ...]] = []
    for name in types:
        quantize_both(model, name, matrix, folder, "--no-verify")
        found.append((name, "yes" if matrix else "no", same_tensors(folder)))
        print(" ".join(found[-1]), file=sys.stderr)
    return found


def time_rows(model: Path, folder: Path, n_round: int) -> list[tuple[str, ...]]:
    """Type, identical, medians of seconds, the ratio by round with its 95 % interval."""
    found: list[tuple[str, ...]] = []
    for name in TIMED:
        rounds = [quantize_both(model, name, (), folder) for _ in range(n_round)]
        print(name, rounds, file=sys.stderr)
        us, them = zip(*rounds, strict=True)
        seconds = [f"{statistics.median(times):.2f}" for times in (us, them)]
        found.append((name, same_tensors(folder), *seconds, ratio_cell(paired_ratio(us, them))))
    return found


def at_once_rows(model: Model, drop: Sequence[int], folder: Path, text: Path, n_chunk: int | None
                 ) -> tuple[list[tuple[str, ...]], list[str]]:  # fmt: skip
    """Both ways to a pruned Q4_K_M, and the tensors whose types differ."""
    ours, theirs = folder / "pruned-first.gguf", folder / "at-once.gguf"
    layers = ",".join(map(str, drop))
    ggprune("--prune-layers", layers, model.path, ours, "--type", "Q4_K_M", "--force")
    run("llama-quantize", "--prune-layers", layers, model.path, theirs, "Q4_K_M")
    found = isolated(
        evaluate,
        [ours, theirs],
        read_text(text),
        base=model.path,
        n_ctx=256,
        n_chunk=n_chunk,
        compute=Compute(n_threads=1),
    )
    table: list[tuple[str, ...]] = []
    for name, path, e in zip(("ggprune", "llama-quantize"), (ours, theirs), found, strict=True):
        made = open_model(path)
        assert e.divergence is not None
        kld = f"{e.divergence.kld.mean.value:.5f} ± {e.divergence.kld.mean.se:.5f}"
        bpw = f"{made.bits_per_weight:.3f}"
        sizes = size(made.size_bytes), str(made.size_bytes)
        table.append((format_layers(drop), name, *sizes, bpw, kld))
    a, b = ({t.name: t.type.name for t in open_model(p).tensors} for p in (ours, theirs))
    return table, [f"{n}: {a[n]}, {b.get(n)} by llama-quantize" for n in a if a[n] != b.get(n)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--types", default=PLAIN)
    parser.add_argument("--imatrix-types", default=WITH_IMATRIX)
    parser.add_argument("--shape", default="llama-3.2-3b", help="of the model that is timed")
    parser.add_argument("--repeat", type=int, default=3, help="rounds of timing; 0: none")
    parser.add_argument("--chunks", type=int)
    args = parser.parse_args()
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        print(f"quantize: skipped, {missing[0]} is not on PATH")
        return 0
    tiny, text = FIXTURES / "tiny.gguf", FIXTURES / "calibration.txt"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        synthetic, imatrix = folder / "synthetic.gguf", folder / "imatrix.gguf"
        ggprune("synth", "--shape", "qwen2.5-0.5b", "--layers", 8, "--type", "F16", synthetic)
        run("llama-imatrix", "-m", tiny, "-f", text, "-o", imatrix, "-c", 256)
        table = same_rows(tiny, None, args.types.split(","), folder)
        table += same_rows(tiny, imatrix, args.imatrix_types.split(","), folder)
        print(markdown_table(("type", "imatrix", "identical"), table, left=(0, 1, 2)))
        if args.repeat:
            large = folder / "large.gguf"
            ggprune("synth", "--shape", args.shape, "--type", "F16", large)
            print(f"\n{args.shape}, random weights in F16, {size(large.stat().st_size)}")
            head = ("type", "identical", "ggprune s", "llama-quantize s", "ratio")
            print(markdown_table(head, time_rows(large, folder, args.repeat), left=(0, 1)))
            large.unlink()
        print("\npruned first, or at once")
        for path, drop in ((tiny, (2, 3)), (tiny, (2,)), (synthetic, (3, 4))):
            n_chunk = args.chunks if path == tiny else 2
            table, differ = at_once_rows(open_model(path), drop, folder, text, n_chunk)
            headers = ("dropped", "by", "size", "bytes", "bpw", "KLD from the whole model")
            print(markdown_table(headers, table, left=(0, 1)))
            print("\n".join(differ) or "the same types", end="\n\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
