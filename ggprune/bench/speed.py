"""Prompt and generation speed of several models that take turns.

Each test is llama-bench's; between its repetitions the models take turns, so that a machine that
slows down slows all of them alike, and their ratios rest on pairs.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, TypeVar

import numpy as np

from ggprune.bench.cases import Case
from ggprune.bench.ratio import Ratio, Wanted, paired_ratio
from ggprune.bench.runner import Runner
from ggprune.files.keys import INLINE, LEFT_OUT, Key, written
from ggprune.progress import SILENT, Progress
from ggprune.runtime.buffers import Cache
from ggprune.runtime.compute import Compute
from ggprune.runtime.devices import Device, backend_names, build_commit, devices
from ggprune.runtime.library import default_threads, versions

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Repetitions of one test on one model."""

    case: Annotated[Case, INLINE]
    test_time: Annotated[str, "UTC, when it began"] = ""
    samples_ns: Annotated[tuple[int, ...], "one of each repetition"]
    caches: Annotated[tuple[Cache, ...], LEFT_OUT] = ()

    @property
    @written("samples_ts")
    def samples_tok_per_s(self) -> tuple[float, ...]:
        return tuple(1e9 * self.case.n_token / ns for ns in self.samples_ns)

    @property
    @written("avg_ns", before="samples_ns")
    def mean_ns(self) -> int:
        return sum(self.samples_ns) // len(self.samples_ns)

    @property
    @written("stddev_ns", before="samples_ns")
    def stdev_ns(self) -> int:
        return math.floor(_stdev(self.samples_ns))

    @property
    @written("avg_ts", before="samples_ns")
    def mean(self) -> Annotated[float, "tokens per second"]:
        return float(np.mean(self.samples_tok_per_s))

    @property
    @written("stddev_ts", before="samples_ns")
    def stdev(self) -> float:
        """Sample standard deviation, 0 for a single repetition (as llama-bench)."""
        return _stdev(self.samples_tok_per_s)


@dataclass(frozen=True)
class Compared:
    """A test of one model, beside the same one of the first model."""

    speed: Annotated[Speed, INLINE]
    ratio: Annotated[Ratio | None, "times as fast as the first model; null for itself"] = None


@dataclass(frozen=True, kw_only=True)
class ModelSpeed:
    """All tests of one model."""

    path: Annotated[str, Key(name="model_filename")]
    description: Annotated[str, Key(name="model_type")]
    size_bytes: Annotated[int, Key(name="model_size"), "of the tensors"]
    n_param: Annotated[int, Key(name="model_n_params")]
    tests: tuple[Compared, ...]

    @property
    def speeds(self) -> tuple[Speed, ...]:
        return tuple(test.speed for test in self.tests)

    def speed(self, prefix: str) -> Speed | None:
        """The first test whose name starts with `pp` or `tg`."""
        return next((s for s in self.speeds if s.case.name.startswith(prefix)), None)


@dataclass(frozen=True)
class Machine:
    """What was measured on."""

    backends: Annotated[str, "as llama-bench names them"]
    devices: Annotated[tuple[Device, ...], Key(name="device_memory")]
    n_threads: Annotated[int, "by default"]
    build_commit: Annotated[str, "of ggml"]

    @property
    @written("devices", before="devices")
    def descriptions(self) -> Annotated[tuple[str, ...], "the GPUs, or the CPU"]:
        gpus = [device.description for device in self.devices if device.is_gpu]
        return tuple(gpus or [device.description for device in self.devices])


@dataclass(frozen=True)
class Benchmark:
    """What was measured, on what. Ratios are to the first model."""

    models: tuple[ModelSpeed, ...]
    hardware: Annotated[Machine, INLINE]
    versions: dict[str, str]


def benchmark(
    paths: Sequence[Path],
    *,
    n_prompt: int = 512,
    n_gen: int = 128,
    n_repeat: int = 5,
    compute: Compute | None = None,
    wanted: Wanted | None = None,
    seed: int = 1,
    progress: Progress = SILENT,
) -> Benchmark:
    """Measure pp{n_prompt} and tg{n_gen} of all models, taking turns; 0 leaves a test out.

    With `wanted`, tg is repeated until those ratios are known so well, or a limit is reached.

    Raises LlamaError if llama.cpp cannot load or compute a model.
    """
    compute = compute or Compute()
    cases = [Case(*pair, 0, compute) for pair in ((n_prompt, 0), (0, n_gen)) if any(pair)]
    return benchmark_cases(
        paths, cases, n_repeat=n_repeat, wanted=wanted, seed=seed, progress=progress
    )


def benchmark_cases(
    paths: Sequence[Path],
    cases: Sequence[Case],
    *,
    n_repeat: int = 5,
    warmup: bool = True,
    wanted: Wanted | None = None,
    seed: int = 1,
    progress: Progress = SILENT,
) -> Benchmark:
    """Measure all cases of all models, n_repeat times each; without cases, describe the models.

    With `wanted`, cases that generate tokens alone are repeated more often if it takes that.
    Raises LlamaError if llama.cpp cannot load or compute a model.
    """
    turns = Turns(len(cases) * len(paths), int(warmup), n_repeat, progress, wanted)
    least = "at least " if wanted is not None else ""
    progress.begin(f"models: {len(paths)}, tests: {len(cases)}, repetitions: {least}{n_repeat}")
    by_load = itertools.groupby(cases, lambda case: case.compute.n_gpu_layers)
    groups = [list(group) for _, group in by_load] or [[]]
    loads = [_measure(paths, group, seed, turns) for group in groups]
    first: tuple[Speed, ...] | None = None
    models = []
    for parts in zip(*loads, strict=True):  # of one model
        speeds = tuple(speed for part in parts for speed in part.speeds)
        models.append(replace(parts[0], tests=compared(speeds, first)))
        first = first or speeds
    return Benchmark(tuple(models), machine_now(), versions())


def compared(speeds: Sequence[Speed], base: Sequence[Speed] | None) -> tuple[Compared, ...]:
    """`base` are the same tests of the first model, None where these are its."""
    if base is None:
        return tuple(Compared(speed) for speed in speeds)
    return tuple(
        Compared(speed, paired_ratio(speed.samples_tok_per_s, other.samples_tok_per_s))
        for speed, other in zip(speeds, base, strict=True)
    )


def _measure(
    paths: Sequence[Path], cases: Sequence[Case], seed: int, turns: Turns
) -> list[ModelSpeed]:
    """Cases that differ in nothing but the context, so that the models are loaded once."""
    compute = cases[0].compute if cases else Compute()
    with contextlib.ExitStack() as stack:
        runners = [stack.enter_context(Runner(path, compute, seed)) for path in paths]
        rows = [_take_turns(runners, case, turns) for case in cases]
        return [
            ModelSpeed(
                path=str(path), description=runner.model.description,
                size_bytes=runner.model.size_bytes, n_param=runner.model.n_param,
                tests=compared([row[i] for row in rows], None),
            )
            for i, (path, runner) in enumerate(zip(paths, runners, strict=True))
        ]  # fmt: skip


def machine_now() -> Machine:
    return Machine(backend_names(), devices(), default_threads(), build_commit())


def _take_turns(runners: Sequence[Runner], case: Case, turns: Turns) -> list[Speed]:
    """One speed for each model."""
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for runner in runners:
        runner.open(case)
    warm_ups = [runner.warm_up for runner in runners]
    runs = [runner.time_ns for runner in runners]
    samples = turns.take(warm_ups, runs)
    if not case.n_prompt:
        turns.take_more(runs, samples)
    speeds = [
        Speed(case=case, test_time=began, samples_ns=tuple(times), caches=runner.buffers.caches)
        for runner, times in zip(runners, samples, strict=True)
    ]
    for runner in runners:
        runner.close()
    return speeds


class Turns:
    """Models that take turns run by run; what is done is counted for whoever is told."""

    def __init__(
        self,
        n_setting: int,
        n_warmup: int,
        n_run: int,
        progress: Progress,
        wanted: Wanted | None = None,
    ) -> None:
        self.n_warmup, self.n_run, self.progress = n_warmup, n_run, progress
        self.wanted, self.began = wanted, time.monotonic()
        self.done, self.total = 0, n_setting * (n_warmup + n_run)

    def take(
        self, warm_ups: Sequence[Callable[[], object]], runs: Sequence[Callable[[], T]]
    ) -> list[list[T]]:
        """What every model's run returns, `n_run` times, after as many warm-ups as there are."""
        returned: list[list[T]] = [[] for _ in runs]
        self.began = time.monotonic()
        for i in range(self.n_warmup + self.n_run):
            for warm_up, run, own in zip(warm_ups, runs, returned, strict=True):
                if i < self.n_warmup:
                    warm_up()
                else:
                    own.append(run())
                self.done += 1
                self.progress.step(self.done, self.total)
        return returned

    def take_more(self, runs: Sequence[Callable[[], int]], samples: Sequence[list[int]]) -> None:
        """Add repetitions to `samples`, until ratios are known as well as is wanted."""
        wanted = self.wanted
        if wanted is None:
            return
        progress, n_most = self.progress.part("repeat"), wanted.n_most
        while not wanted.is_reached(samples) and len(samples[0]) < n_most:
            if time.monotonic() - self.began > wanted.most_s:
                break
            for run, own in zip(runs, samples, strict=True):
                own.append(run())
            progress.step(len(samples[0]), n_most)
        if len(samples[0]) > self.n_run:
            progress.step(n_most, n_most)


def _stdev(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
