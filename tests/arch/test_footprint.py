from __future__ import annotations

import math
from pathlib import Path

from ggprune.arch.footprint import Footprints
from ggprune.model.model import Model, open_model
from tests.gguf_files import FakeTensor, build, kv_str, kv_u32
from tests.helpers import pruned_copy


def test_what_is_left_without_layers(tiny: Model, tmp_path: Path) -> None:
    footprints = Footprints(tiny)
    before, after = footprints.without(()), footprints.without((2, 5))
    pruned = pruned_copy(tiny, (2, 5), tmp_path / "pruned.gguf")
    assert before.size_bytes == tiny.size_bytes
    assert after.n_param == pruned.n_param
    assert abs(after.size_bytes - pruned.size_bytes) < 2000  # the header's change
    assert after.token_bytes == Footprints(pruned).without(()).token_bytes
    assert footprints.speedup((2, 5)) == before.token_bytes / after.token_bytes > 1.2


def tensor(name: str, *shape: int) -> FakeTensor:
    return FakeTensor(name, bytes(4 * math.prod(shape)), shape)


def test_a_token_reads_one_row_and_the_chosen_experts(tmp_path: Path) -> None:
    tensors = [
        tensor("token_embd.weight", 8, 100),
        tensor("output.weight", 8, 100),
        tensor("blk.0.attn_q.weight", 8, 8),
        tensor("blk.0.ffn_up_exps.weight", 8, 4, 16),
        tensor("blk.1.nextn.eh_proj.weight", 8, 8),
    ]
    kvs = [kv_str("general.architecture", "x"), kv_u32("x.block_count", 2),
           kv_u32("x.expert_count", 16), kv_u32("x.expert_used_count", 2)]  # fmt: skip
    path = tmp_path / "moe.gguf"
    path.write_bytes(build(kvs, tensors))
    model = open_model(path)
    experts = 4 * 8 * 4 * 16 * 2 // 16
    row, output, attention = 4 * 8, 4 * 800, 4 * 64
    whole = row + output + attention + experts
    assert Footprints(model, idle=(1,)).without(()).token_bytes == whole
    assert Footprints(model).without(()).token_bytes == whole + 4 * 64
    assert Footprints(model, idle=(1,)).without((1,)).token_bytes == whole
    path.write_bytes(build(kvs, [t for t in tensors if t.name != "output.weight"]))
    tied = Footprints(open_model(path), idle=(1,)).without(())
    assert tied.token_bytes == output + attention + experts
