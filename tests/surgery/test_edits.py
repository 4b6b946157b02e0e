"""Tensors that are more than copied: the bytes, whatever their type, and what verification sees."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import ArchitectureError, VerificationError
from ggprune.model.model import Model, open_model
from ggprune.surgery import edits
from ggprune.surgery.plan import make_plan
from tests.gguf_files import FakeTensor, build, kv_array, kv_str, kv_u32, layer_tensors
from tests.helpers import pruned_copy
from tests.surgery.proofs import prove

Q8_0_BYTES = 34  # of 32 elements
N_LAYER, N_VOCAB = 4, 50


def gemma4(path: Path, per_layer: FakeTensor, width: int) -> Model:
    """Four layers with embeddings per layer of `width` elements."""
    kvs = [
        kv_str("general.architecture", "gemma4"),
        kv_u32("gemma4.block_count", N_LAYER),
        kv_u32("gemma4.embedding_length_per_layer_input", width),
        kv_array("gemma4.attention.sliding_window_pattern", 7, N_LAYER, b"\1\0\1\0"),
    ]
    rows = np.arange(8 * N_LAYER * width, dtype="<f4").tobytes()
    projection = FakeTensor("per_layer_model_proj.weight", rows, (8, N_LAYER * width))
    path.write_bytes(build(kvs, [per_layer, projection, *layer_tensors(N_LAYER)]))
    return open_model(path)


def tensor_bytes(model: Model, name: str) -> bytes:
    tensor = model.by_name[name]
    return tensor.path.read_bytes()[tensor.offset : tensor.offset + tensor.size_bytes]


@pytest.mark.parametrize("block_bytes", [1, 1000, 4 << 20])
def test_slices_of_quantized_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    monkeypatch.setattr(edits, "BLOCK_BYTES", block_bytes)
    data = np.random.default_rng(1).integers(0, 256, (N_VOCAB, N_LAYER, 2 * Q8_0_BYTES), np.uint8)
    per_layer = FakeTensor(
        "per_layer_token_embd.weight", data.tobytes(), (64 * N_LAYER, N_VOCAB), 8
    )
    model = gemma4(tmp_path / "in.gguf", per_layer, 64)
    result = pruned_copy(model, (1,), tmp_path / "out.gguf")
    assert result.by_name["per_layer_token_embd.weight"].shape == (64 * 3, N_VOCAB)
    assert tensor_bytes(result, "per_layer_token_embd.weight") == data[:, [0, 2, 3]].tobytes()
    rows = np.arange(8 * N_LAYER * 64, dtype="<f4").reshape(N_LAYER, -1)
    assert tensor_bytes(result, "per_layer_model_proj.weight") == rows[[0, 2, 3]].tobytes()
    assert result.metadata["gemma4.block_count"].decode() == 3


def test_a_block_that_belongs_to_two_layers_is_refused(tmp_path: Path) -> None:
    data = bytes(N_VOCAB * 2 * Q8_0_BYTES)
    per_layer = FakeTensor("per_layer_token_embd.weight", data, (64, N_VOCAB), 8)
    model = gemma4(tmp_path / "in.gguf", per_layer, 16)
    with pytest.raises(ArchitectureError, match="whose blocks do not end with a layer's"):
        make_plan(model, (1,))


def test_verification_sees_damage_in_edited_tensors(tmp_path: Path) -> None:
    data = np.arange(N_VOCAB * N_LAYER * 8, dtype="<f4").tobytes()
    per_layer = FakeTensor("per_layer_token_embd.weight", data, (8 * N_LAYER, N_VOCAB))
    model = gemma4(tmp_path / "in.gguf", per_layer, 8)
    result = pruned_copy(model, (2,), tmp_path / "out.gguf")
    plan = make_plan(model, (2,))
    prove(model, plan, result.path)
    tensor, good = result.by_name["per_layer_token_embd.weight"], result.path.read_bytes()
    damaged = bytearray(good)
    damaged[tensor.offset + tensor.size_bytes - 1] ^= 1
    result.path.write_bytes(damaged)
    with pytest.raises(VerificationError, match="bytes of per_layer_token_embd"):
        prove(model, plan, result.path)


def test_weights_that_would_lose_precision_are_not_rescaled(tmp_path: Path) -> None:
    parts = ("attn_output.weight", "ffn_down.weight")
    for kind, size in ((0, 4), (1, 2)):
        tensors = [
            FakeTensor(f"blk.{i}.{part}", np.ones(32 * size, np.uint8).tobytes(), (32,), kind)
            for i in range(4)
            for part in parts
        ]
        kvs = [kv_str("general.architecture", "minicpm3"), kv_u32("minicpm3.block_count", 4)]
        path = tmp_path / f"{kind}.gguf"
        path.write_bytes(build(kvs, tensors))
        model = open_model(path)
        if kind:
            with pytest.raises(ArchitectureError, match="convert the model to F32 first"):
                make_plan(model, (1,))
            continue
        result = pruned_copy(model, (1,), tmp_path / "out.gguf")
        before = np.frombuffer(tensor_bytes(model, "blk.2.ffn_down.weight"), "<f4")
        after = np.frombuffer(tensor_bytes(result, "blk.1.ffn_down.weight"), "<f4")
        assert np.array_equal(after, (before * np.sqrt(3 / 4)).astype(np.float32))
