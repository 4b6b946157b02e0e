"""What healing costs beside a plain evaluation of the same tokens by the same model.

    python benchmarks/heal_cost.py [--shape llama-3.2-1b] [--type Q4_K_M] [--drop 7,8,9]

A model with random weights and a well-known one's shapes evaluates random tokens (logits of the
second half of every chunk, their statistics), then is healed on them without the layers that are
dropped: all passes, sums, solutions, quantizing, and judging the chunks set aside before and after.
Passes and sums grow with the tokens; solutions and quantizing do not, so they are timed apart and
the ratio is also given for more tokens. Memory is the process's peak above the loaded model.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import numpy as np
import psutil

from ggprune.healing import walk as walking
from ggprune.healing.heal import Patient, Workplace, open_walk
from ggprune.healing.judge import Judge
from ggprune.healing.leastsquares import Moments
from ggprune.healing.result import HealOptions, is_aside
from ggprune.healing.walk import Walk, stages_of
from ggprune.metrics.chunks import Chunks
from ggprune.metrics.logits import score_tokens
from ggprune.model.cut import Cut
from ggprune.model.layers import parse_layers
from ggprune.model.model import Model, open_model
from ggprune.model.newlayer import NewLayer
from ggprune.pipeline.synth import find_shape, make_blueprint, synthesize
from ggprune.runtime.buffers import peak_rss_bytes
from ggprune.runtime.compute import Compute
from ggprune.runtime.isolate import isolated
from ggprune.runtime.library import default_threads
from ggprune.runtime.session import LlamaModel, Session

N_CTX = 512
GIB = 1 << 30


class Stopwatch:
    """Seconds spent in functions that it has wrapped."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def wrap(self, function: Callable[..., object]) -> Callable[..., object]:
        def timed(*args: object, **kwargs: object) -> object:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                self.time_s += time.perf_counter() - start

        return timed


@contextmanager
def timing(watch: Stopwatch) -> Iterator[None]:
    """Time what does not depend on the number of tokens."""
    places = ((Moments, "solve"), (walking, "store"), (walking, "read_stored"))
    before = [getattr(place, name) for place, name in places]
    for (place, name), function in zip(places, before, strict=True):
        setattr(place, name, watch.wrap(function))
    yield
    for (place, name), function in zip(places, before, strict=True):
        setattr(place, name, function)


def evaluate(path: Path, chunks: Chunks, compute: Compute) -> float:
    """Seconds that a plain evaluation takes, without loading."""
    n_threads = compute.n_threads or default_threads()
    with LlamaModel(path, compute) as model, Session(model, N_CTX, compute=compute) as session:
        session.chunk_logits(chunks[0].tokens[None], 1)
        start = time.perf_counter()
        for chunk in chunks:
            logits = session.chunk_logits(chunk.tokens[None], chunk.n_output)[0]
            score_tokens(chunk.scored(logits), chunk.targets, n_threads)
        return time.perf_counter() - start


def heal(model: Model, chunks: Chunks, drop: tuple[int, ...], compute: Compute) -> dict[str, float]:
    """Seconds of healing without loading, the fixed part of them, and memory."""
    keep = Cut.of(drop).remaining(model.n_layer)
    options = HealOptions(n_ctx=N_CTX, compute=compute)
    watch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        patch = Path(folder) / "patch"
        patch.touch()
        place = Workplace(patch, patch)
        with open_walk(Patient(model, keep), lambda _: chunks, options, place) as walk:
            loaded, start = psutil.Process().memory_info().rss, time.perf_counter()
            with timing(watch):
                n_fitted = run(walk, keep, drop)
            time_s = time.perf_counter() - start
            disk = walk.kept.file_bytes
    return {
        "time_s": time_s, "fixed_s": watch.time_s, "fitted": n_fitted, "disk": disk,
        "memory": peak_rss_bytes() - loaded,
    }  # fmt: skip


def run(walk: Walk, keep: tuple[NewLayer, ...], drop: tuple[int, ...]) -> int:
    """As `ggprune.healing.heal`, for any number of tokens."""
    aside = [chunk for chunk in walk.chunks if is_aside(chunk.number)]
    judge = Judge(walk.kept, aside, drop, default_threads())
    judge.remember(walk.base)
    judge.compare(walk.pruned)
    stages = stages_of(keep, walk.base.arch.n_trunk, shared=True)
    walk.start_base(stages[0])
    walk.start_pruned(stages[0], drop)
    n_fitted = sum(len(walk.fit(s, is_last=s == stages[-1])[0]) for s in stages)
    judge.compare(walk.pruned)
    return n_fitted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", default="llama-3.2-1b")
    parser.add_argument("--type", default="Q4_K_M")
    parser.add_argument("--drop", default="7,8,9")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("-t", "--threads", type=int)
    asked = parser.parse_args()
    compute = Compute(n_threads=asked.threads, n_batch=N_CTX, n_ubatch=N_CTX)
    me = import_module("heal_cost")  # as a child process knows these functions
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.gguf"
        synthesize(make_blueprint(find_shape(asked.shape), asked.type), path, check_load=False)
        model = open_model(path)
        drop = tuple(parse_layers(asked.drop, model.n_layer))
        rng = np.random.default_rng(0)
        n_vocab = model.by_name["token_embd.weight"].shape[1]
        tokens = rng.integers(0, n_vocab, (asked.chunks, N_CTX), dtype=np.int32)
        plain_s = isolated(me.evaluate, path, Chunks(tokens), compute)
        cost = isolated(me.heal, model, Chunks(tokens), drop, compute)
    n_token = tokens.size
    growing = cost["time_s"] - cost["fixed_s"]
    print(f"{asked.shape} {asked.type} without {asked.drop}: {n_token} tokens, "
          f"{cost['fitted']} matrices")  # fmt: skip
    print(f"plain evaluation   {plain_s:8.1f} s")
    print(f"healing            {cost['time_s']:8.1f} s, {cost['time_s'] / plain_s:.2f}x")
    print(f"  passes and sums  {growing:8.1f} s, {growing / plain_s:.2f}x")
    print(f"  solved, stored   {cost['fixed_s']:8.1f} s")
    for n in (40_000, 80_000, 320_000):
        ratio = (growing * n / n_token + cost["fixed_s"]) / (plain_s * n / n_token)
        print(f"at {n} tokens: {ratio:.2f}x")
    print(f"memory above the model {cost['memory'] / GIB:.2f} GiB, disk {cost['disk'] / GIB:.2f}")


if __name__ == "__main__":
    main()
