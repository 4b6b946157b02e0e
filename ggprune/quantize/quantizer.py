"""Requantizing through llama.cpp's own quantizer, and what it would do without doing it.

Nothing here decides which layers there are: a model is pruned first, so that the quantizer sees its
true depth.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from ggprune.errors import LlamaError, UsageError
from ggprune.files.copy import start_writeback
from ggprune.model import Model
from ggprune.model.imatrix import Imatrix
from ggprune.model.names import HEAD, LAYER_EMBEDDING, TOKEN_EMBEDDING
from ggprune.model.types import tensor_type
from ggprune.progress import SILENT, Progress
from ggprune.quantize.options import QuantizeOptions
from ggprune.quantize.params import make_params
from ggprune.runtime.library import llama, log_tail

EMBEDDINGS = (TOKEN_EMBEDDING, LAYER_EMBEDDING)

_TENSOR_LINE = re.compile(
    r"\[\s*(?P<i>\d+)/\s*(?P<n>\d+)\] (?P<name>.+?)\s+- \[.*?\], type =\s*(?P<old>\w+),"
    r"(?:.*?\((?P<new>\w+)\)\n)?"
)


def quantize(
    source: Path,
    target: Path,
    options: QuantizeOptions,
    imatrix: Imatrix | None = None,
    progress: Progress = SILENT,
) -> None:
    """Write `source` (the first shard of a split model) as one file of another type.

    `progress` is told the number of the current tensor and of all. Patterns of tensor types see the
    names in `source`. Raises LlamaError with the quantizer's reason.
    """
    flushed = 0

    def report(match: re.Match[str]) -> None:
        """Behind every tensor: it goes to the disk while the next one is computed."""
        nonlocal flushed
        with target.open("rb") as written:
            size = os.fstat(written.fileno()).st_size
            start_writeback(written.fileno(), flushed, size - flushed)
        flushed = size
        progress.step(int(match["i"]), int(match["n"]))

    with listen_to_lines(_TENSOR_LINE, report):
        _run(source, target, options, imatrix, dry_run=False)


def dry_run(model: Model, options: QuantizeOptions, imatrix: Imatrix | None) -> dict[str, str]:
    """The type that every tensor would get, in the order in which the quantizer stores them.

    The model's file needs no tensor data, only its header. What only the real run refuses is for
    `check_types` to say.
    """
    _check_rows(model, options)
    types: dict[str, str] = {}

    def collect(match: re.Match[str]) -> None:
        types[match["name"]] = (match["new"] or match["old"]).upper()

    with listen_to_lines(_TENSOR_LINE, collect):
        _run(model.path, Path("unused"), options, imatrix, dry_run=True)
    return types


def _check_rows(model: Model, options: QuantizeOptions) -> None:
    """The two types that the quantizer forces on any shape: it aborts where rows do not fit."""
    forced = {HEAD: options.output_tensor_type}
    forced |= dict.fromkeys(EMBEDDINGS, options.token_embedding_type)
    for tensor in model.tensors:
        name = forced.get(tensor.name)
        if name is not None and tensor.shape[0] % tensor_type(name).block_size:
            raise UsageError(
                f"{model.path}: {tensor.name} has rows of {tensor.shape[0]}, {name} needs "
                f"multiples of {tensor_type(name).block_size}"
            )


@contextlib.contextmanager
def listen_to_lines(
    pattern: re.Pattern[str], handle: Callable[[re.Match[str]], None]
) -> Iterator[None]:
    """Call `handle` for every line of the log that matches; lines are logged in several pieces."""
    pieces: list[str] = []

    def listen(text: str) -> None:
        pieces.append(text)
        if text.endswith("\n"):
            match = pattern.match("".join(pieces))
            pieces.clear()
            if match:
                handle(match)

    listeners = log_tail().listeners
    listeners.append(listen)
    try:
        yield
    finally:
        listeners.remove(listen)


def _run(
    source: Path, target: Path, options: QuantizeOptions, imatrix: Imatrix | None, *, dry_run: bool
) -> None:
    lib = llama()
    params, alive = make_params(lib, options, imatrix, dry_run=dry_run)
    log_tail().lines.clear()
    status = lib.llama_model_quantize(
        os.fsencode(source), os.fsencode(target), ctypes.byref(params)
    )
    del alive
    if status != 0:
        raise LlamaError(f"{source}: cannot be quantized to {options.type}: {_reason()}")


def _reason() -> str:
    text = log_tail().last_error()
    text = text.removeprefix("llama_model_quantize: failed to quantize: ")
    if "iostream" in text:
        return "the output cannot be written; is the disk full?"
    return text
