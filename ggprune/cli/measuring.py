"""What models are measured on, and how llama.cpp computes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from typer import Option

from ggprune.cli.options import Threads
from ggprune.metrics.text import Text, read_text, shipped_text
from ggprune.runtime.session import Compute
from ggprune.scoring.cache import default_folder


class FlashAttention(str, Enum):
    """As llama.cpp's -fa."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"


ON_OFF = {FlashAttention.ON: True, FlashAttention.OFF: False, FlashAttention.AUTO: None}


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Where and with how many threads llama.cpp computes."""

    threads: Threads = None
    n_gpu_layers: Annotated[
        int,
        Option(
            "-ngl",
            "--n-gpu-layers",
            min=-1,
            max=100_000,
            help="Layers to keep on the GPU; -1: all (GPU builds only).",
        ),
    ] = -1
    flash_attn: Annotated[
        FlashAttention, Option("-fa", "--flash-attn", help="Flash attention.")
    ] = FlashAttention.AUTO

    def compute(self, n_batch: int = 2048, n_ubatch: int = 512) -> Compute:
        return Compute(
            n_threads=self.threads,
            n_gpu_layers=self.n_gpu_layers,
            flash_attn=ON_OFF[self.flash_attn],
            n_batch=n_batch,
            n_ubatch=n_ubatch,
        )


def given_text(path: Path | None, shipped: str) -> Text:
    """The user's text, or the one of that name that ships with the package."""
    return read_text(path) if path is not None else shipped_text(shipped)


def cache_folder(cache: bool) -> Path | None:
    """Where finished measurements are kept, if they are."""
    return default_folder() if cache else None
