"""What every layer is worth: the model without it, measured against the model with it.

One model load and no files: layers are left out in memory, which gives the very logits of the file
that would be written. Chunk by chunk: the whole model first, then once without each layer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ggprune.arch import Architecture, architecture_of, check_scored, legal_drop, n_trunk
from ggprune.errors import DataError, LlamaError
from ggprune.model import Model
from ggprune.runtime.library import default_threads, versions
from ggprune.runtime.session import Compute, LlamaModel, Session
from ggprune.runtime.taps import StreamRecorder, ablation_taps
from ggprune.scoring.metrics import (
    Comparison,
    Estimate,
    Float64,
    base_logits,
    compare,
    cosine,
    mean_estimate,
    ppl_estimate,
    share_estimate,
)
from ggprune.scoring.text import Text, Tokens, describe_text, make_chunks, n_scored

Progress = Callable[[int, int], object]  # done, total


@dataclass(frozen=True)
class LayerScore:
    """The model without one layer. Higher ppl, kld and bi, lower same_top_p: worth more."""

    layer: int
    ppl: Estimate
    kld: Estimate  # nats, KL(base || without the layer)
    same_top_p: Estimate
    bi: Estimate  # Block Influence, 1 - mean cos(x_l, x_{l+1}) (ShortGPT), of the whole model
    removable: bool = True  # can a file without this layer alone be written?


@dataclass(frozen=True)
class Ranking:
    """Scores of all layers of one model on one text, and all that is needed to repeat them."""

    model: dict[str, Any]
    calibration: dict[str, Any]
    base_ppl: Estimate
    layers: tuple[LayerScore, ...]
    versions: dict[str, str]

    @property
    def order(self) -> tuple[int, ...]:
        """Layers by KL divergence, least important first."""
        return tuple(s.layer for s in sorted(self.layers, key=lambda s: (s.kld.value, s.layer)))

    def to_json(self) -> dict[str, Any]:
        """The document of docs/formats.md."""
        return {
            "model": self.model,
            "calibration": self.calibration,
            "base": {"ppl": self.base_ppl.to_json()},
            "layers": [
                {
                    "layer": s.layer,
                    "ppl": s.ppl.to_json(),
                    "kld": s.kld.to_json(),
                    "same_top_p": s.same_top_p.to_json(),
                    "bi": s.bi.to_json(),
                    "removable": s.removable,
                }
                for s in self.layers
            ],
            "order": list(self.order),
            "versions": self.versions,
        }


def rank(
    model: Model,
    text: Text,
    *,
    n_ctx: int = 512,
    n_chunk: int | None = None,
    compute: Compute | None = None,
    progress: Progress | None = None,
) -> Ranking:
    """Score every layer of the model on the text.

    Raises ArchitectureError if layers of this model cannot be left out exactly, DataError if the
    text is too short, LlamaError if llama.cpp cannot load or compute the model.
    """
    arch = architecture_of(model)
    check_scored(arch)
    n_layer = arch.n_trunk
    with LlamaModel(model.path, compute) as loaded:
        chunks = make_chunks(text, loaded.tokenize, n_ctx, n_chunk)
        with _scoring_session(loaded, n_ctx, compute) as session:
            sweep = _Sweep(session, arch, _threads(compute))
            for i, chunk in enumerate(chunks):
                for n_pass in sweep.passes(chunk):
                    if progress is not None:
                        progress(i * (n_layer + 1) + n_pass, len(chunks) * (n_layer + 1))
    return Ranking(
        model=describe_model(model),
        calibration=describe_text(text, n_ctx, len(chunks)),
        base_ppl=ppl_estimate(np.concatenate(sweep.base_nll)),
        layers=tuple(
            replace(score, removable=legal_drop(model, (score.layer,))) for score in sweep.scores()
        ),
        versions=versions(),
    )


def describe_model(model: Model) -> dict[str, Any]:
    return {
        "path": str(model.path),
        "fingerprint": model.fingerprint,
        "arch": model.arch,
        "n_layer": model.n_layer,
        "size_bytes": model.size_bytes,
    }


def load_order(path: Path, model: Model) -> tuple[int, ...]:
    """The order of a finished ranking, least important first.

    Raises DataError if the file is not a ranking of this model.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        fingerprint, order = data["model"]["fingerprint"], data["order"]
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, TypeError, KeyError) as e:
        raise DataError(f"{path}: not a ranking made by ggprune rank") from e
    if fingerprint != model.fingerprint:
        raise DataError(f"{path}: ranks another model than {model.path}")
    if sorted(order) != list(range(n_trunk(model))):
        raise DataError(f"{path}: its order does not name every layer once")
    return tuple(order)


class _Sweep:
    """Everything measured so far, per token, so that errors can be computed at the end."""

    def __init__(self, session: Session, arch: Architecture, n_threads: int) -> None:
        self.session, self.n_threads, n_layer = session, n_threads, arch.n_trunk
        self.recorder = StreamRecorder(arch)
        self.ablations = [ablation_taps(arch, (layer,)) for layer in range(n_layer)]
        self.base_nll: list[Float64] = []
        self.similarity: list[list[Float64]] = [[] for _ in range(n_layer)]
        self.compared: list[list[Comparison]] = [[] for _ in range(n_layer)]

    def passes(self, chunk: Tokens) -> Iterator[int]:
        """Measure one chunk, (n_ctx,) tokens; yields the number of passes through the model."""
        n_ctx = len(chunk)
        n_token, targets = n_scored(n_ctx), chunk[n_ctx // 2 + 1 :]
        self.session.tap(self.recorder.taps)
        base = base_logits(self._logits(chunk)[:n_token], targets, self.n_threads)
        self.base_nll.append(base.scores.nll)
        self._add_similarities(n_ctx - n_ctx // 2, n_token)
        yield 1
        for layer, taps in enumerate(self.ablations):
            self.session.tap(taps)
            logits = self._logits(chunk)[:n_token]
            self.compared[layer].append(compare(base, logits, targets, self.n_threads))
            yield layer + 2

    def _logits(self, chunk: Tokens) -> Any:
        """Logits of the second half of the chunk, (n_ctx - n_ctx / 2, n_vocab)."""
        return self.session.chunk_logits(chunk[None, :], len(chunk) - len(chunk) // 2)[0]

    def _add_similarities(self, n_output: int, n_token: int) -> None:
        """Cosine between input and output of every layer, for the scored tokens.

        They are the first `n_token` of the last `n_output` tokens, which may be all that is left
        of the stream behind the last layer. Several streams per token count as one vector.
        """
        stream = [x for x in self.recorder.stream if x is not None]
        if len(stream) != len(self.similarity) + 1:
            silent = [n for n, x in enumerate(self.recorder.stream) if x is None]
            raise LlamaError(
                f"this build of llama.cpp gives the residual stream at {silent} other names: "
                "install the llama-cpp-python version that ggprune was tested with"
            )
        rows = [x[len(x) - n_output :][:n_token] for x in stream]
        for layer, values in enumerate(self.similarity):
            values.append(cosine(rows[layer], rows[layer + 1]))

    def scores(self) -> tuple[LayerScore, ...]:
        return tuple(
            LayerScore(
                layer=layer,
                ppl=ppl_estimate(np.concatenate([c.scores.nll for c in parts])),
                kld=mean_estimate(np.concatenate([c.kld for c in parts])),
                same_top_p=share_estimate(np.concatenate([c.same_top for c in parts])),
                bi=mean_estimate(1 - np.concatenate(self.similarity[layer])),
            )
            for layer, parts in enumerate(self.compared)
        )


def _scoring_session(model: LlamaModel, n_ctx: int, compute: Compute | None) -> Session:
    """One chunk is one graph, so that a row of the residual stream is a token of the chunk."""
    whole = Compute(**{**vars(compute or Compute()), "n_batch": n_ctx, "n_ubatch": n_ctx})
    return Session(model, n_ctx, compute=whole, tapped=True)


def _threads(compute: Compute | None) -> int:
    return (compute and compute.n_threads) or default_threads()
