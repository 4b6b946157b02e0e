"""Threads that stay between decodes, as llama-bench has them.

Without them a llama.cpp that was built without OpenMP starts its threads anew for every graph. The
struct follows `ggml_threadpool_params` in ggml/include/ggml.h and is checked before it is used.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

from ggprune.errors import LlamaError
from ggprune.runtime.library import ggml
from ggprune.runtime.session import Session

MAX_THREADS = 512  # GGML_MAX_N_THREADS
POLL = 50  # ggml's default, and llama-bench's


class ThreadpoolParams(ctypes.Structure):
    """How threads are to be started."""

    _fields_ = (
        ("cpumask", ctypes.c_bool * MAX_THREADS),
        ("n_threads", ctypes.c_int),
        ("prio", ctypes.c_int),
        ("poll", ctypes.c_uint32),
        ("strict_cpu", ctypes.c_bool),
        ("paused", ctypes.c_bool),
    )


class Threadpool:
    """Threads for one session; close the session first. Raises LlamaError if there can be none."""

    def __init__(self, session: Session, n_threads: int) -> None:
        params = ThreadpoolParams()
        ggml().ggml_threadpool_params_init(ctypes.byref(params), n_threads)
        if (params.n_threads, params.poll) != (n_threads, POLL):
            raise LlamaError(
                "this build of llama.cpp lays out its threads' settings differently; "
                "install the llama-cpp-python version that ggprune was tested with"
            )
        new, self._free = _functions()
        self._handle = new(ctypes.byref(params))
        if not self._handle:
            raise LlamaError(f"llama.cpp could not start {n_threads} threads")
        attach = ggml("llama").llama_attach_threadpool
        attach.restype, attach.argtypes = None, [ctypes.c_void_p] * 3
        attach(session.handle, self._handle, None)

    def close(self) -> None:
        if self._handle:
            self._free(self._handle)
            self._handle = None


@cache
def _functions() -> tuple[Callable[[object], int | None], Callable[[int], None]]:
    """ggml_threadpool_new and _free, asked of the CPU backend: it may be loaded at run time."""
    base, lib = ggml(), ggml("ggml")
    lib.ggml_backend_reg_by_name.restype = ctypes.c_void_p
    lib.ggml_backend_reg_by_name.argtypes = [ctypes.c_char_p]
    address = base.ggml_backend_reg_get_proc_address
    address.restype, address.argtypes = ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_char_p]
    cpu = lib.ggml_backend_reg_by_name(b"CPU")
    places = [address(cpu, f"ggml_threadpool_{name}".encode()) for name in ("new", "free")]
    if not all(places):
        raise LlamaError("this build of llama.cpp has no threads to keep")
    new = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)(places[0])
    return new, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(places[1])
