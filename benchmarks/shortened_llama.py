"""The speed table of Shortened LLaMA (Kim et al., 2024): a 7B model with fewer and fewer blocks.

Latency and throughput of whole requests, by default as in the paper: one sequence, 12 input and 128
output tokens, 10 warm-ups, 20 runs; F16 and Q4_K_M. The models are random weights in the shapes of
Llama 2 7B (those of LLaMA 7B), written and deleted one after the other; with --together all of one
type are loaded at once and take turns, which takes 50 GB for F16 and settles smaller differences.
"Predicted" is what the bytes read for a token promise. Runs on whatever device llama-cpp-python is
built for.

    python benchmarks/shortened_llama.py [--types F16,Q4_K_M] [--blocks 32,26,...] [--runs N] ...
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggprune.arch.footprint import footprints_of
from ggprune.bench.ratio import paired_ratio
from ggprune.model.model import open_model
from ggprune.report.blocks import markdown_table
from ggprune.report.units import count, ratio_cell, size

SHAPE = "llama-2-7b"
BLOCKS = "32,26,21,17,12,6"


@dataclass(frozen=True)
class Measured:
    """One number of blocks: the model, and its requests."""

    n_block: int
    n_param: int
    size_bytes: int
    token_bytes: int  # of weights, read for every token
    latency: dict[str, Any]  # as `ggprune bench --latency --json` has it


def ggprune(*arguments: object) -> str:
    command = [sys.executable, "-m", "ggprune", *map(str, arguments)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def write_model(folder: Path, type_name: str, n_block: int) -> Path:
    path = folder / f"{type_name}-{n_block}.gguf"
    ggprune("synth", "--shape", SHAPE, "--layers", n_block, "--type", type_name, path)
    return path


def measure(paths: Sequence[Path], options: Sequence[object]) -> tuple[list[Measured], Any]:
    """All models at once; they take turns."""
    document = json.loads(ggprune("bench", "--latency", "--json", *paths, *options))
    found = []
    for path, timed in zip(paths, document["models"], strict=True):
        model = open_model(path)
        token_bytes = footprints_of(model).without(()).token_bytes
        n_param = sum(tensor.n_element for tensor in model.tensors)
        (latency,) = timed["latency"]
        found.append(Measured(model.n_layer, n_param, model.size_bytes, token_bytes, latency))
    return found, document


def rows_of(type_name: str, measured: Sequence[Measured]) -> list[tuple[str, ...]]:
    first = measured[0]
    rows: list[tuple[str, ...]] = []
    for one in measured:
        latency = one.latency
        ratio = paired_ratio(first.latency["samples_s"], latency["samples_s"])
        rows.append((
            type_name, str(one.n_block), count(one.n_param), size(one.size_bytes),
            f"{latency['latency_s']:.3f} ± {latency['stddev_s']:.3f}",
            f"{latency['tok_per_s']:.2f}", f"{1000 * latency['token_s']:.2f}",
            "1.000x" if one is first else ratio_cell(ratio),
            f"{first.token_bytes / one.token_bytes:.3f}x",
        ))  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("--types", default="F16,Q4_K_M")
    parser.add_argument("--blocks", default=BLOCKS, help="the first one is compared with")
    parser.add_argument("--together", action="store_true", help="load all models of a type at once")
    parser.add_argument("--folder", type=Path, help="for the models; needs the space of one or all")
    parser.add_argument("-npl", default="1", help="sequences at once")
    parser.add_argument("-ntg", default="128", help="output tokens")
    parser.add_argument("--warmups", default="10")
    parser.add_argument("--runs", default="20")
    parser.add_argument("-t", "--threads")
    asked = parser.parse_args()
    options = ["-npl", asked.npl, "-ntg", asked.ntg, "--warmups", asked.warmups]
    options += ["--runs", asked.runs, *(["-t", asked.threads] if asked.threads else [])]
    rows: list[tuple[str, ...]] = []
    document: Any = None
    for type_name in asked.types.split(","):
        measured: list[Measured] = []
        blocks = [int(n) for n in asked.blocks.split(",")]
        for group in [blocks] if asked.together else [[n] for n in blocks]:
            with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
                paths = [write_model(Path(folder), type_name, n) for n in group]
                found, document = measure(paths, options)
                measured += found
            print(*rows_of(type_name, measured)[-len(group) :], sep="\n", file=sys.stderr)
        rows += rows_of(type_name, measured)
    headers = ("type", "blocks", "params", "size", "latency s", "tok/s", "ms/token",
               "times the first (95 %)", "predicted")  # fmt: skip
    print(markdown_table(headers, rows, left=(0,)))
    versions = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    print(f"\n{versions}; {document['backends']} on {', '.join(document['devices'])}")
    print(f"{SHAPE}; -npl {asked.npl}, 12 tokens in, {asked.ntg} out; "
          f"{asked.warmups} warm-ups, {asked.runs} runs")  # fmt: skip


if __name__ == "__main__":
    main()
