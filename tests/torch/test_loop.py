"""Losses by known answers; runs that are killed, shared, or go wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ggprune.errors import LlamaError
from ggprune.metrics.logits import base_logits
from ggprune.model.model import Model
from ggprune.pipeline.launch import carry_out as launched
from ggprune.progress import Progress
from ggprune.training.losses import cross_entropy, divergence, predictions, summed_loss
from ggprune.training.options import Loss, Task, Trained
from tests.helpers import pruned_copy
from tests.torch.models import write_model
from tests.torch.tasks import DROP, OPTIONS, carry_out, in_folder, make_task


@pytest.fixture(scope="module")
def task(tmp_path_factory: pytest.TempPathFactory) -> Task:
    folder = tmp_path_factory.mktemp("llama")
    base: Model = write_model("llama", folder / "base.gguf")
    return make_task(base, pruned_copy(base, DROP, folder / "pruned.gguf"), folder / "work")


def weights(task: Task) -> np.ndarray:
    return np.fromfile(task.out, np.float32)


def test_losses_are_those_of_llama_perplexity() -> None:
    rng = np.random.default_rng(0)
    base, other = rng.normal(size=(2, 9, 50)).astype(np.float32)
    tokens = rng.integers(0, 50, 9).astype(np.int32)
    known = base_logits(base[:-1], tokens[1:]).compare(other[:-1], tokens[1:])
    row, learned = torch.from_numpy(tokens).long()[None], torch.ones(1, 9, dtype=torch.bool)
    teacher, targets = predictions(torch.from_numpy(base)[None], row, learned)
    student, _ = predictions(torch.from_numpy(other)[None], row, learned)
    assert np.allclose(divergence(student, teacher), known.kld, atol=1e-5)
    assert np.allclose(cross_entropy(student, targets), known.scores.nll, atol=1e-5)
    sums = [float(summed_loss(loss, 0.5, student, teacher, targets)) for loss in Loss]
    kd, ce = known.kld.sum(), known.scores.nll.sum()
    assert np.allclose(sums, [kd, ce, kd + 0.5 * ce], rtol=1e-5)


def test_only_learned_tokens_count() -> None:
    logits, tokens = torch.randn(2, 6, 20), torch.randint(0, 20, (2, 6))
    learned = torch.zeros(2, 6, dtype=torch.bool)
    learned[0, 0] = learned[1, 4] = True  # nothing is in front of the first one
    own, targets = predictions(logits, tokens, learned)
    assert torch.equal(targets, tokens[1, 4:5])
    assert torch.allclose(own[0], torch.log_softmax(logits[1, 3], -1))


class KilledError(Exception):
    """Instead of a signal, in the middle of a run."""


class KilledAt(Progress):
    """Raises behind a step."""

    def __init__(self, n: int) -> None:
        self.n = n

    def step(self, done: int, total: int) -> None:
        if done == self.n:
            raise KilledError


@pytest.mark.parametrize("n", [1, 7, 40])  # evaluated, and so kept, is every second step
def test_a_killed_run_goes_on_bit_for_bit(task: Task, tmp_path: Path, n: int) -> None:
    task = replace(task, options=replace(OPTIONS, n_token=40 * 2 * 32))
    whole, parts = in_folder(task, tmp_path / "whole"), in_folder(task, tmp_path / "parts")
    trained = carry_out(whole)
    with pytest.raises(KilledError):
        carry_out(parts, KilledAt(n))
    again = carry_out(parts)
    assert np.array_equal(weights(whole), weights(parts))
    assert [strip(p) for p in trained.best.points] == [strip(p) for p in again.best.points]
    assert log_of(whole) == log_of(parts)


def strip(point: object) -> object:
    return replace(point, tok_per_s=None)  # type: ignore[type-var]


def log_of(task: Task) -> list[object]:
    assert task.log is not None
    lines = [json.loads(line) for line in task.log.read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "tok_per_s"} for line in lines]


def test_a_finished_seed_is_not_trained_again(task: Task, tmp_path: Path) -> None:
    two = in_folder(replace(task, options=replace(OPTIONS, n_seed=2)), tmp_path / "two")
    trained = carry_out(two)
    assert [run.seed for run in trained.runs] == [0, 1]
    assert trained.runs[0].points[-1].kld != trained.runs[1].points[-1].kld
    again = carry_out(two, KilledAt(1))  # no step is made
    assert again.runs == trained.runs


def test_two_processes_are_one_with_the_same_batch(task: Task, tmp_path: Path) -> None:
    one = in_folder(task, tmp_path / "one")
    two = in_folder(replace(task, options=replace(OPTIONS, n_process=2)), tmp_path / "two")
    alone: Trained = launched(one)
    shared: Trained = launched(two)
    a, b = weights(one), weights(two)
    assert np.abs(a - b).max() < 1e-4 * np.abs(a).max()
    losses = [[point.kld for point in t.best.points] for t in (alone, shared)]
    assert np.allclose(losses[0], losses[1], rtol=1e-4)


def test_an_explosion_names_the_step(task: Task, tmp_path: Path) -> None:
    options = replace(OPTIONS, lr=1e30, warmup=0.0, clip=1e30, n_token=64 * 32)
    with pytest.raises(LlamaError, match=r"step \d+: .*(not finite|smaller --lr)"):
        carry_out(in_folder(replace(task, options=options), tmp_path / "wild"))


@pytest.mark.parametrize("loss", list(Loss))
def test_every_loss_lowers_what_it_is_about(task: Task, tmp_path: Path, loss: Loss) -> None:
    options = replace(OPTIONS, loss=loss, n_token=30 * 2 * 32)
    points = carry_out(in_folder(replace(task, options=options), tmp_path)).best.points
    assert points[-1].loss is not None and points[1].loss is not None
    assert points[-1].loss < points[1].loss


def test_gradient_checkpointing_and_micro_batches_change_nothing(
    task: Task, tmp_path: Path
) -> None:
    plain = in_folder(task, tmp_path / "plain")
    carry_out(plain)
    for name, change in (("memory", {"checkpointing": True}), ("micro", {"micro_batch": 2})):
        other = in_folder(replace(task, options=replace(OPTIONS, **change)), tmp_path / name)
        carry_out(other)
        assert np.allclose(weights(plain), weights(other), atol=1e-5)
