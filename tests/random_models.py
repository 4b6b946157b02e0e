"""Random-weight models of any architecture, grown from a metadata-only GGUF by llama.cpp itself.

Weights depend on the seed and the tensor's name alone, so a tensor has the same values in any
model it is part of.
"""

from __future__ import annotations

import ctypes
import re
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggprune.model.gguf import read_gguf
from ggprune.model.metadata import Value, string
from ggprune.runtime.library import ggml, llama
from ggprune.runtime.nodes import TensorStruct, accessors, tensor_name
from tests.gguf_files import FakeTensor, build, kv

SIGMA = 0.1
SIDECAR = re.compile(r"(?<!ffn_gate_inp)\.(input_)?scale$")


class GGUFInitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def make_random_model(
    metadata: Path, out: Path, *, seed: int = 0, sidecars: bool = False,
    without: re.Pattern[str] | None = None,
) -> Path:  # fmt: skip
    """Write a model of the metadata's architecture and shape to `out`, with the metadata as it is.

    llama.cpp says which tensors it wants; it writes the file itself for few architectures only.
    With `sidecars`, the optional `.scale` tensors that NVFP4 files have are there too. Tensors that
    match `without`, which must be optional, are not.
    """
    lib, base = llama(), ggml()
    base.gguf_init_from_file.restype = ctypes.c_void_p
    base.gguf_init_from_file.argtypes = [ctypes.c_char_p, GGUFInitParams]
    base.gguf_free.argtypes = [ctypes.c_void_p]
    context = base.gguf_init_from_file(str(metadata).encode(), GGUFInitParams(True, None))
    assert context, f"{metadata} cannot be read"
    tensors: dict[str, FakeTensor] = {}

    def collect(pointer: int, _: Any) -> None:
        tensor = random_tensor(pointer, seed)
        if without is not None and without.match(tensor.name):
            return
        if sidecars or not SIDECAR.search(tensor.name):
            tensors[tensor.name] = tensor

    callback = lib.llama_model_set_tensor_data_t(collect)
    params = lib.llama_model_default_params()
    params.use_extra_bufts = False
    params.load_mtp = True
    model = lib.llama_model_init_from_user(context, callback, None, params)
    assert model, f"llama.cpp cannot build a model of {metadata}"
    lib.llama_model_free(model)
    base.gguf_free(context)
    file = read_gguf(metadata)
    kvs = [kv(key, value.type, bytes(value.raw)) for key, value in file.metadata.items()]
    out.write_bytes(build(kvs, list(tensors.values())))
    return out


def random_tensor(pointer: int, seed: int) -> FakeTensor:
    """Normal numbers of sigma 0.1; the state's decay rates are negative, index tables are zeros."""
    name, struct = tensor_name(pointer), TensorStruct.from_address(pointer)
    n_dim = max(i + 1 for i in range(4) if struct.ne[i] > 1 or i == 0)
    shape = tuple(int(n) for n in struct.ne[:n_dim])
    n = accessors().ggml_nbytes(pointer) // 4
    values = normal_numbers(seed, name, n)
    if b"ssm_a" in name:
        values = -np.abs(values) - np.float32(0.1)
    if struct.type != 0:
        values = np.zeros(n, np.float32)
    return FakeTensor(name.decode(), values.tobytes(), shape, int(struct.type))


@lru_cache(maxsize=2048)
def normal_numbers(seed: int, name: bytes, n: int) -> NDArray[np.float32]:
    """Kept: models that differ in their metadata alone have most tensors in common."""
    rng = np.random.default_rng([seed, zlib.crc32(name)])
    return rng.normal(0.0, SIGMA, n).astype(np.float32)


def derive_metadata(donor: Path, arch: str, changes: dict[str, Value | None], out: Path) -> Path:
    """The donor's metadata for another architecture; None takes a key away, {arch} is filled in."""
    file = read_gguf(donor)
    old = str(file.metadata["general.architecture"].decode())
    metadata = {
        (arch + key[len(old) :] if key.startswith(f"{old}.") else key): value
        for key, value in file.metadata.items()
    }
    metadata["general.architecture"] = string(arch)
    for template, value in changes.items():
        key = template.format(arch=arch)
        metadata.pop(key, None)
        if value is not None:
            metadata[key] = value
    kvs = [kv(key, value.type, bytes(value.raw)) for key, value in metadata.items()]
    out.write_bytes(build(kvs))
    return out
