"""How to compute: what changes speed, not meaning. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from ggprune.files.keys import LEFT_OUT, Key
from ggprune.runtime.library import default_threads

FLASH_NUMBERS = {True: 1, False: 0, None: -1}  # as llama-bench has them


@dataclass(frozen=True, kw_only=True)
class Compute:
    """How to compute: the llama.cpp options that change speed, not meaning."""

    n_batch: int = 2048
    n_ubatch: int = 512
    # None: the physical cores
    n_threads: Annotated[int | None, Key(write=lambda n: n or default_threads())] = None
    n_gpu_layers: int = -1  # negative: all that fit a GPU build has room for; CPU builds ignore it
    flash_attn: Annotated[
        bool | None,
        Key(write=FLASH_NUMBERS.get, read={1: True, 0: False, -1: None}.__getitem__),
        "1 on, 0 off, -1 auto",
    ] = None  # None: llama.cpp decides
    type_k: str = "f16"  # of the cached keys, as -ctk names it
    type_v: str = "f16"
    rpc: Annotated[tuple[str, ...], LEFT_OUT] = ()  # host:port of servers to compute on as well
