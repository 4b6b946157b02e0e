"""`python rpc_server.py HOST:PORT`: a server of llama.cpp's RPC on this machine's CPU."""

import ctypes
import os
import sys

from ggprune.runtime.library import declare, ggml, llama
from ggprune.runtime.rpc import BACKEND_PATH


def main(endpoint: str) -> None:
    llama()
    pointer, text = ctypes.c_void_p, ctypes.c_char_p
    lib = declare(ggml("ggml"), {
        "ggml_backend_reg_by_name": (pointer, text), "ggml_backend_load": (pointer, text),
        "ggml_backend_dev_by_name": (pointer, text),
    })  # fmt: skip
    base = declare(ggml(), {"ggml_backend_reg_get_proc_address": (pointer, pointer, text)})
    backend = lib.ggml_backend_reg_by_name(b"RPC") or lib.ggml_backend_load(
        os.environ[BACKEND_PATH].encode()
    )
    address = base.ggml_backend_reg_get_proc_address(backend, b"ggml_backend_rpc_start_server")
    kind = ctypes.CFUNCTYPE(None, text, text, ctypes.c_size_t, ctypes.c_size_t, pointer)
    devices = (pointer * 1)(lib.ggml_backend_dev_by_name(b"CPU"))
    kind(address)(endpoint.encode(), None, 1, 1, ctypes.cast(devices, pointer))


if __name__ == "__main__":
    main(sys.argv[1])
