from __future__ import annotations

import ctypes
import struct
from dataclasses import replace
from math import prod
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError, LlamaError, UsageError
from ggprune.model.imatrix import Imatrix, read_imatrix
from ggprune.model.model import Model, open_model
from ggprune.pipeline.job import Job, planned, write
from ggprune.quantize.options import FILE_TYPES, QuantizeOptions, parse_type
from ggprune.runtime.library import llama
from ggprune.surgery.plan import make_plan
from tests.conftest import TINY
from tests.gguf_files import FakeTensor, build, kv_array, kv_u32, text
from tests.helpers import pruned_copy


def tensor_bytes(path: Path) -> dict[str, bytes]:
    data, model = path.read_bytes(), open_model(path)
    return {t.name: data[t.offset : t.offset + t.size_bytes] for t in model.tensors}


def test_types_are_llama_cpps() -> None:
    lib = llama()
    for name, number in FILE_TYPES.items():
        if name in ("COPY", "Q3_K", "Q4_K", "Q5_K"):
            continue
        prefix = "LLAMA_FTYPE_ALL_" if name == "F32" else "LLAMA_FTYPE_MOSTLY_"
        assert getattr(lib, prefix + name) == number
    assert parse_type("q4_k_m") == "Q4_K_M"
    with pytest.raises(UsageError, match="'Q9_X' is not a quantization type: F32"):
        parse_type("Q9_X")


def test_pruning_equals_llama_cpps_own_where_that_is_right(tmp_path: Path, tiny: Model) -> None:
    """The oracle: llama_model_quantize with only_copy and prune_layers on a uniform model."""
    lib = llama()
    params = lib.llama_model_quantize_default_params()
    params.only_copy = True
    layers = (ctypes.c_int32 * 3)(2, 5, -1)
    params.prune_layers = ctypes.cast(layers, ctypes.POINTER(ctypes.c_int32))
    theirs = tmp_path / "theirs.gguf"
    status = lib.llama_model_quantize(str(TINY).encode(), str(theirs).encode(), params)
    assert status == 0
    ours = pruned_copy(tiny, (2, 5), tmp_path / "ours.gguf")
    assert tensor_bytes(ours.path) == tensor_bytes(theirs)


@pytest.mark.parametrize("name", ["Q4_K_M", "Q8_0", "Q3_K_S", "F32", "COPY"])
def test_sizes_are_announced_exactly(tmp_path: Path, tiny: Model, name: str) -> None:
    out = tmp_path / "out.gguf"
    whole = Job(model=tiny, out=out, quantize=QuantizeOptions(name))
    assert planned(whole).size_bytes == write(whole).size_bytes
    job = replace(whole, plan=make_plan(tiny, (3, 4)), force=True, check_load=False)
    assert planned(job).size_bytes == write(job).size_bytes == out.stat().st_size


def test_pruned_first_then_quantized(tmp_path: Path, tiny: Model) -> None:
    """The mixture of Q4_K_M follows the depth of the pruned model."""
    out, two_steps = tmp_path / "out.gguf", tmp_path / "two.gguf"
    job = Job(model=tiny, plan=make_plan(tiny, (3, 4)), out=out,
              quantize=QuantizeOptions("Q4_K_M"), check_load=False)  # fmt: skip
    write(job)
    copy = pruned_copy(tiny, (3, 4), tmp_path / "pruned.gguf")
    write(replace(job, model=copy, plan=None, out=two_steps))
    assert tensor_bytes(out) == tensor_bytes(two_steps)


def test_a_quantized_model_is_requantized_only_on_demand(tmp_path: Path, tiny_q4: Model) -> None:
    out = tmp_path / "out.gguf"
    job = Job(model=tiny_q4, out=out, quantize=QuantizeOptions("Q8_0"), check_load=False)
    with pytest.raises(LlamaError, match="--allow-requantize"):
        write(job)
    assert not out.exists()
    write(replace(job, quantize=QuantizeOptions("Q8_0", allow_requantize=True)))
    assert {t.type.name for t in open_model(out).layers[0]} >= {"Q8_0"}


def test_types_that_need_an_imatrix_say_so(tmp_path: Path, tiny: Model) -> None:
    with pytest.raises(LlamaError, match="--imatrix"):
        write(Job(model=tiny, out=tmp_path / "out.gguf", quantize=QuantizeOptions("IQ2_XXS")))


def matrices(model: Model) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    rng = np.random.default_rng(0)
    names = [t for t in model.tensors if len(t.shape) >= 2 and t.name.startswith("blk.")]
    sizes = {t.name: t.shape[0] * prod(t.shape[2:]) for t in names}  # of every expert
    return {name: rng.uniform(0.1, 2.0, n).astype(np.float32) for name, n in sizes.items()}


def legacy_imatrix(path: Path, model: Model, n_call: int = 4) -> Path:
    entries = matrices(model)
    data = struct.pack("<i", len(entries))
    for name, values in entries.items():
        data += struct.pack("<i", len(name)) + name.encode()
        data += struct.pack("<ii", n_call, len(values)) + (values * n_call).tobytes()
    path.write_bytes(data + struct.pack("<ii", 7, 4) + b"text")
    return path


def gguf_imatrix(path: Path, model: Model) -> Path:
    tensors = []
    for name, values in matrices(model).items():
        sums = (values * 8).tobytes()
        tensors.append(FakeTensor(f"{name}.in_sum2", sums, (len(values), 1)))
        tensors.append(FakeTensor(f"{name}.counts", struct.pack("<f", 8), (1, 1)))
    kvs = [
        kv_array("imatrix.datasets", 8, 1, text("text")),
        kv_u32("imatrix.chunk_count", 7),
        kv_u32("imatrix.chunk_size", 512),
    ]
    path.write_bytes(build(kvs, tensors))
    return path


def test_both_formats_of_an_imatrix_say_the_same(tmp_path: Path, tiny: Model) -> None:
    old = read_imatrix(legacy_imatrix(tmp_path / "i.dat", tiny))
    new = read_imatrix(gguf_imatrix(tmp_path / "i.gguf", tiny))
    assert (old.dataset, old.n_chunk) == (new.dataset, new.n_chunk) == ("text", 7)
    expected = matrices(tiny)
    for imatrix in (old, new):
        assert set(imatrix.entries) == set(expected)
        for name, values in expected.items():
            assert np.allclose(imatrix.entries[name], values, rtol=1e-6)


def test_the_imatrix_follows_the_layers(tmp_path: Path, tiny: Model) -> None:
    imatrix = read_imatrix(legacy_imatrix(tmp_path / "i.dat", tiny))
    out = tmp_path / "out.gguf"
    job = Job(model=tiny, plan=make_plan(tiny, (0, 1)), out=out,
              quantize=QuantizeOptions("IQ3_XXS"), imatrix=imatrix, check_load=False)  # fmt: skip
    announced = planned(job).size_bytes
    write(job)
    assert out.stat().st_size == announced
    result = open_model(out)
    assert result.metadata["quantize.imatrix.chunks_count"].decode() == 7
    copy = pruned_copy(tiny, (0, 1), tmp_path / "pruned.gguf")
    assert set(imatrix.renamed({"blk.2.ffn_up.weight": "a", "none": "b"}).entries) == {"a"}
    whole = Imatrix(path=imatrix.path, entries=_shifted(imatrix, 2), dataset="text", n_chunk=7)
    write(replace(job, model=copy, plan=None, out=tmp_path / "two.gguf", imatrix=whole))
    assert tensor_bytes(out) == tensor_bytes(tmp_path / "two.gguf")


def _shifted(imatrix: Imatrix, by: int) -> dict[str, np.ndarray[tuple[int], np.dtype[np.float32]]]:
    shifted = {}
    for name, values in imatrix.entries.items():
        _, layer, rest = name.split(".", 2)
        if int(layer) >= by:
            shifted[f"blk.{int(layer) - by}.{rest}"] = values
    return shifted


@pytest.mark.parametrize(
    "content",
    [b"", b"\1\0\0\0", b"GGUF", struct.pack("<i", -1), build([], [FakeTensor("x", bytes(32))])],
)
def test_what_is_no_imatrix_is_an_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "i.dat"
    path.write_bytes(content)
    with pytest.raises(DataError, match="not an importance matrix"):
        read_imatrix(path)
