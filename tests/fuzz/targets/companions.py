"""What belongs to a model: importance matrices, LoRA adapters, control vectors; and `remap`."""

from __future__ import annotations

from random import Random

import numpy as np

from ggprune.model.cut import Cut
from ggprune.model.imatrix import read_imatrix
from ggprune.scoring.activations import activation_statistics
from ggprune.surgery.plan import PrunePlan
from ggprune.surgery.remap import remap
from tests.fuzz.case import Case, EscapeError
from tests.fuzz.hostile import INTEGERS
from tests.fuzz.mutate_bytes import mutate_bytes
from tests.fuzz.mutate_gguf import GGUFMutator
from tests.fuzz.seeds import companions, dat, dat_counts, llama
from tests.fuzz.targets.shared import open_parts

KEYS = (
    "imatrix.datasets", "imatrix.chunk_count", "imatrix.chunk_size", "general.architecture",
    "general.type", "adapter.type", "controlvector.layer_count", "controlvector.model_hint",
    "general.alignment", "llama.block_count", "split.count",
)  # fmt: skip
TENSORS = (
    "blk.{i}.ffn_up.weight.in_sum2", "blk.{i}.ffn_up.weight.counts", "direction.{i}",
    "blk.{i}.attn_q.weight.in_sum2", "blk.{i}.attn_q.weight.counts", "enc.blk.{i}.x.lora_a",
)  # fmt: skip
PLAN = PrunePlan(
    fingerprint="f" * 64, arch="llama", n_layer=6, cut=Cut.of((1, 4)), stacks=(("", 6),),
    out_arch="llama",
)  # fmt: skip
PLAN_T5 = PrunePlan(
    fingerprint="f" * 64, arch="t5", n_layer=6, cut=Cut.of((1, 4)),
    stacks=(("enc.", 3), ("dec.", 3)), out_arch="t5",
)  # fmt: skip


class CompanionTarget:
    """Read as an importance matrix, then carried over to a pruned model."""

    def __init__(self) -> None:
        self.mutator = GGUFMutator(companions(), KEYS, ("llama", "t5", "controlvector"), TENSORS)
        self.model = open_parts(llama(6))

    def make(self, rng: Random) -> bytes:
        if rng.random() < 0.7:
            return self.mutator.make(rng)
        raw = bytearray(dat(rng.choice((1, 2, 6))))
        places = dat_counts(bytes(raw))
        for _ in range(rng.choice((1, 1, 2, 3))):
            at = rng.choice(places)
            raw[at : at + 4] = (rng.choice(INTEGERS) % 2**32).to_bytes(4, "little")
        return mutate_bytes(bytes(raw), rng) if rng.random() < 0.3 else bytes(raw)

    def run(self, data: bytes, case: Case) -> None:
        path, out = case.write("companion", data), case.folder / "out"
        imatrix = case.attempt("read_imatrix", lambda: read_imatrix(path))
        if imatrix is not None:
            held = [*imatrix.entries.values(), *imatrix.counts.values()]
            if not all(np.isfinite(values).all() and (values >= 0).all() for values in held):
                raise EscapeError("NaN, infinity or less than 0 in an importance matrix")
            if imatrix.n_chunk < 0:
                raise EscapeError("less than 0 chunks in an importance matrix")
            case.attempt("statistics", lambda: activation_statistics(imatrix, self.model))
        plan = case.rng.choice((PLAN, PLAN, PLAN, PLAN_T5))
        if case.attempt("remap", lambda: remap(plan, path, out)) is not None:
            case.files.add(out)
