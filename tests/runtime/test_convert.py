from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType
from gguf.quants import _type_traits, dequantize

from ggprune.errors import DataError, LlamaError
from ggprune.metrics.estimates import Float32
from ggprune.model.model import open_model
from ggprune.model.types import TENSOR_TYPES, TensorType, tensor_type
from ggprune.quantize.options import QuantizeOptions
from ggprune.quantize.quantizer import quantize
from ggprune.runtime import convert as module
from ggprune.runtime.convert import Dequantizer, TypeTraits, check_layout
from tests.conftest import TINY

NOT_CONVERTED = {"I8", "I16", "I32", "I64", "F64", "Q8_1", "Q8_K"}


def ours(kind: TensorType, raw: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> Float32:
    floats = np.empty(len(raw) // kind.block_bytes * kind.block_size, np.float32)
    Dequantizer(kind)(raw, floats)
    return floats


def theirs(kind: TensorType, raw: np.ndarray[tuple[int], np.dtype[np.uint8]]) -> Float32:
    values: Float32 = dequantize(raw, GGMLQuantizationType(kind.id)).ravel()
    return values


@pytest.mark.parametrize("name", sorted(t.name for t in _type_traits))
def test_any_bytes_become_what_the_gguf_package_makes_of_them(name: str) -> None:
    kind = tensor_type(name)
    raw = np.random.default_rng(0).integers(0, 256, 64 * kind.block_bytes, dtype=np.uint8)
    with np.errstate(all="ignore"):  # some scales are infinite or no numbers
        mine, expected = ours(kind, raw), theirs(kind, raw)
    finite = np.isfinite(expected)
    assert np.array_equal(np.isfinite(mine), finite)
    assert finite.mean() > 0.5
    blocks = np.abs(np.where(finite, expected, 0)).reshape(64, -1)
    rounding = np.repeat(blocks.max(axis=1), kind.block_size)[finite] * 1e-6
    assert np.all(np.abs(mine[finite].astype(np.float64) - expected[finite]) <= rounding)


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K_M", "Q6_K", "IQ4_XS", "BF16", "F32"])
def test_a_quantized_model_reads_as_the_gguf_package_reads_it(tmp_path: Path, name: str) -> None:
    path = tmp_path / "model.gguf"
    quantize(TINY, path, QuantizeOptions(name))
    tensors = open_model(path).layers[3]
    for tensor in tensors:
        raw = np.fromfile(path, np.uint8, tensor.size_bytes, offset=tensor.offset)
        expected = theirs(tensor.type, raw)
        assert np.allclose(ours(tensor.type, raw), expected, rtol=1e-6, atol=1e-7)
    assert tensor_type(re.sub("_M$", "", name)) in {tensor.type for tensor in tensors}


def test_a_block_made_by_hand() -> None:
    quants = np.arange(-16, 16, dtype=np.int8)
    raw = np.frombuffer(np.array([0.5], np.float16).tobytes() + quants.tobytes(), np.uint8)
    assert np.array_equal(ours(tensor_type("Q8_0"), raw), quants * 0.5)


def test_all_types_are_converted_but_those_no_file_has() -> None:
    refused = set()
    for kind in TENSOR_TYPES.values():
        try:
            Dequantizer(kind)
        except DataError:
            refused.add(kind.name)
    assert refused == NOT_CONVERTED


def test_types_llama_cpp_does_not_know_are_refused() -> None:
    with pytest.raises(DataError, match="ggml cannot convert Q9_X to floats"):
        Dequantizer(TensorType(1000, "Q9_X", 32, 18))
    with pytest.raises(LlamaError, match="stores 256 values of Q4_K in 144 bytes, expected 256"):
        Dequantizer(TensorType(12, "Q4_K", 256, 140))


def test_another_layout_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    check_layout()
    traits = module._traits

    def shifted(type_id: int) -> TypeTraits:
        changed = TypeTraits.from_buffer_copy(traits(type_id))
        changed.to_float = changed.from_float_ref
        return changed

    monkeypatch.setattr(module, "_traits", shifted)
    with pytest.raises(LlamaError, match="lays out its table of types differently"):
        check_layout.__wrapped__()
    monkeypatch.setattr(module, "_traits", lambda _: TypeTraits())
    with pytest.raises(LlamaError, match="lays out its table of types differently"):
        check_layout.__wrapped__()


def test_bytes_and_values_must_fit() -> None:
    with pytest.raises(ValueError, match=r"\(33,\) bytes for \(32,\) values of Q8_0"):
        Dequantizer(tensor_type("Q8_0"))(np.zeros(33, np.uint8), np.zeros(32, np.float32))
