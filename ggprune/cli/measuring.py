"""The options of commands that measure: on what, and how llama.cpp computes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated

from typer import Option

from ggprune.cli.messages import say_note
from ggprune.cli.options import RpcServers, Threads, rpc_servers
from ggprune.files.cachefolder import user_cache
from ggprune.files.reading import TextErrors
from ggprune.metrics.text import Text, read_text, shipped_text
from ggprune.runtime.compute import Compute


class FlashAttention(str, Enum):
    """The values of llama.cpp's -fa."""

    ON = "on"
    OFF = "off"
    AUTO = "auto"


ON_OFF = {FlashAttention.ON: True, FlashAttention.OFF: False, FlashAttention.AUTO: None}


@dataclass(frozen=True, kw_only=True)
class Computing:
    """Where and with how many threads llama.cpp computes."""

    threads: Threads = None
    # fmt: off
    n_gpu_layers: Annotated[int, Option(
        "-ngl", "--n-gpu-layers", min=-1, max=100_000,
        help="Layers to keep on the GPU; -1: all (GPU builds only).")] = -1
    flash_attn: Annotated[FlashAttention, Option(
        "-fa", "--flash-attn", help="Flash attention.")] = FlashAttention.AUTO
    rpc: RpcServers = None
    # fmt: on

    def compute(self, n_batch: int = 2048, n_ubatch: int = 512) -> Compute:
        return Compute(
            n_threads=self.threads, n_gpu_layers=self.n_gpu_layers,
            flash_attn=ON_OFF[self.flash_attn], n_batch=n_batch, n_ubatch=n_ubatch,
            rpc=rpc_servers(self.rpc),
        )  # fmt: skip


def given_text(path: Path | None, shipped: str, errors: TextErrors) -> Text:
    """The user's text, or the one of that name that ships with the package."""
    return read_text(path, errors) if path is not None else shipped_text(shipped)


def note_chunks(asked: int | None, source: str, n_chunk: int) -> None:
    """A text may have less of them than was asked for."""
    if asked is not None and n_chunk < asked:
        say_note(f"{source}: gives {n_chunk} chunks, not {asked}: all of them are read")


def cache_folder(cache: bool) -> Path | None:
    """Where finished measurements are kept, if they are and can be."""
    folder = user_cache() if cache else None
    if cache and folder is None:
        say_note("no home folder, so measurements are not kept (XDG_CACHE_HOME names another)")
    return folder
