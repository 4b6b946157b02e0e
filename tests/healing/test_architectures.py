"""On random-weight models of every architecture: healed and exact, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.arch import architecture_of, check_scored, removal_change
from ggprune.errors import ArchitectureError
from ggprune.healing.heal import Patient, Workplace, open_walk
from ggprune.healing.result import HealOptions, Left, Refitted
from ggprune.healing.walk import stages_of
from ggprune.metrics.chunks import Chunks
from ggprune.model import Model
from ggprune.model.gguf import Tensor
from ggprune.model.names import rename_block
from ggprune.model.types import tensor_type
from ggprune.pipeline import Job, write
from ggprune.runtime.session import Logits
from ggprune.surgery import make_plan
from ggprune.surgery.contents import Replacement
from tests.arch.exactness import ROUNDING
from tests.arch.families import FAMILIES, Family
from tests.helpers import ONE_GRAPH, logits_of, random_tokens

N_CTX, N_CHUNK = 64, 12
OPTIONS = HealOptions(n_ctx=N_CTX, ridge=0.1, compute=ONE_GRAPH)
Healed = tuple[list[Refitted], list[Left], Logits]


def heal_randomly(model: Model, drop: tuple[int, ...], folder: Path) -> Healed:
    """Heal on random tokens; also the logits of the first chunk's last tokens, in memory."""
    n_vocab = len(model.value("tokenizer.ggml.tokens", list))
    tokens = random_tokens(n_vocab, N_CTX * N_CHUNK).reshape(N_CHUNK, N_CTX)
    keep = tuple(n for n in range(model.n_layer) if n not in drop)
    patch = folder / "patch"
    patch.touch()
    fitted: list[Refitted] = []
    left: list[Left] = []
    place = Workplace(folder / "out.gguf", patch)
    with open_walk(Patient(model, keep), lambda _: Chunks(tokens), OPTIONS, place) as walk:
        stages = stages_of(keep, walk.base.arch.n_trunk, shared=True)[:3]
        walk.start_base(stages[0])
        walk.start_pruned(stages[0], drop)
        for stage in stages:
            done, without = walk.fit(stage, is_last=stage == stages[-1])
            fitted += done
            left += without
        chunk = walk.chunks[0]
        logits = walk.pruned.logits(chunk, drop).copy()
    return fitted, left, logits


def write_healed(model: Model, drop: tuple[int, ...], fitted: list[Refitted], folder: Path) -> Path:
    tensors = {
        rename_block(item.tensor, item.layer): Tensor(
            name=item.tensor, type=tensor_type(item.type), shape=item.shape, path=folder / "patch",
            offset=item.offset, size_bytes=tensor_type(item.type).size_bytes(item.shape),
        )
        for item in fitted
    }  # fmt: skip
    out = folder / "healed.gguf"
    job = Job(model=model, plan=make_plan(model, drop), out=out, check_load=False,
              replaced=Replacement(tensors, {}))  # fmt: skip
    write(job)
    return out


@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)
def test_healed_or_refused(case: Family, tmp_path: Path) -> None:
    model = case.make(tmp_path)
    drops = [d for d in case.all_sets(model) if d and min(d) > 0]
    try:
        check_scored(architecture_of(model))
        drop = next(iter(drops), (3,))
        make_plan(model, drop)
    except ArchitectureError:
        pytest.skip("layers of it are not removed, or not scored")
    try:
        fitted, left, logits = heal_randomly(model, drop, tmp_path)
    except ArchitectureError as e:
        assert "\n" not in str(e)
        pytest.skip(str(e))
    assert fitted or left
    assert all(item.error < item.error_before for item in fitted)
    assert all(item.reason for item in left)
    out = write_healed(model, drop, fitted, tmp_path)
    tokens = random_tokens(len(model.value("tokenizer.ggml.tokens", list)), N_CTX * N_CHUNK)
    written = logits_of(out, tokens[:, :N_CTX], N_CTX // 2)[:-1]
    kept = [n for n in range(model.n_layer) if n not in drop]
    if "rounding" in " ".join(removal_change(model, kept).notes):
        assert np.abs(written - logits).max() < ROUNDING * written.std()
    else:
        assert np.array_equal(written, logits)
