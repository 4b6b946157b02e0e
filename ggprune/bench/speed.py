"""Prompt and generation speed, measured as llama-bench measures them.

Random tokens, no tokenizing and no sampling: `pp` feeds a prompt in batches, `tg` one token after
the other. Several models take turns, repetition by repetition, so that a machine that slows down
slows all of them alike. Follows test_prompt and test_gen in tools/llama-bench/llama-bench.cpp.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggprune.runtime.library import (
    backend_names,
    default_threads,
    device_descriptions,
    versions,
)
from ggprune.runtime.session import Compute, LlamaModel, Session

Progress = Callable[[int, int], object]  # done, total


@dataclass(frozen=True)
class Speed:
    """Repetitions of one test on one model."""

    test: str  # pp512, tg128
    samples_tok_per_s: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.samples_tok_per_s))

    @property
    def stdev(self) -> float:
        """Sample standard deviation, 0 for a single repetition (as llama-bench)."""
        n = len(self.samples_tok_per_s)
        return float(np.std(self.samples_tok_per_s, ddof=1)) if n > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "test": self.test,
            "avg_ts": self.mean,
            "stddev_ts": self.stdev,
            "samples_ts": list(self.samples_tok_per_s),
        }


@dataclass(frozen=True)
class ModelSpeed:
    """All tests of one model."""

    path: str
    description: str
    size_bytes: int  # of the tensors, as llama-bench
    n_param: int
    speeds: tuple[Speed, ...]

    def speed(self, prefix: str) -> Speed | None:
        """The test whose name starts with `pp` or `tg`."""
        return next((s for s in self.speeds if s.test.startswith(prefix)), None)

    def to_json(self) -> dict[str, Any]:
        return {
            "model_filename": self.path,
            "model_type": self.description,
            "model_size": self.size_bytes,
            "model_n_params": self.n_param,
            "tests": [speed.to_json() for speed in self.speeds],
        }


@dataclass(frozen=True)
class Benchmark:
    """What was measured, on what."""

    models: tuple[ModelSpeed, ...]
    backends: str
    devices: tuple[str, ...]
    n_threads: int
    versions: dict[str, str]

    @property
    def machine(self) -> dict[str, Any]:
        return {
            "backends": self.backends,
            "devices": list(self.devices),
            "n_threads": self.n_threads,
        }

    def to_json(self) -> dict[str, Any]:
        models = [model.to_json() for model in self.models]
        return {"models": models, **self.machine, "versions": self.versions}


def benchmark(
    paths: Sequence[Path],
    *,
    n_prompt: int = 512,
    n_gen: int = 128,
    n_repeat: int = 5,
    compute: Compute | None = None,
    seed: int = 1,
    progress: Progress | None = None,
) -> Benchmark:
    """Measure pp{n_prompt} and tg{n_gen} of all models, taking turns; 0 leaves a test out.

    Raises LlamaError if llama.cpp cannot load or compute a model.
    """
    compute = compute or Compute()
    with contextlib.ExitStack() as stack:
        runners = [
            stack.enter_context(_Runner(path, max(n_prompt, n_gen, 1), compute, seed))
            for path in paths
        ]
        tests: list[tuple[str, Callable[[_Runner], float]]] = []
        if n_prompt > 0:
            tests.append((f"pp{n_prompt}", lambda runner: runner.prompt(n_prompt)))
        if n_gen > 0:
            tests.append((f"tg{n_gen}", lambda runner: runner.generate(n_gen)))
        samples = _measure(runners, tests, n_repeat, progress)
        models = tuple(
            runner.result([Speed(name, tuple(samples[name, i])) for name, _ in tests])
            for i, runner in enumerate(runners)
        )
    return Benchmark(
        models,
        backend_names(),
        device_descriptions(),
        compute.n_threads or default_threads(),
        versions(),
    )


def _measure(
    runners: Sequence[_Runner],
    tests: Sequence[tuple[str, Callable[[_Runner], float]]],
    n_repeat: int,
    progress: Progress | None,
) -> dict[tuple[str, int], list[float]]:
    """Tokens per second of every test and model, n_repeat each, after one that does not count."""
    samples: dict[tuple[str, int], list[float]] = {}
    done, total = 0, len(tests) * len(runners) * (n_repeat + 1)
    for name, run in tests:
        for repetition in range(n_repeat + 1):
            for i, runner in enumerate(runners):
                speed = run(runner)
                if repetition > 0:
                    samples.setdefault((name, i), []).append(speed)
                done += 1
                if progress is not None:
                    progress(done, total)
    return samples


class _Runner:
    """A loaded model that can be timed."""

    def __init__(self, path: Path, n_ctx: int, compute: Compute, seed: int) -> None:
        self.path = path
        self.n_batch = compute.n_batch
        self.model = LlamaModel(path, compute)
        self.session = Session(self.model, n_ctx, compute=compute)
        self.rng = np.random.default_rng(seed)

    def __enter__(self) -> _Runner:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
        self.model.close()

    def tokens(self, n: int) -> Any:
        """Random token ids, BOS first if the model wants one."""
        tokens = self.rng.integers(0, self.model.n_vocab, n, dtype=np.int32)
        if self.model.bos is not None:
            tokens[0] = self.model.bos
        return tokens

    def prompt(self, n: int) -> float:
        """Tokens per second of reading a prompt of n tokens."""
        tokens = self.tokens(n)
        self.session.clear()
        start = time.perf_counter()
        for position in range(0, n, self.n_batch):
            self.session.decode(tokens[position : position + self.n_batch], position)
        self.session.synchronize()
        return n / (time.perf_counter() - start)

    def generate(self, n: int) -> float:
        """Tokens per second of n tokens one by one, from an empty context."""
        tokens = self.tokens(n)
        self.session.clear()
        start = time.perf_counter()
        for position in range(n):
            self.session.decode(tokens[position : position + 1], position)
            self.session.synchronize()
        return n / (time.perf_counter() - start)

    def result(self, speeds: Sequence[Speed]) -> ModelSpeed:
        model = self.model
        return ModelSpeed(
            str(self.path), model.description, model.size_bytes, model.n_param, tuple(speeds)
        )
