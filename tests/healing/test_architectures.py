"""On random-weight models of every architecture: healed and exact, or refused in one line.

`python -m tests.healing.test_architectures` writes down which matrices are fitted, for the test and
for docs/architectures.md.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ggprune.arch.architecture import architecture_of, check_scored
from ggprune.arch.legal import removal_change
from ggprune.errors import ArchitectureError
from ggprune.healing.heal import Patient, Workplace, open_walk
from ggprune.healing.result import HealOptions, Refitted
from ggprune.healing.sites import Site
from ggprune.healing.walk import Stage, Walk, stages_of
from ggprune.metrics.chunks import Chunks
from ggprune.model.cut import Cut
from ggprune.model.gguf import Tensor
from ggprune.model.model import Model
from ggprune.model.newlayer import whole
from ggprune.model.types import tensor_type
from ggprune.pipeline.job import Job, write
from ggprune.runtime.session import Logits
from ggprune.surgery.contents import Replacement
from ggprune.surgery.plan import make_plan
from tests.arch.exactness import ROUNDING
from tests.arch.families import FAMILIES, Family
from tests.helpers import ONE_GRAPH, logits_of, random_tokens

SITES = Path(__file__).with_name("sites.json")
N_CTX, N_CHUNK, N_STAGE = 64, 12, 3
OPTIONS = HealOptions(n_ctx=N_CTX, ridge=0.1, compute=ONE_GRAPH)
NOTHING_CUT = "nothing has been cut in front of it"


@dataclass(frozen=True)
class Outcome:
    """What became of a model. `fits` are matrices without their layers, `leaves` with reasons."""

    fits: list[str]
    leaves: dict[str, str]
    refitted: list[Refitted]
    logits: Logits  # in memory, of the first chunk's scored tokens


def heal_randomly(model: Model, drop: tuple[int, ...], folder: Path) -> Outcome:
    """Heal on random tokens. Raises ArchitectureError as healing does."""
    n_vocab = len(model.fields.texts("tokenizer.ggml.tokens"))
    tokens = random_tokens(n_vocab, N_CTX * N_CHUNK).reshape(N_CHUNK, N_CTX)
    keep = Cut.of(drop).remaining(model.n_layer)
    patch = folder / "patch"
    patch.touch()
    place = Workplace(folder / "out.gguf", patch)
    with open_walk(Patient(model, keep), lambda _: Chunks(tokens), OPTIONS, place) as walk:
        stages = stages_of(keep, walk.base.arch.n_trunk, shared=True)
        fits, leaves = found(walk, stages)
        refitted: list[Refitted] = []
        walk.start_base(stages[0])
        walk.start_pruned(stages[0], drop)
        for stage in stages[:N_STAGE]:
            done, left = walk.fit(stage, is_last=stage == stages[-1])
            assert all(item.reason for item in left)
            refitted += done
        logits = walk.pruned.logits(walk.chunks[0], drop).copy()
    return Outcome(fits, leaves, refitted, logits)


def found(walk: Walk, stages: tuple[Stage, ...]) -> tuple[list[str], dict[str, str]]:
    """Which matrices of the layers can be fitted, and why the others cannot."""
    fits: set[str] = set()
    leaves: dict[str, str] = {}
    for stage in stages:
        _, left = walk.sites(stage)
        for site in walk.everything(stage):
            is_behind_norm = isinstance(site, Site) and site.norm is not None
            fits.add(role(site.tensor) + " (norm)" * is_behind_norm)
        leaves |= {role(item.tensor): general(item.reason) for item in left
                   if item.reason != NOTHING_CUT}  # fmt: skip
    return sorted(fits), dict(sorted(leaves.items()))


def role(tensor: str) -> str:
    return tensor.split(".", 2)[2].removesuffix(".weight")


def general(reason: str) -> str:
    """Without the layer's number."""
    words = reason.split(" ")
    return " ".join([*words[:-1], role(words[-1])]) if words[-1].startswith("blk.") else reason


def drop_of(case: Family, model: Model) -> tuple[int, ...]:
    """Layers behind the first. Raises ArchitectureError if none can be removed and scored."""
    check_scored(architecture_of(model))
    drop = next((d for d in case.all_sets(model) if d and min(d) > 0), (3,))
    make_plan(model, drop)
    return drop


@pytest.mark.parametrize("case", FAMILIES, ids=lambda case: case.name)
def test_healed_or_refused(case: Family, tmp_path: Path) -> None:
    model, known = case.make(tmp_path), json.loads(SITES.read_text()).get(case.name)
    try:
        drop = drop_of(case, model)
    except ArchitectureError:
        assert known is None
        return
    if "refused" in known:
        with pytest.raises(ArchitectureError) as error:
            heal_randomly(model, drop, tmp_path)
        assert str(error.value) == known["refused"]
        return
    outcome = heal_randomly(model, drop, tmp_path)
    assert {"fits": outcome.fits, "leaves": outcome.leaves} == known
    assert all(item.error < item.error_before for item in outcome.refitted)
    path = write_healed(model, drop, outcome.refitted, tmp_path)
    tokens = random_tokens(len(model.fields.texts("tokenizer.ggml.tokens")), N_CTX * N_CHUNK)
    written = logits_of(path, tokens[:, :N_CTX], N_CTX // 2)[:-1]
    kept = [n for n in range(model.n_layer) if n not in drop]
    if "rounding" in " ".join(removal_change(model, whole(*kept)).notes):
        assert np.abs(written - outcome.logits).max() < ROUNDING * written.std()
    else:
        assert np.array_equal(written, outcome.logits)


def write_healed(
    model: Model, drop: tuple[int, ...], refitted: list[Refitted], folder: Path
) -> Path:
    tensors = {
        item.tensor: Tensor(
            name=item.tensor, type=tensor_type(item.type), shape=item.shape, path=folder / "patch",
            offset=item.offset, size_bytes=tensor_type(item.type).size_bytes(item.shape),
        )
        for item in refitted
    }  # fmt: skip
    job = Job(
        model=model, plan=make_plan(model, drop), out=folder / "healed.gguf", check_load=False,
        replaced=Replacement(tensors, {}),
    )  # fmt: skip
    write(job)
    return job.out


def record() -> None:
    """Write down what is fitted of every family that layers can be removed from."""
    outcomes: dict[str, object] = {}
    for case in FAMILIES:
        with tempfile.TemporaryDirectory() as folder:
            model = case.make(Path(folder))
            try:
                drop = drop_of(case, model)
            except ArchitectureError:
                continue
            try:
                outcome = heal_randomly(model, drop, Path(folder))
                outcomes[case.name] = {"fits": outcome.fits, "leaves": outcome.leaves}
            except ArchitectureError as e:
                outcomes[case.name] = {"refused": str(e)}
    SITES.write_text(json.dumps(outcomes, indent=1) + "\n")


if __name__ == "__main__":
    record()
