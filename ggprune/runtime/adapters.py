"""LoRA adapters: loaded beside a model, added to its products in a session."""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Sequence
from pathlib import Path

from ggprune.errors import LlamaError
from ggprune.runtime.compute import Compute
from ggprune.runtime.library import log_tail
from ggprune.runtime.session import LlamaModel, Session


class Adapter:
    """A LoRA adapter for a loaded model. Use as a context manager, inside that of the model.

    Sessions that are to use it are made after it: llama.cpp makes room for its nodes then.
    """

    def __init__(self, model: LlamaModel, path: Path) -> None:
        """Raises LlamaError with llama.cpp's own reason if it does not belong to the model."""
        self.model, self.path = model, path  # the model must not be freed first
        log_tail().lines.clear()
        self.handle = model.lib.llama_adapter_lora_init(model.handle, os.fsencode(path))
        if not self.handle:
            reason = log_tail().last_error()
            raise LlamaError(f"{path}: llama.cpp cannot load the adapter: {reason}")
        self.close = weakref.finalize(self, model.lib.llama_adapter_lora_free, self.handle)

    def __enter__(self) -> Adapter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def apply(self, session: Session) -> None:
        """Add it to what the session computes from now on. Raises LlamaError if it cannot be."""
        handles = (session.lib.llama_adapter_lora_p_ctypes * 1)(self.handle)
        scales = (ctypes.c_float * 1)(1.0)
        if session.lib.llama_set_adapters_lora(session.handle, handles, 1, scales) != 0:
            raise LlamaError(f"{self.path}: llama.cpp cannot use the adapter")


def check_adapter_loads(paths: Sequence[Path], adapter: Path) -> None:
    """Load a model (all its shards), then the adapter. Run it through `isolated`.

    Nothing is computed: the model may have holes instead of weights. Raises LlamaError.
    """
    with (
        LlamaModel(paths[0], Compute(n_gpu_layers=0), repack=False, shards=paths) as model,
        Adapter(model, adapter),
    ):
        pass
