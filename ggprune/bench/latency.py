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
from typing import Annotated

import numpy as np

from ggprune.bench.ratio import Ratio, paired_ratio
from ggprune.bench.speed import Machine, Turns, machine_now
from ggprune.errors import UsageError
from ggprune.files.keys import INLINE, LEFT_OUT, Key, written
from ggprune.progress import SILENT, Progress
from ggprune.runtime.compute import Compute
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.session import LlamaModel, Session
from ggprune.runtime.threadpool import Threadpool

MAX_SEQ = 256  # LLAMA_MAX_SEQ, src/llama-cparams.h


@dataclass(frozen=True, kw_only=True)
class Requests:
    """What is measured; every combination of `n_seq` and `n_output`."""

    n_input: Annotated[int, "tokens that are read"] = 12
    n_seq: Annotated[tuple[int, ...], LEFT_OUT] = (1,)
    n_output: Annotated[tuple[int, ...], LEFT_OUT] = (128,)
    n_warmup: Annotated[int, "runs that do not count"] = 10
    n_run: int = 20

    def pairs(self) -> tuple[tuple[int, int], ...]:
        """(n_seq, n_output) each. Raises UsageError if llama.cpp cannot decode so many at once."""
        if max(self.n_seq) > MAX_SEQ:
            raise UsageError(f"{max(self.n_seq)} sequences at once: llama.cpp has {MAX_SEQ}")
        return tuple(itertools.product(self.n_seq, self.n_output))


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Runs of one setting on one model."""

    n_seq: Annotated[int, "sequences in one batch"]
    n_input: int
    n_output: int
    samples_s: tuple[float, ...]
    ratio: Annotated[Ratio | None, "times the throughput of the first model; null for itself"] = (
        None
    )

    @property
    @written("latency_s", before="samples_s")
    def mean(self) -> float:
        return float(np.mean(self.samples_s))

    @property
    @written("stddev_s", before="samples_s")
    def stdev(self) -> float:
        return float(np.std(self.samples_s, ddof=1)) if len(self.samples_s) > 1 else 0.0

    @property
    @written(before="samples_s")
    def tok_per_s(self) -> Annotated[float, "output tokens of all sequences"]:
        return self.n_seq * self.n_output / self.mean

    @property
    @written(before="samples_s")
    def token_s(self) -> Annotated[float, "in which every sequence gets one token"]:
        return self.mean / self.n_output


@dataclass(frozen=True)
class ModelLatency:
    """All settings of one model."""

    path: Annotated[str, Key(name="model_filename")]
    description: Annotated[str, Key(name="model_type")]
    latencies: Annotated[tuple[Latency, ...], Key(name="latency")]


@dataclass(frozen=True)
class LatencyReport:
    """What was measured, on what. Ratios are to the first model."""

    requests: Requests
    models: tuple[ModelLatency, ...]
    hardware: Annotated[Machine, INLINE]
    versions: dict[str, str]


def measure_latency(
    paths: Sequence[Path],
    requests: Requests,
    *,
    compute: Compute | None = None,
    seed: int = 1,
    progress: Progress = SILENT,
) -> LatencyReport:
    """Measure all settings of all models, which take turns run by run.

    Raises LlamaError if llama.cpp cannot load or compute a model.
    """
    compute, pairs = compute or Compute(), requests.pairs()
    latencies: list[list[Latency]] = [[] for _ in paths]
    turns = Turns(len(pairs) * len(paths), requests.n_warmup, requests.n_run, progress)
    with contextlib.ExitStack() as stack:
        models = [stack.enter_context(LlamaModel(path, compute)) for path in paths]
        for n_seq, n_output in pairs:
            setting = (requests.n_input, n_seq, n_output)
            with contextlib.ExitStack() as contexts:
                batches = (Batch(model, setting, compute, seed) for model in models)
                runs = [contexts.enter_context(contextlib.closing(batch)).run for batch in batches]
                samples = turns.take(runs, runs)
            for own, times in zip(latencies, samples, strict=True):
                ratio = paired_ratio(samples[0], times) if own is not latencies[0] else None
                own.append(
                    Latency(
                        n_seq=n_seq, n_input=requests.n_input, n_output=n_output,
                        samples_s=tuple(times), ratio=ratio,
                    )
                )  # fmt: skip
        measured = tuple(
            ModelLatency(str(path), model.description, tuple(own))
            for path, model, own in zip(paths, models, latencies, strict=True)
        )
    return LatencyReport(requests, measured, machine_now(), versions())


class Batch:
    """A context for sequences that are answered together; close it when done."""

    def __init__(
        self, model: LlamaModel, setting: tuple[int, int, int], compute: Compute, seed: int
    ) -> None:
        """setting: n_input, n_seq, n_output."""
        self.model = model
        self.n_input, self.n_seq, self.n_output = n_input, n_seq, n_output = setting
        whole = replace(compute, n_batch=max(compute.n_batch, n_seq * n_input))
        self.session = Session(model, n_input + n_output, n_seq=n_seq, compute=whole)
        self.threads = Threadpool(self.session, compute.n_threads or default_threads())
        self.rng = np.random.default_rng(seed)

    def close(self) -> None:
        self.session.close()
        self.threads.close()

    def run(self) -> float:
        """Seconds until all sequences have their output."""
        n_token = self.n_input + self.n_output - 1  # the last output is not read again
        tokens = self.rng.integers(0, self.model.n_vocab, (self.n_seq, n_token), dtype=np.int32)
        if self.model.bos is not None:
            tokens[:, 0] = self.model.bos
        self.session.clear(erase=False)
        ends = range(self.n_input, n_token + 1)
        start = time.perf_counter()
        for position, end in itertools.pairwise([0, *ends]):
            self.session.decode(tokens[:, position:end], position)
            self.session.synchronize()
        return time.perf_counter() - start
