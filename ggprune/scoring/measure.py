"""Measures what a model loses without sets of layers, chunk by chunk.

A chunk is computed once as it is; every set then costs only what lies behind its first layer. In
memory are one chunk's residual stream and logits, and the per-token numbers of all that is done.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggprune.ablation.ablator import Ablator, Stream
from ggprune.ablation.units import Unit, parts_of
from ggprune.arch import Architecture, architecture_of, check_scored
from ggprune.metrics.chunks import make_chunks, n_scored
from ggprune.metrics.estimates import Float64
from ggprune.metrics.logits import BaseLogits, base_logits, compare
from ggprune.metrics.similarity import angular_distances, influences, relative_magnitudes
from ggprune.metrics.text import Text
from ggprune.model import Model
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.session import Compute, LlamaModel, Session, Tokens
from ggprune.scoring.cache import ScoreCache

Layers = tuple[int, ...]


@dataclass(frozen=True)
class BaseRows:
    """The whole model on one chunk: per token, and between its parts (layers, or modules)."""

    nll: Float64  # (n_token,) nats
    bi: Float64  # (n_part, n_token) 1 - cos(input, output)
    magnitude: Float64  # (n_part, n_token) |output - input| / |output|
    angular: Float64  # (n_part + 1, n_part + 1) mean over the tokens, 0..1


@dataclass(frozen=True)
class Rows:
    """The model without some layers on one chunk, beside the whole model; all (n_token,)."""

    kld: Float64  # KL(base || without), nats
    nll: Float64
    delta_p: Float64  # change of the probability of the token that came
    same_top: NDArray[np.bool_]


@dataclass
class Effort:
    """What measuring took."""

    n_pass: int = 0  # through the model, or what was left of it
    n_cached: int = 0  # not computed again
    work: float = 0.0  # passes weighted by the share of graph nodes computed
    decode_s: float = 0.0
    callback_s: float = 0.0  # of it: in our callback, which leaves nodes out and reads the stream
    statistics_s: float = 0.0


@dataclass
class _Chunk:
    """What is kept of the chunk that was computed last."""

    number: int
    base: BaseLogits
    streams: dict[Layers, Stream] = field(default_factory=dict)


class Measurer:
    """A loaded model and a text in chunks. Use as a context manager."""

    def __init__(
        self,
        model: Model,
        text: Text,
        *,
        n_ctx: int = 512,
        n_chunk: int | None = None,
        compute: Compute | None = None,
        unit: Unit = Unit.LAYER,
        cache: Path | None = None,
        share_prefix: bool = True,
    ) -> None:
        """`unit` is what is left out of a layer. `cache` is a folder for finished measurements.

        Raises ArchitectureError if layers of this model cannot be left out exactly, DataError if
        the text is too short, LlamaError if llama.cpp cannot load or compute the model.
        """
        self.arch: Architecture = architecture_of(model)
        check_scored(self.arch)
        self.model, self.n_ctx, self.unit, self.effort = model, n_ctx, unit, Effort()
        self._compute = compute or Compute()
        self._loaded = LlamaModel(model.path, compute)
        self.chunks = make_chunks(text, self._loaded.tokenize, n_ctx, n_chunk).tokens
        whole = Compute(**{**vars(self._compute), "n_batch": n_ctx, "n_ubatch": n_ctx})
        self._session = Session(self._loaded, n_ctx, compute=whole, tapped=True)
        self.parts = parts_of(self.arch, unit, self._session, self.chunks[0], self._n_output)
        self._ablator = Ablator(self._session, self.parts.places, share_prefix=share_prefix)
        self._chunk: _Chunk | None = None
        self._base_nll: dict[int, Float64] = {}
        self._cache = ScoreCache(cache, self._settings(text)) if cache is not None else None

    def __enter__(self) -> Measurer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._cache is not None:
            self._cache.close()
        self._session.close()
        self._loaded.close()

    @property
    def n_chunk(self) -> int:
        return len(self.chunks)

    @property
    def layers(self) -> tuple[int, ...]:
        """The layers that have the unit and can be left out in memory."""
        named = (n for n, part in self.parts.number.items() if self.parts.places[part][0])
        return tuple(named)

    def base(self, i: int) -> BaseRows:
        """The whole model on chunk `i`."""
        found = self._cache.get(i, "base") if self._cache is not None else None
        if found is not None:
            self.effort.n_cached += 1
            return BaseRows(**found)
        return self._compute_base(i)

    def base_nll(self, i: int) -> Float64:
        """Of the whole model's scored tokens, (n_token,) nats; kept once it is known."""
        if i not in self._base_nll:
            self._base_nll[i] = self.base(i).nll
        return self._base_nll[i]

    def measure(self, i: int, sets: Sequence[Layers], within: Layers = ()) -> list[Rows]:
        """Chunk `i` without each of the sets, which all contain the layers `within`."""
        return [self._measure_one(i, tuple(sorted(drop)), within) for drop in sets]

    def _measure_one(self, i: int, drop: Layers, within: Layers) -> Rows:
        name = ",".join(map(str, drop))
        found = self._cache.get(i, name) if self._cache is not None else None
        if found is not None:
            self.effort.n_cached += 1
            return Rows(**found)
        chunk = self._ready(i)
        stream = self._stream(chunk, within)
        tokens, n_output = self.chunks[i], self._n_output
        parts = self._parts(drop)
        more = tuple(n for n in parts if n not in stream.drop)
        start = time.perf_counter()
        if more:
            logits = self._ablator.without(tokens, n_output, more, stream)
            self.effort.work += self._ablator.share_computed(parts, min(more))
        else:
            logits, _ = self._ablator.record(tokens, n_output, parts)
            self.effort.work += 1
        middle = time.perf_counter()
        result = compare(chunk.base, logits[: self._n_token], self._targets(i), self._n_threads)
        rows = Rows(
            result.kld,
            result.scores.nll,
            result.scores.p - chunk.base.scores.p,
            result.same_top,
        )
        self._count(start, middle)
        if self._cache is not None:
            self._cache.put(i, name, vars(rows))
        return rows

    def _compute_base(self, i: int) -> BaseRows:
        self._chunk = None  # two at once would be too much memory
        start = time.perf_counter()
        logits, stream = self._ablator.record(self.chunks[i], self._n_output)
        middle = time.perf_counter()
        base = base_logits(logits[: self._n_token], self._targets(i), self._n_threads)
        self._chunk = _Chunk(i, base, {(): stream})
        scored = self._scored_stream(stream)
        rows = BaseRows(
            base.scores.nll,
            influences(scored),
            relative_magnitudes(scored),
            angular_distances(scored),
        )
        self._base_nll[i] = rows.nll
        self.effort.work += 1
        self._count(start, middle)
        if self._cache is not None:
            self._cache.put(i, "base", vars(rows))
        return rows

    def _ready(self, i: int) -> _Chunk:
        if self._chunk is None or self._chunk.number != i:
            self._compute_base(i)
        assert self._chunk is not None
        return self._chunk

    def _stream(self, chunk: _Chunk, within: Layers) -> Stream:
        """The residual stream without the layers `within`; two are kept."""
        key = tuple(sorted(within))
        if key not in chunk.streams:
            start = time.perf_counter()
            chunk.streams = {(): chunk.streams[()]}
            tokens, parts = self.chunks[chunk.number], self._parts(key)
            _, chunk.streams[key] = self._ablator.record(tokens, self._n_output, parts)
            self.effort.work += 1
            self._count(start, time.perf_counter())
        return chunk.streams[key]

    def _parts(self, layers: Layers) -> tuple[int, ...]:
        return tuple(self.parts.number[n] for n in layers)

    def _scored_stream(self, stream: Stream) -> list[NDArray[np.float32]]:
        """At all places; not-a-number where the graph has no name for one."""
        known = [None if tokens is None else self._scored(tokens) for tokens in stream.tokens]
        shape = next(tokens.shape for tokens in reversed(known) if tokens is not None)
        return [np.full(shape, np.nan, np.float32) if x is None else x for x in known]

    def _scored(self, tokens: NDArray[np.float32]) -> NDArray[np.float32]:
        """The scored tokens of a stream, which behind the last layer may hold only the last."""
        return tokens[len(tokens) - self._n_output :][: self._n_token]

    def _count(self, start: float, middle: float) -> None:
        self.effort.n_pass += 1
        self.effort.decode_s += middle - start
        self.effort.callback_s = self._session.callback_s
        self.effort.statistics_s += time.perf_counter() - middle

    def _targets(self, i: int) -> Tokens:
        targets: Tokens = self.chunks[i][self.n_ctx // 2 + 1 :]
        return targets

    @property
    def _n_output(self) -> int:
        return self.n_ctx - self.n_ctx // 2

    @property
    def _n_token(self) -> int:
        return n_scored(self.n_ctx)

    @property
    def _n_threads(self) -> int:
        return self._compute.n_threads or default_threads()

    def _settings(self, text: Text) -> dict[str, object]:
        return {
            "fingerprint": self.model.fingerprint,
            "text": text.sha256,
            "n_ctx": self.n_ctx,
            "unit": self.unit.value,
            "flash_attn": self._compute.flash_attn,
            "n_gpu_layers": self._compute.n_gpu_layers,
            "versions": versions(),
        }
