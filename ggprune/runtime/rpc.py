"""Servers of llama.cpp's RPC as devices to compute on, for models beyond one machine.

A server executes what it is sent and serves one client at a time; one that dies takes its client
with it.
"""

from __future__ import annotations

import ctypes
import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from ggprune.errors import LlamaError
from ggprune.runtime.library import declare, ggml, llama

BACKEND_PATH = "GGML_BACKEND_PATH"  # llama.cpp's own: a backend that is a library of its own
BUILD = "CMAKE_ARGS='-DGGML_RPC=on' pip install --no-binary llama-cpp-python llama-cpp-python"
CONNECT_S = 10.0
GBIT = 1e9 / 8  # bytes a second


def add_servers(servers: Sequence[str]) -> None:
    """Have llama.cpp compute on these, `host:port`, as well; each is added once.

    Raises LlamaError if this build has no RPC, or nobody answers there.
    """
    for server in servers:
        _add(server)


@cache
def _add(server: str) -> None:
    llama()  # finds the backends
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    lib = declare(ggml("ggml"), {
        "ggml_backend_reg_by_name": (pointer, text), "ggml_backend_load": (pointer, text),
        "ggml_backend_register": (None, pointer),
    })  # fmt: skip
    base = declare(ggml(), {"ggml_backend_reg_get_proc_address": (pointer, pointer, text)})
    rpc = lib.ggml_backend_reg_by_name(b"RPC")
    if not rpc and BACKEND_PATH in os.environ:
        rpc = lib.ggml_backend_load(os.fsencode(os.environ[BACKEND_PATH]))
    address = (
        base.ggml_backend_reg_get_proc_address(rpc, b"ggml_backend_rpc_add_server") if rpc else None
    )
    if not address:
        raise LlamaError(f"--rpc {server}: this llama.cpp was built without RPC: {BUILD}")
    _check_reachable(server)  # llama.cpp would abort
    found = ctypes.CFUNCTYPE(pointer, text)(address)(server.encode())
    if not found:
        raise LlamaError(f"--rpc {server}: llama.cpp cannot use this server")
    lib.ggml_backend_register(found)


def _check_reachable(server: str) -> None:
    host, _, port = server.rpartition(":")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as e:
        raise LlamaError(f"--rpc {server}: no server answers: {e.strerror or e}") from e


@dataclass(frozen=True, kw_only=True)
class Traffic:
    """What passes over the network, bytes: by the sizes of what is read and written."""

    base: int  # of a pass through the whole model, its stream read in front of every layer
    cut: int  # of a pass without layers

    def told(self) -> str:
        """With times at 1 and 10 Gb/s."""
        return "; ".join(
            f"{what} {n / 1e6:.1f} MB ({n / GBIT:.2g} s at 1 Gb/s, {n / GBIT / 10:.2g} s at 10)"
            for what, n in (("whole pass", self.base), ("pass without layers", self.cut))
        )


def traffic(n_ctx: int, n_output: int, n_layer: int, n_embd: int, n_vocab: int) -> Traffic:
    """float32 rows: the stream at n_layer + 1 places, or at one; logits come home unless the output
    layer is here."""
    row, logits = 4 * n_ctx * n_embd, 4 * n_output * n_vocab
    return Traffic(base=(n_layer + 1) * row + logits, cut=row + logits)
