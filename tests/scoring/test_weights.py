from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import dequantize

from ggprune.errors import DataError
from ggprune.metrics.estimates import Float64
from ggprune.model.gguf import Tensor
from ggprune.model.model import Model, open_model
from ggprune.scoring import weights
from ggprune.scoring.weights import is_matrix, magnitudes
from tests.gguf_files import FakeTensor, build, kv_str, kv_u32, llama_kvs
from tests.helpers import Steps

F64 = 28
MATRIX = np.array([[1, -2, 3], [-4, 5, -6]], np.float32)  # |.| sums to 21
NO_MATRICES = (
    "attn_q_norm.weight", "ssm_conv1d.weight", "shortconv.conv.weight", "ssm_a",
    "attn_rel_b.weight", "time_mix_first.weight", "time_mix_lerp_fused.weight",
)  # fmt: skip


def matrix(name: str, values: object = MATRIX) -> FakeTensor:
    """`values` in numpy's order; a file states the row length first."""
    array = np.asarray(values, np.float32)
    return FakeTensor(name, array.tobytes(), array.shape[::-1])


def model_of(folder: Path, n_layer: int, tensors: Sequence[FakeTensor]) -> Model:
    path = folder / "model.gguf"
    path.write_bytes(build(llama_kvs(n_layer), tensors))
    return open_model(path)


def magnitude_of(tensor: Tensor) -> float:
    """What the gguf package and numpy say."""
    raw = np.fromfile(tensor.path, np.uint8, tensor.size_bytes, offset=tensor.offset)
    values = dequantize(raw, GGMLQuantizationType(tensor.type.id))
    return float(np.abs(values, dtype=np.float64).sum())


def expected(model: Model) -> Float64:
    return np.array([sum(magnitude_of(t) for t in x if len(t.shape) == 2) for x in model.layers])


def test_magnitudes_are_the_summed_absolute_weights(tiny: Model, tiny_q4: Model) -> None:
    assert np.allclose(magnitudes(tiny), expected(tiny), rtol=1e-12)
    assert np.allclose(magnitudes(tiny_q4), expected(tiny_q4), rtol=1e-6)


def test_a_dead_layers_zeros_add_nothing(tiny: Model, dead: Model) -> None:
    zeroed = [tiny.by_name[f"blk.4.{part}.weight"] for part in ("attn_output", "ffn_down")]
    lost = magnitudes(tiny) - magnitudes(dead)
    assert np.allclose(lost[4], sum(magnitude_of(tensor) for tensor in zeroed))
    assert not np.delete(lost, 4).any()


def test_twice_the_weights_are_twice_the_magnitude(tmp_path: Path) -> None:
    scaled = [matrix(f"blk.{i}.ffn_up.weight", i * MATRIX) for i in range(3)]
    assert magnitudes(model_of(tmp_path, 3, scaled)).tolist() == [0, 21, 42]


def test_only_matrices_of_layers_count(tmp_path: Path) -> None:
    tensors = [
        matrix("token_embd.weight"),
        matrix("output.weight"),
        matrix("blk.0.attn_norm.weight", [7, 7, 7]),
        matrix("blk.0.attn_q.bias", [7, 7, 7]),
        *(matrix(f"blk.0.{name}") for name in NO_MATRICES),
        matrix("blk.0.attn_q.weight"),
        matrix("blk.0.ffn_gate_inp.weight"),
        matrix("blk.0.shortconv.in_proj.weight"),
        matrix("blk.0.time_mix_decay_w1.weight"),
    ]
    model = model_of(tmp_path, 1, tensors)
    assert magnitudes(model).tolist() == [4 * 21]
    assert sum(is_matrix(tensor) for tensor in model.tensors) == 4


def test_all_experts_count(tmp_path: Path) -> None:
    tensors = [
        matrix("blk.0.ffn_up_exps.weight", [MATRIX, 2 * MATRIX]),
        matrix("blk.1.ffn_up.0.weight"),
        matrix("blk.1.ffn_up.1.weight", 2 * MATRIX),
    ]
    assert magnitudes(model_of(tmp_path, 2, tensors)).tolist() == [63, 63]


def test_scales_beside_a_matrix_are_part_of_it(tmp_path: Path) -> None:
    tensors = [
        matrix("blk.0.ffn_up.weight"),
        matrix("blk.0.ffn_up.scale", [-0.5]),
        matrix("blk.1.ffn_up_exps.weight", [MATRIX, MATRIX]),
        matrix("blk.1.ffn_up_exps.scale", [2, 10]),
        matrix("blk.2.ffn_up.weight"),
        matrix("blk.2.ffn_up.input_scale", [9]),
        matrix("blk.3.ffn_gate_inp.weight"),
        matrix("blk.3.ffn_gate_inp.scale", [9, 9, 9]),  # of the inputs
    ]
    model = model_of(tmp_path, 4, tensors)
    assert magnitudes(model).tolist() == [10.5, 12 * 21, 21, 21]


def test_a_scale_that_fits_nothing_is_refused(tmp_path: Path) -> None:
    tensors = [matrix("blk.0.ffn_up.weight"), matrix("blk.0.ffn_up.scale", [1, 1])]
    with pytest.raises(DataError, match=r"blk.0.ffn_up.scale has 2 values of F32, expected 1 or 1"):
        magnitudes(model_of(tmp_path, 1, tensors))


def test_blocks_behind_the_trunk_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "mtp.gguf"
    tensors = [matrix(f"blk.{i}.ffn_up.weight") for i in range(3)]
    path.write_bytes(build([*llama_kvs(3), kv_u32("llama.nextn_predict_layers", 1)], tensors))
    assert magnitudes(open_model(path)).tolist() == [21, 21]


def test_a_decoder_comes_behind_the_encoder(tmp_path: Path) -> None:
    path = tmp_path / "t5.gguf"
    names = ("dec.blk.0", "dec.blk.1", "enc.blk.0")
    tensors = [matrix(f"{x}.ffn_up.weight", (i + 1) * MATRIX) for i, x in enumerate(names)]
    kvs = [kv_str("general.architecture", "t5"), kv_u32("t5.block_count", 1)]
    path.write_bytes(build([*kvs, kv_u32("t5.decoder_block_count", 2)], tensors))
    assert magnitudes(open_model(path)).tolist() == [63, 21, 42]


def test_how_the_work_is_cut_does_not_matter(
    tiny_q4: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = magnitudes(tiny_q4, n_threads=1)
    assert np.array_equal(magnitudes(tiny_q4, n_threads=4), whole)
    monkeypatch.setattr(weights, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(weights, "STEP_VALUES", 2048)
    assert np.allclose(magnitudes(tiny_q4), whole, rtol=1e-12)


def test_progress_ends_with_all_bytes(tiny: Model) -> None:
    listener = Steps()
    magnitudes(tiny, progress=listener)
    seen = listener.seen
    total = sum(t.size_bytes for layer in tiny.layers for t in layer if is_matrix(t))
    assert seen == sorted(seen)
    assert seen[-1] == (total, total)


def test_a_file_that_has_become_shorter_is_an_error(tmp_path: Path) -> None:
    model = model_of(tmp_path, 1, [matrix("blk.0.ffn_up.weight")])
    os.truncate(model.path, model.tensors[0].offset + 8)
    with pytest.raises(DataError, match=r"ffn_up.weight cannot be read: the file has become"):
        magnitudes(model)
    model.path.unlink()
    with pytest.raises(DataError, match=r"blk.0.ffn_up.weight cannot be read: No such file"):
        magnitudes(model)


def test_weights_that_are_no_numbers_are_an_error(tmp_path: Path) -> None:
    model = model_of(tmp_path, 1, [matrix("blk.0.ffn_up.weight", [[1, np.nan]])])
    with pytest.raises(DataError, match=r"blk.0.ffn_up.weight has weights that are not finite"):
        magnitudes(model)


def test_a_type_that_cannot_be_converted_is_an_error(tmp_path: Path) -> None:
    odd = FakeTensor("blk.0.ffn_up.weight", bytes(32), (2, 2), F64)
    with pytest.raises(DataError, match=r"ffn_up.weight: ggml cannot convert F64 to floats"):
        magnitudes(model_of(tmp_path, 1, [odd]))
