"""The devices that llama.cpp's build can compute on: their names and their memory.

Knows nothing of models. Devices and backends are named as llama-bench names them.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from functools import cache
from typing import Annotated

from ggprune.runtime.library import declare, ggml, llama

KINDS = ("cpu", "gpu", "igpu", "accel")  # enum ggml_backend_dev_type, ggml-backend.h


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
        return self.kind in ("gpu", "igpu")


def devices() -> tuple[Device, ...]:
    """All devices, in llama.cpp's order."""
    lib, base = _libraries()
    listed = []
    for i in range(lib.ggml_backend_dev_count()):
        handle, free, total = lib.ggml_backend_dev_get(i), ctypes.c_size_t(), ctypes.c_size_t()
        base.ggml_backend_dev_memory(handle, ctypes.byref(free), ctypes.byref(total))
        kind = base.ggml_backend_dev_type(handle)
        listed.append(Device(
            name=base.ggml_backend_dev_name(handle).decode(),
            description=base.ggml_backend_dev_description(handle).decode().strip(),
            kind=KINDS[kind] if kind < len(KINDS) else "other",
            total_bytes=total.value, free_bytes=free.value,
        ))  # fmt: skip
    return tuple(listed)


def backend_names() -> str:
    """Backends as llama-bench prints them: `CUDA`, `BLAS`, or `CPU` if that is all there is."""
    lib, base = _libraries()
    registers = [lib.ggml_backend_reg_get(i) for i in range(lib.ggml_backend_reg_count())]
    names = [base.ggml_backend_reg_name(r).decode() for r in registers]
    return ",".join(n for n in names if n != "CPU" and not n.startswith("RPC")) or "CPU"


def computing_on() -> tuple[str, ...]:
    """What computes, as far as numbers can differ by it: the devices, the CPU's instructions."""
    listed = (f"{d.kind} {d.name}: {d.description}" for d in devices())
    return (*listed, llama().llama_print_system_info().decode())


def build_commit() -> str:
    """The commit that ggml was built from."""
    _, base = _libraries()
    return str(base.ggml_commit().decode()).removesuffix("-dirty")


@cache
def _libraries() -> tuple[ctypes.CDLL, ctypes.CDLL]:
    """libggml, which lists devices, and libggml-base, which describes them."""
    llama()  # finds the backends
    handle, size, text = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p
    lib = declare(ggml("ggml"), {
        "ggml_backend_dev_count": (size,), "ggml_backend_dev_get": (handle, size),
        "ggml_backend_reg_count": (size,), "ggml_backend_reg_get": (handle, size),
    })  # fmt: skip
    sizes = ctypes.POINTER(size)
    base = declare(ggml(), {
        "ggml_backend_dev_name": (text, handle), "ggml_backend_dev_description": (text, handle),
        "ggml_backend_dev_type": (ctypes.c_int, handle), "ggml_backend_reg_name": (text, handle),
        "ggml_backend_dev_memory": (None, handle, sizes, sizes), "ggml_commit": (text,),
    })  # fmt: skip
    return lib, base
