"""Threads that stay between decodes, as llama-bench has them.

Without them a llama.cpp that was built without OpenMP starts its threads anew for every graph. The
struct follows `ggml_threadpool_params` in ggml/include/ggml.h and is checked before it is used.
"""

from __future__ import annotations

import ctypes

from ggprune.errors import LlamaError
from ggprune.runtime.library import REMEDY, declare, ggml
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
        pointer, text = ctypes.c_void_p, ctypes.c_char_p
        lib = declare(ggml("ggml"), {"ggml_backend_reg_by_name": (pointer, text)})
        base = declare(ggml(), {"ggml_backend_reg_get_proc_address": (pointer, pointer, text)})
        params = ThreadpoolParams()
        base.ggml_threadpool_params_init(ctypes.byref(params), n_threads)
        if (params.n_threads, params.poll) != (n_threads, POLL):
            raise LlamaError(
                f"this build of llama.cpp lays out its threads' settings differently; {REMEDY}"
            )
        cpu = lib.ggml_backend_reg_by_name(b"CPU")  # may be loaded at run time, so it is asked
        new, free = (
            base.ggml_backend_reg_get_proc_address(cpu, f"ggml_threadpool_{name}".encode())
            for name in ("new", "free")
        )
        if not (new and free):
            raise LlamaError("this build of llama.cpp has no threads to keep")
        self._free = ctypes.CFUNCTYPE(None, pointer)(free)
        self._handle = ctypes.CFUNCTYPE(pointer, pointer)(new)(ctypes.byref(params))
        if not self._handle:
            raise LlamaError(f"llama.cpp could not start {n_threads} threads")
        attached = declare(ggml("llama"), {"llama_attach_threadpool": (None, *[pointer] * 3)})
        attached.llama_attach_threadpool(session.handle, self._handle, None)

    def close(self) -> None:
        if self._handle:
            self._free(self._handle)
            self._handle = None
