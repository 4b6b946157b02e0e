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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggprune.bench.cases import Case
from ggprune.bench.ratio import Ratio, paired_ratio
from ggprune.bench.runner import Runner
from ggprune.runtime.buffers import Cache
from ggprune.runtime.devices import Device, backend_names, build_commit, devices
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.session import Compute

Progress = Callable[[int, int], object]  # done, total


@dataclass(frozen=True)
class Speed:
    """Repetitions of one test on one model."""

    case: Case
    samples_ns: tuple[int, ...]
    test_time: str = ""  # UTC, when it began
    caches: tuple[Cache, ...] = ()

    @property
    def test(self) -> str:
        return self.case.name

    @property
    def samples_tok_per_s(self) -> tuple[float, ...]:
        return tuple(1e9 * self.case.n_token / ns for ns in self.samples_ns)

    @property
    def mean(self) -> float:
        return float(np.mean(self.samples_tok_per_s))

    @property
    def stdev(self) -> float:
        """Sample standard deviation, 0 for a single repetition (as llama-bench)."""
        return _stdev(self.samples_tok_per_s)

    @property
    def mean_ns(self) -> int:
        return sum(self.samples_ns) // len(self.samples_ns)

    @property
    def stdev_ns(self) -> int:
        return math.floor(_stdev(self.samples_ns))

    def to_json(self) -> dict[str, Any]:
        return {
            **self.case.to_json(),
            "test_time": self.test_time,
            "avg_ns": self.mean_ns,
            "stddev_ns": self.stdev_ns,
            "avg_ts": self.mean,
            "stddev_ts": self.stdev,
            "samples_ns": list(self.samples_ns),
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
        """The first test whose name starts with `pp` or `tg`."""
        return next((s for s in self.speeds if s.test.startswith(prefix)), None)

    def ratios(self, base: ModelSpeed) -> tuple[Ratio, ...]:
        """How much faster every test is than that of `base`, by repetition."""
        return tuple(
            paired_ratio(speed.samples_tok_per_s, other.samples_tok_per_s)
            for speed, other in zip(self.speeds, base.speeds, strict=True)
        )

    def to_json(self, base: ModelSpeed) -> dict[str, Any]:
        tests = [
            {**speed.to_json(), "ratio": None if self is base else ratio.to_json()}
            for speed, ratio in zip(self.speeds, self.ratios(base), strict=True)
        ]
        return {
            "model_filename": self.path,
            "model_type": self.description,
            "model_size": self.size_bytes,
            "model_n_params": self.n_param,
            "tests": tests,
        }


@dataclass(frozen=True)
class Machine:
    """What was measured on."""

    backends: str
    devices: tuple[Device, ...]
    n_threads: int  # by default
    build_commit: str

    @property
    def descriptions(self) -> tuple[str, ...]:
        """Names of the GPUs, or of the CPU where there are none."""
        gpus = [device.description for device in self.devices if device.is_gpu]
        return tuple(gpus or [device.description for device in self.devices])

    def to_json(self) -> dict[str, Any]:
        return {
            "backends": self.backends,
            "devices": list(self.descriptions),
            "device_memory": [device.to_json() for device in self.devices],
            "n_threads": self.n_threads,
            "build_commit": self.build_commit,
        }


@dataclass(frozen=True)
class Benchmark:
    """What was measured, on what. Ratios are to the first model."""

    models: tuple[ModelSpeed, ...]
    hardware: Machine
    versions: dict[str, str]

    @property
    def machine(self) -> dict[str, Any]:
        return self.hardware.to_json()

    def to_json(self) -> dict[str, Any]:
        models = [model.to_json(self.models[0]) for model in self.models]
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
    pairs = [pair for pair in ((n_prompt, 0), (0, n_gen)) if any(pair)]
    cases = [Case(*pair, 0, compute) for pair in pairs]
    return benchmark_cases(paths, cases, n_repeat=n_repeat, seed=seed, progress=progress)


def benchmark_cases(
    paths: Sequence[Path],
    cases: Sequence[Case],
    *,
    n_repeat: int = 5,
    warmup: bool = True,
    seed: int = 1,
    progress: Progress | None = None,
) -> Benchmark:
    """Measure all cases of all models, n_repeat times each; without cases, describe the models.

    Raises LlamaError if llama.cpp cannot load or compute a model.
    """
    steps = Steps(len(cases) * len(paths) * (n_repeat + warmup), progress)
    found: list[list[Speed]] = [[] for _ in paths]
    about: list[tuple[str, int, int]] = []
    by_load = itertools.groupby(cases, lambda case: case.compute.n_gpu_layers)
    groups = [list(group) for _, group in by_load]  # the rest only changes the context
    for same_load in groups or [[]]:
        compute = same_load[0].compute if same_load else Compute()
        with contextlib.ExitStack() as stack:
            runners = [stack.enter_context(Runner(path, compute, seed)) for path in paths]
            about = [(r.model.description, r.model.size_bytes, r.model.n_param) for r in runners]
            for case in same_load:
                measured = _take_turns(runners, case, n_repeat, warmup, steps)
                for speeds, speed in zip(found, measured, strict=True):
                    speeds.append(speed)
    models = [
        ModelSpeed(str(path), *facts, tuple(speeds))
        for path, facts, speeds in zip(paths, about, found, strict=True)
    ]
    return Benchmark(tuple(models), machine_now(), versions())


def machine_now() -> Machine:
    return Machine(backend_names(), devices(), default_threads(), build_commit())


def _take_turns(
    runners: Sequence[Runner], case: Case, n_repeat: int, warmup: bool, steps: Steps
) -> list[Speed]:
    """One speed for each model."""
    began = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    for runner in runners:
        runner.open(case)
    if warmup:
        for runner in runners:
            runner.warm_up()
            steps.step()
    samples: list[list[int]] = [[] for _ in runners]
    for _ in range(n_repeat):
        for runner, times in zip(runners, samples, strict=True):
            times.append(runner.time_ns())
            steps.step()
    speeds = [
        Speed(case, tuple(times), began, runner.buffers.caches)
        for runner, times in zip(runners, samples, strict=True)
    ]
    for runner in runners:
        runner.close()
    return speeds


class Steps:
    """Counts what is done, and says so."""

    def __init__(self, total: int, progress: Progress | None) -> None:
        self.done, self.total, self.progress = 0, total, progress

    def step(self) -> None:
        self.done += 1
        if self.progress is not None:
            self.progress(self.done, self.total)


def _stdev(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
