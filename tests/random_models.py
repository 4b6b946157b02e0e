"""Random-weight models of any architecture, grown from a metadata-only GGUF by llama.cpp itself.

Weights depend on the seed and the tensor's name alone, so a tensor has the same values in any
model it is part of.
"""

from __future__ import annotations

import ctypes
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ggprune.model import Value
from ggprune.model.gguf import read_gguf
from ggprune.model.metadata import string
from ggprune.runtime.library import ggml, llama
from ggprune.runtime.tensor import TensorStruct, accessors, tensor_name
from tests.gguf_files import FakeTensor, build, kv

SIGMA = 0.1


class GGUFInitParams(ctypes.Structure):
    _fields_ = (("no_alloc", ctypes.c_bool), ("ctx", ctypes.c_void_p))


def make_random_model(metadata: Path, out: Path, seed: int = 0) -> Path:
    """Write a model of the metadata's architecture and shape to `out`."""
    lib, base = llama(), ggml()
    base.gguf_init_from_file.restype = ctypes.c_void_p
    base.gguf_init_from_file.argtypes = [ctypes.c_char_p, GGUFInitParams]
    base.gguf_free.argtypes = [ctypes.c_void_p]
    context = base.gguf_init_from_file(str(metadata).encode(), GGUFInitParams(True, None))
    assert context, f"{metadata} cannot be read"

    def fill(pointer: int, _: Any) -> None:
        fill_tensor(pointer, seed)

    callback = lib.llama_model_set_tensor_data_t(fill)
    params = lib.llama_model_default_params()
    params.use_extra_bufts = False  # repacked tensors could not be saved
    model = lib.llama_model_init_from_user(context, callback, None, params)
    assert model, f"llama.cpp cannot build a model of {metadata}"
    lib.llama_model_save_to_file(model, str(out).encode())
    lib.llama_model_free(model)
    base.gguf_free(context)
    return out


def fill_tensor(pointer: int, seed: int) -> None:
    name = tensor_name(pointer)
    n = accessors().ggml_nbytes(pointer) // 4
    rng = np.random.default_rng([seed, zlib.crc32(name)])
    values = rng.normal(0.0, SIGMA, n).astype(np.float32)
    if b"ssm_a" in name:
        values = -np.abs(values) - np.float32(0.1)
    struct = TensorStruct.from_address(pointer)
    if struct.type != 0:
        values = np.zeros(n, np.float32)
    accessors().ggml_backend_tensor_set(pointer, values.ctypes.data, 0, 4 * n)


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


def without_keys(source: Path, templates: Iterable[str], out: Path) -> Path:
    """The same model without some metadata: llama.cpp writes down what it was left to default."""
    file, data = read_gguf(source), source.read_bytes()
    arch = str(file.metadata["general.architecture"].decode())
    gone = {template.format(arch=arch) for template in templates}
    kvs = [kv(k, v.type, bytes(v.raw)) for k, v in file.metadata.items() if k not in gone]
    tensors = [
        FakeTensor(t.name, data[t.offset : t.offset + t.size_bytes], t.shape, t.type.id)
        for t in file.tensors
    ]
    out.write_bytes(build(kvs, tensors, alignment=file.alignment))
    return out
