"""Is the file without some layers exactly what leaving them out in memory predicts?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np

from ggprune.ablation.experts import check_routers, expert_taps
from ggprune.ablation.graph import Graph
from ggprune.ablation.taps import ablation_taps, joined, traced
from ggprune.ablation.units import Halves, divided, find_middles
from ggprune.arch.architecture import architecture_of
from ggprune.arch.legal import legal_cut, legal_drop, nearest_legal
from ggprune.errors import ArchitectureError
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.runtime.nodes import Taps
from ggprune.runtime.session import LlamaModel, Logits, Session, Tokens
from ggprune.surgery.plan import make_plan
from tests.helpers import ONE_GRAPH, pruned_copy, random_tokens

N_TOKEN = 192  # longer than the sliding windows of all models
ROUNDING = 1e-3  # of the logits' standard deviation, as flash attention on or off makes

Verdict = Literal["exact", "rounded", "refused", "wrong"]


@dataclass(frozen=True)
class Outcome:
    """What became of one set. `difference` is the largest one, in standard deviations."""

    verdict: Verdict
    drop: Cut
    reason: str = ""
    difference: float = 0.0


def n_vocab_of(model: Model) -> int:
    return len(model.fields.texts("tokenizer.ggml.tokens"))


class Checker:
    """Checks sets of one model, which stays loaded."""

    def __init__(self, model: Model, folder: Path, n_token: int = N_TOKEN) -> None:
        self.model, self.folder, self.arch = model, folder, architecture_of(model)
        n_vocab = len(model.fields.texts("tokenizer.ggml.tokens"))
        self.tokens = random_tokens(n_vocab, n_token)
        self.loaded = Loaded(model.path, self.tokens)
        self.base = self.loaded.logits({}, {})

    def check(self, layers: Sequence[int]) -> Outcome:
        """Of whole layers."""
        return self.check_cut(Cut.of(layers))

    def check_cut(self, drop: Cut) -> Outcome:
        """Write the file without `drop` and compare; or see that it is refused as it must be."""
        if not legal_cut(self.model, drop):
            return Outcome("refused", drop, refusal(self.model, drop))
        predicted = self.predict(drop)
        written = pruned_copy(self.model, drop, self.folder / "out.gguf")
        actual = Loaded(written.path, self.tokens).logits({}, {})
        written.path.unlink()
        if np.array_equal(actual, self.base) and drop.layers[0] < self.arch.n_trunk:
            return Outcome("wrong", drop, "the layers make no difference: nothing is proved")
        difference = float(np.abs(predicted - actual).max() / actual.std())
        if np.array_equal(predicted, actual):
            return Outcome("exact", drop)
        notes = " ".join(make_plan(self.model, drop).notes)
        if "rounding" in notes and difference < ROUNDING:
            return Outcome("rounded", drop, difference=difference)
        return Outcome("wrong", drop, f"logits differ by {difference:.2g} sigma", difference)

    @cached_property
    def graph(self) -> Graph:
        """Of the unpruned model."""
        tokens = self.loaded.tokens[0]
        return traced(self.loaded.session, tokens, len(tokens) // 2)

    @cached_property
    def halves(self) -> Halves:
        """Where the graph divides its layers."""
        return divided(self.arch, find_middles(self.graph, self.arch.places))

    def predict(self, cut: Cut) -> Logits:
        """Logits with layers, halves of layers or experts left out in memory."""
        gone, cut = cut.tidy.experts, cut.without_experts
        gone = {n: experts for n, experts in gone.items() if n < self.arch.n_trunk}
        masks = expert_taps(gone)
        if gone:
            check_routers(self.graph, gone)
        if any(piece.unit is not Unit.LAYER for piece in cut):
            halves = self.halves
            taps = ablation_taps(halves.places, halves.parts(cut))
            return self.loaded.logits({}, joined(taps, masks))
        drop = cut.whole_layers
        if gone:
            return self.loaded.logits({}, joined(ablation_taps(self.arch.places, drop), masks))
        if len(self.model.stacks) == 1:
            return self.loaded.logits({}, ablation_taps(self.arch.places, drop))
        (_, n_encoder), (_, n_decoder) = self.model.stacks
        encoder = replace(self.arch, n_trunk=n_encoder)
        decoder = replace(self.arch, n_trunk=n_decoder)
        return self.loaded.logits(
            ablation_taps(encoder.places, [n for n in drop if n < n_encoder]),
            ablation_taps(decoder.places, [n - n_encoder for n in drop if n >= n_encoder]),
        )


class Loaded:
    """A loaded model that computes the same tokens again and again."""

    def __init__(self, path: Path, tokens: Tokens) -> None:
        self.model = LlamaModel(path, ONE_GRAPH)
        self.session = Session(self.model, tokens.shape[1], compute=ONE_GRAPH, tapped=True)
        self.tokens = tokens

    def logits(self, encoder: Taps, decoder: Taps) -> Logits:
        """Logits of the last half. An encoder, if there is one, reads the first half before."""
        half = self.tokens.shape[1] // 2
        tokens = self.tokens
        if self.model.has_encoder:
            self.session.tap(encoder)
            self.session.encode(tokens[:, :half])
            tokens = tokens[:, half:]
        self.session.tap(decoder)
        result: Logits = self.session.chunk_logits(tokens, half)[0].copy()
        return result


def refusal(model: Model, drop: Cut) -> str:
    """The rule that a refusal names. It must name its source and nearby sets that are legal."""
    try:
        make_plan(model, drop)
    except ArchitectureError as e:
        text = str(e)
    assert "not exact for" in text
    assert "llama.cpp src/models" in text
    assert all(legal_drop(model, near) for near in nearest_legal(model, drop.layers))
    return text.split("not exact for ")[1].split(" (llama.cpp", maxsplit=1)[0].split(": ", 1)[1]
