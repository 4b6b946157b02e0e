"""The devices that llama.cpp's build can compute on: their names and their memory.

Knows nothing of models. Devices and backends are named as llama-bench names them.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from ggprune.runtime.library import ggml, llama

KINDS = ("cpu", "gpu", "igpu", "accel")  # enum ggml_backend_dev_type, ggml-backend.h
GPU_KINDS = ("gpu", "igpu")


@dataclass(frozen=True, kw_only=True)
class Device:
    """One that can compute. Memory is what the driver says now; for a CPU it is the machine's."""

    name: Annotated[str, "CPU, CUDA0, Metal"]
    description: str
    kind: Annotated[str, "cpu, gpu, igpu or accel"]
    total_bytes: int
    free_bytes: int

    @property
    def is_gpu(self) -> bool:
        return self.kind in GPU_KINDS


def devices() -> tuple[Device, ...]:
    """All devices, in llama.cpp's order."""
    lib, _ = _libraries()
    return tuple(_device(lib.ggml_backend_dev_get(i)) for i in range(lib.ggml_backend_dev_count()))


def backend_names() -> str:
    """Backends as llama-bench prints them: `CUDA`, `BLAS`, or `CPU` if that is all there is."""
    lib, base = _libraries()
    registers = [lib.ggml_backend_reg_get(i) for i in range(lib.ggml_backend_reg_count())]
    names = [base.ggml_backend_reg_name(r).decode() for r in registers]
    return ",".join(n for n in names if n != "CPU" and not n.startswith("RPC")) or "CPU"


def build_commit() -> str:
    """The commit that ggml was built from."""
    base = ggml()
    base.ggml_commit.restype = ctypes.c_char_p
    commit: bytes = base.ggml_commit()
    return commit.decode().removesuffix("-dirty")


def _device(handle: int) -> Device:
    _, base = _libraries()
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    base.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
    kind = base.ggml_backend_dev_type(handle)
    return Device(
        name=base.ggml_backend_dev_name(handle).decode(),
        description=base.ggml_backend_dev_description(handle).decode().strip(),
        kind=KINDS[kind] if kind < len(KINDS) else "other",
        total_bytes=total.value,
        free_bytes=free.value,
    )


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """libggml, which lists devices, and libggml-base, which describes them; typed."""
    llama()  # finds the backends
    lib, base = ggml("ggml"), ggml()
    for name in ("dev", "reg"):
        count, get = (getattr(lib, f"ggml_backend_{name}_{what}") for what in ("count", "get"))
        count.restype, get.restype, get.argtypes = (
            ctypes.c_size_t, ctypes.c_void_p, [ctypes.c_size_t],
        )  # fmt: skip
    for name in ("dev_name", "dev_description", "dev_type", "reg_name"):
        function = getattr(base, f"ggml_backend_{name}")
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_char_p
    base.ggml_backend_dev_type.restype = ctypes.c_int
    sizes = ctypes.POINTER(ctypes.c_size_t)
    base.ggml_backend_dev_memory.restype = None
    base.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, sizes, sizes]
    return lib, base
