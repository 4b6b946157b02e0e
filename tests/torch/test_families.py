"""Five families with random weights: proved, trained, written as torch computes them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from ggprune.errors import ArchitectureError
from ggprune.metrics.estimates import Float32
from ggprune.model.model import Model
from ggprune.training.networks import Pair, logits_of, make_pair
from ggprune.training.options import PROOF_KLD, Task, TrainOptions
from ggprune.training.worker import trainable
from tests.helpers import logits_of as llama_logits
from tests.helpers import pruned_copy
from tests.torch.models import FAMILIES, N_LAYER, write_model
from tests.torch.tasks import DROP, KEEP, OPTIONS, carry_out, make_task, merged_file

FULL = replace(OPTIONS, lora=None, lr=3e-4)


@pytest.fixture(scope="module", params=list(FAMILIES))
def models(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[Model]:
    folder = tmp_path_factory.mktemp(request.param)
    base = write_model(request.param, folder / "base.gguf")
    return [base, pruned_copy(base, DROP, folder / "pruned.gguf")]


def pair_of(models: list[Model]) -> Pair:
    return make_pair(models[0], models[1], KEEP, N_LAYER, torch.float32, torch.device("cpu"))


def torch_logits(task: Task, models: list[Model], seed: int = 0) -> Float32:
    """Of the best weights of a finished run, on the row of the proof."""
    kept = torch.load(task.folder / f"finished-{seed}.pt", weights_only=False)
    network = trainable(pair_of(models), task.options, seed)
    named = dict(network.named_parameters())
    with np.load(task.rows) as rows, torch.no_grad():
        for name, values in kept["best"].items():
            named[name].copy_(values)
        tokens = torch.from_numpy(rows["proof"]).long()[None]
        logits: Float32 = logits_of(network, tokens)[0].numpy()
        return logits


@pytest.mark.parametrize("options", [OPTIONS, FULL], ids=["lora", "full"])
def test_written_file_is_what_torch_computes(
    models: list[Model], tmp_path: Path, options: TrainOptions
) -> None:
    base, pruned = models
    task = replace(make_task(base, pruned, tmp_path), options=options)
    trained = carry_out(task)
    assert trained.proof.original < 1e-6 and trained.proof.pruned < 1e-6 < PROOF_KLD
    first, best = trained.best.points[0], trained.best.best
    assert best.kld < first.kld and best.step > 0
    out = merged_file(trained, pruned, task, tmp_path / "out.gguf")
    with np.load(task.rows) as rows:
        tokens, before = rows["proof"][None], rows["pruned"]
    written, wanted = llama_logits(out, tokens, tokens.shape[1]), torch_logits(task, models)
    moved = np.abs(wanted - before).max()
    assert np.abs(written - wanted).max() < 0.05 * moved
    assert np.abs(written - wanted).std() < 2e-3 * wanted.std()


@pytest.mark.parametrize("options", [OPTIONS, FULL], ids=["lora", "full"])
def test_nothing_learned_leaves_every_byte(
    models: list[Model], tmp_path: Path, options: TrainOptions
) -> None:
    base, pruned = models
    task = make_task(base, pruned, tmp_path)
    trained = carry_out(replace(task, options=replace(options, lr=0.0)))
    out = merged_file(trained, pruned, task, tmp_path / "out.gguf")
    assert out.read_bytes() == pruned.path.read_bytes()


def test_only_trained_tensors_change(models: list[Model], tmp_path: Path) -> None:
    base, pruned = models
    trained = carry_out(make_task(base, pruned, tmp_path))
    names = {item.tensor for item in trained.changed}
    assert names == {
        t.name for t in pruned.tensors if t.name.startswith("blk.") and len(t.shape) == 2
    }


def test_student_shares_what_it_has_in_common(models: list[Model]) -> None:
    pair = pair_of(models)
    own = {id(values) for values in pair.teacher.parameters()}
    assert all(id(values) in own for values in pair.student.parameters())


def test_another_model_is_refused(tmp_path: Path) -> None:
    """Biases that llama.cpp adds and transformers does not know."""
    base = write_model("qwen2", tmp_path / "base.gguf")
    pruned = pruned_copy(base, DROP, tmp_path / "pruned.gguf")
    task = make_task(base, pruned, tmp_path / "work")
    with np.load(task.rows) as rows:
        other = dict(rows) | {"pruned": rows["pruned"][:, ::-1]}
    np.savez(task.rows, **other)
    with pytest.raises(ArchitectureError, match="transformers computes another qwen2"):
        carry_out(task)
