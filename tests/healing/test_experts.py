"""Routed experts: each from its own tokens, none without enough of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ggprune.healing.experts import ExpertRows, fit_experts
from ggprune.healing.matrix import store
from ggprune.metrics.estimates import Float32
from ggprune.model.types import tensor_type
from tests.arch.families import FAMILIES
from tests.healing import test_architectures as architectures
from tests.helpers import logits_of, random_tokens

F32 = tensor_type("F32")
N_IN, N_OUT, N_EXPERT = 16, 8, 3


def rows_of(made: Float32, experts: Float32, seed: int) -> ExpertRows:
    """One expert a token, whose products lack `made` times what enters it."""
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(len(experts), N_IN)).astype(np.float32)
    gates = rng.uniform(0.2, 1, (len(experts), 1)).astype(np.float32)
    target = rng.normal(size=(len(experts), N_OUT)).astype(np.float32)
    changes = made.reshape(N_EXPERT, N_OUT, N_IN)[experts[:, 0].astype(int)]
    residual = gates * np.einsum("toi,ti->to", changes, inputs)
    return ExpertRows(inputs, gates, experts, residual.astype(np.float32), target)


def test_every_expert_gets_what_its_tokens_lack() -> None:
    rng = np.random.default_rng(0)
    made = rng.normal(size=(N_EXPERT * N_OUT, N_IN)).astype(np.float32)
    old = store(rng.normal(size=made.shape).astype(np.float32), F32, np.ones(N_IN, np.float32))
    experts = rng.integers(0, 2, (600, 1)).astype(np.float32)  # none for the last expert
    experts[:5] = 2  # or too few

    def read(aside: bool) -> Iterator[ExpertRows]:
        yield rows_of(made, experts, seed=int(aside))

    new, ridges = fit_experts(old, N_EXPERT, F32, 1e-9, read)
    fitted, starved = slice(0, 2 * N_OUT), slice(2 * N_OUT, None)
    assert np.allclose(new.matrix[fitted], (old.matrix + made)[fitted], atol=1e-3)
    assert np.array_equal(new.matrix[starved], old.matrix[starved])
    assert len(ridges) == 2
    size = len(old.raw) // N_EXPERT
    assert np.array_equal(new.raw[2 * size :], old.raw[2 * size :])


def test_a_residual_is_shared_out_by_the_square_of_the_gates() -> None:
    gates = np.array([[3.0], [4.0]], np.float32)  # two experts of one token
    rows = ExpertRows(
        np.arange(2 * N_IN, dtype=np.float32).reshape(2, N_IN), gates,
        np.array([[1.0, 0.0]], np.float32), np.full((1, N_OUT), 50, np.float32),
        np.ones((1, N_OUT), np.float32),
    )  # fmt: skip
    total = 0.0
    for expert, gate in ((1, 3.0), (0, 4.0)):
        inputs, wanted, weights = rows.of(expert)
        assert wanted == pytest.approx(50 * gate / 25)
        assert weights == pytest.approx(gate**2)
        assert inputs[0, 0] == (0 if expert == 1 else N_IN)
        total += gate * float(wanted[0, 0])
    assert total == pytest.approx(50)
    assert len(rows.of(2)[0]) == 0


@pytest.mark.parametrize("name", ["qwen3moe", "gpt-oss", "deepseek"])
def test_experts_of_a_model_come_nearer(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In llama.cpp; gpt-oss has biases, deepseek shared experts as well."""
    monkeypatch.setattr(architectures, "N_CHUNK", 40)
    monkeypatch.setattr(architectures, "N_STAGE", 1)
    case = next(family for family in FAMILIES if family.name == name)
    model = case.make(tmp_path)
    drop = architectures.drop_of(case, model)
    outcome = architectures.heal_randomly(model, drop, tmp_path)
    assert "ffn_down_exps" in outcome.fits
    assert any("exps" in item.tensor for item in outcome.refitted)
    best = min(item.error / item.error_before for item in outcome.refitted)
    assert best < 0.2
    path = architectures.write_healed(model, drop, outcome.refitted, tmp_path)
    n_vocab = len(model.fields.texts("tokenizer.ggml.tokens"))
    tokens = random_tokens(n_vocab, architectures.N_CTX * 40)[:, :64]
    written = logits_of(path, tokens, 32)[:-1]
    assert np.array_equal(written, outcome.logits)
