"""Latency and throughput of whole requests, as the layer-pruning papers report them.

M sequences at once, each of a few input tokens, L output tokens for each: the setting of Shortened
LLaMA (Kim et al., 2024). Reading the input yields the first output token, L - 1 steps the others;
each step decodes one token of all sequences in one batch. Tokens are random: no sampling.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ggprune.bench.ratio import Ratio, paired_ratio
from ggprune.bench.speed import Machine, Progress, Steps, machine_now
from ggprune.errors import UsageError
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.session import Compute, LlamaModel, Session
from ggprune.runtime.threadpool import Threadpool

MAX_SEQ = 256  # LLAMA_MAX_SEQ, src/llama-cparams.h


@dataclass(frozen=True)
class Requests:
    """What is measured; every combination of `n_seq` and `n_output`."""

    n_input: int = 12
    n_seq: tuple[int, ...] = (1,)
    n_output: tuple[int, ...] = (128,)
    n_warmup: int = 10
    n_run: int = 20

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(n_seq, n_output) each. Raises UsageError if llama.cpp cannot decode so many at once."""
        if max(self.n_seq) > MAX_SEQ:
            raise UsageError(f"{max(self.n_seq)} sequences at once: llama.cpp has {MAX_SEQ}")
        return tuple(itertools.product(self.n_seq, self.n_output))


@dataclass(frozen=True)
class Latency:
    """Runs of one setting on one model."""

    n_seq: int
    n_input: int
    n_output: int
    samples_s: tuple[float, ...]

    @property
    def mean(self) -> float:
        return float(np.mean(self.samples_s))

    @property
    def stdev(self) -> float:
        return float(np.std(self.samples_s, ddof=1)) if len(self.samples_s) > 1 else 0.0

    @property
    def tok_per_s(self) -> float:
        """Output tokens of all sequences per second."""
        return self.n_seq * self.n_output / self.mean

    @property
    def token_s(self) -> float:
        """Time in which every sequence gets one token."""
        return self.mean / self.n_output

    def to_json(self) -> dict[str, Any]:
        return {
            "n_seq": self.n_seq,
            "n_input": self.n_input,
            "n_output": self.n_output,
            "latency_s": self.mean,
            "stddev_s": self.stdev,
            "tok_per_s": self.tok_per_s,
            "token_s": self.token_s,
            "samples_s": list(self.samples_s),
        }


@dataclass(frozen=True)
class ModelLatency:
    """All settings of one model."""

    path: str
    description: str
    latencies: tuple[Latency, ...]

    def ratios(self, base: ModelLatency) -> tuple[Ratio, ...]:
        """How many times the throughput of `base`, by run."""
        return tuple(
            paired_ratio(theirs.samples_s, ours.samples_s)
            for ours, theirs in zip(self.latencies, base.latencies, strict=True)
        )


@dataclass(frozen=True)
class LatencyReport:
    """What was measured, on what. Ratios are to the first model."""

    requests: Requests
    models: tuple[ModelLatency, ...]
    hardware: Machine
    versions: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        base = self.models[0]
        models = [
            {
                "model_filename": model.path,
                "model_type": model.description,
                "latency": [
                    {**latency.to_json(), "ratio": None if model is base else ratio.to_json()}
                    for latency, ratio in zip(model.latencies, model.ratios(base), strict=True)
                ],
            }
            for model in self.models
        ]
        asked = self.requests
        return {
            "requests": {
                "n_input": asked.n_input, "n_warmup": asked.n_warmup, "n_run": asked.n_run,
            },
            "models": models,
            **self.hardware.to_json(),
            "versions": self.versions,
        }  # fmt: skip


def measure_latency(
    paths: Sequence[Path],
    requests: Requests,
    *,
    compute: Compute | None = None,
    seed: int = 1,
    progress: Progress | None = None,
) -> LatencyReport:
    """Measure all settings of all models, which take turns run by run.

    Raises LlamaError if llama.cpp cannot load or compute a model.
    """
    compute, pairs = compute or Compute(), requests.pairs()
    found: list[list[Latency]] = [[] for _ in paths]
    steps = Steps(len(pairs) * len(paths) * (requests.n_warmup + requests.n_run), progress)
    with contextlib.ExitStack() as stack:
        models = [stack.enter_context(LlamaModel(path, compute)) for path in paths]
        for n_seq, n_output in pairs:
            samples = _take_turns(models, requests, (n_seq, n_output), compute, seed, steps)
            for own, times in zip(found, samples, strict=True):
                own.append(Latency(n_seq, requests.n_input, n_output, tuple(times)))
        about = [(str(path), m.description) for path, m in zip(paths, models, strict=True)]
    result = [ModelLatency(*facts, tuple(own)) for facts, own in zip(about, found, strict=True)]
    return LatencyReport(requests, tuple(result), machine_now(), versions())


def _take_turns(
    models: Sequence[LlamaModel],
    requests: Requests,
    pair: tuple[int, int],
    compute: Compute,
    seed: int,
    steps: Steps,
) -> list[list[float]]:
    """Seconds of every run that counts, for each model."""
    samples: list[list[float]] = [[] for _ in models]
    with contextlib.ExitStack() as stack:
        batches = [
            stack.enter_context(Batch(model, requests.n_input, *pair, compute, seed))
            for model in models
        ]
        for run in range(requests.n_warmup + requests.n_run):
            for batch, times in zip(batches, samples, strict=True):
                time_s = batch.run()
                if run >= requests.n_warmup:
                    times.append(time_s)
                steps.step()
    return samples


class Batch:
    """A context for sequences that are answered together. Use as a context manager."""

    def __init__(
        self,
        model: LlamaModel,
        n_input: int,
        n_seq: int,
        n_output: int,
        compute: Compute,
        seed: int,
    ) -> None:
        self.model, self.n_input, self.n_seq, self.n_output = model, n_input, n_seq, n_output
        whole = replace(compute, n_batch=max(compute.n_batch, n_seq * n_input))
        self.session = Session(model, n_input + n_output, n_seq=n_seq, compute=whole)
        self.threads = Threadpool(self.session, compute.n_threads or default_threads())
        self.rng = np.random.default_rng(seed)
        self.n_decoded = 0  # tokens of all sequences in the last run

    def __enter__(self) -> Batch:
        return self

    def __exit__(self, *_: object) -> None:
        self.session.close()
        self.threads.close()

    def run(self) -> float:
        """Seconds until all sequences have their output."""
        n_token = self.n_input + self.n_output - 1  # the last output is not read again
        tokens = self.rng.integers(0, self.model.n_vocab, (self.n_seq, n_token), dtype=np.int32)
        if self.model.bos is not None:
            tokens[:, 0] = self.model.bos
        self.session.clear(erase=False)
        self.n_decoded = 0
        start = time.perf_counter()
        self._decode(tokens[:, : self.n_input], 0)
        for position in range(self.n_input, n_token):
            self._decode(tokens[:, position : position + 1], position)
        return time.perf_counter() - start

    def _decode(self, tokens: Any, position: int) -> None:
        self.session.decode_together(tokens, position)
        self.session.synchronize()
        self.n_decoded += tokens.size
