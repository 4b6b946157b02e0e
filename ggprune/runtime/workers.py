"""Which processes computed a result, where it was not this one. Data only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated


@dataclass(kw_only=True)
class WorkerInfo:
    """One of the processes that measured, and how much it did."""

    host: str
    device: Annotated[str, "as llama.cpp names it"]
    backend: Annotated[str, "as llama-bench prints it"]
    build: Annotated[str, "commit of llama.cpp's ggml"]
    bits: Annotated[str, "hash of the logits of a probe; equal ones compute alike"]
    n_pass: int = 0
    n_chunk: Annotated[int, "chunks that it had a part in"] = 0
    load_s: Annotated[float, "until it was ready"] = 0.0


@dataclass(frozen=True, kw_only=True)
class KindInfo:
    """With workers of several kinds: which chunks were computed by this one."""

    device: str
    bits: str
    chunks: Annotated[str, "0-63,70"]
    kld: Annotated[float, "KL divergence of the whole model from the first kind's, on the probe"]
