"""Requantizing through llama.cpp's own quantizer, and what it would do without doing it.

Nothing here decides which layers there are: a model is pruned first, so that the quantizer sees its
true depth.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from ggprune.errors import DataError, LlamaError, UsageError
from ggprune.files.copy import start_writeback
from ggprune.model import Tensor
from ggprune.model.imatrix import Imatrix
from ggprune.model.types import tensor_type
from ggprune.quantize.options import COPY, FILE_TYPES, QuantizeOptions, parse_type
from ggprune.quantize.params import make_params
from ggprune.runtime.library import llama, log_tail

__all__ = [
    "COPY", "FILE_TYPES", "DryRun", "QuantizeOptions", "check_outcome", "dry_run", "dry_runs",
    "listen_to_lines", "needs_imatrix", "parse_type", "quantize",
]  # fmt: skip

OUTPUT = "output.weight"
EMBEDDINGS = ("token_embd.weight", "per_layer_token_embd.weight")
# src/llama-quant.cpp, tensor_requires_imatrix
NEEDY_TYPES = ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS")
# tools/imatrix/imatrix.cpp, collect_imatrix: the tensors that llama-imatrix measures
MEASURED = "blk."

_TENSOR_LINE = re.compile(
    r"\[\s*(?P<i>\d+)/\s*(?P<n>\d+)\] (?P<name>.+?)\s+- \[.*?\], type =\s*(?P<old>\w+),"
    r"(?:.*?\((?P<new>\w+)\)\n)?"
)


@dataclass(frozen=True)
class DryRun:
    """What a quantization would make: the type of every tensor and the bytes of all of them."""

    types: dict[str, str]  # in the order in which the quantizer stores the tensors
    tensor_bytes: int  # with the padding between tensors


def quantize(
    source: Path,
    target: Path,
    options: QuantizeOptions,
    imatrix: Imatrix | None = None,
    progress: Callable[[int, int], object] | None = None,
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
        if progress is not None:
            progress(int(match["i"]), int(match["n"]))

    with listen_to_lines(_TENSOR_LINE, report):
        _run(source, target, options, imatrix, dry_run=False)


def dry_run(
    source: Path, tensors: tuple[Tensor, ...], options: QuantizeOptions, imatrix: Imatrix | None
) -> DryRun:
    """The exact outcome without quantizing. `source` needs no tensor data, only its header.

    What only the real run refuses is for `check_outcome` to say.
    """
    _check_rows(source, tensors, options)
    types: dict[str, str] = {}

    def collect(match: re.Match[str]) -> None:
        types[match["name"]] = (match["new"] or match["old"]).upper()

    with listen_to_lines(_TENSOR_LINE, collect):
        _run(source, Path("unused"), options, imatrix, dry_run=True)
    sizes = [tensor_type(types[tensor.name]).size_bytes(tensor.shape) for tensor in tensors]
    return DryRun(types, sum(-(-size // 32) * 32 for size in sizes))


def dry_runs(
    source: Path,
    tensors: tuple[Tensor, ...],
    all_options: Sequence[QuantizeOptions],
    imatrix: Imatrix | None,
) -> tuple[DryRun | None, ...]:
    """A dry run for each of the options, None for types this model's shapes do not allow."""
    outcomes: list[DryRun | None] = []
    for options in all_options:
        try:
            outcome = dry_run(source, tensors, options, imatrix)
            check_outcome(source, tensors, outcome, options, imatrix)
            outcomes.append(outcome)
        except (LlamaError, DataError):
            outcomes.append(None)
    return tuple(outcomes)


def check_outcome(
    source: Path,
    tensors: tuple[Tensor, ...],
    outcome: DryRun,
    options: QuantizeOptions,
    imatrix: Imatrix | None,
    known_as: Mapping[str, str] | None = None,
) -> None:
    """What the real run would refuse in the middle of its work, or the user should not accept.

    Raises LlamaError for a tensor that is quantized already or needs an importance matrix, and
    DataError for an entry of that matrix that is missing or does not fit, each with the name;
    `known_as` has the names by which the user knows the tensors where these differ.
    """
    names = known_as or {}
    for tensor in tensors:
        made = outcome.types[tensor.name]
        if needs_imatrix(tensor.name, made, options.type) and imatrix is None:
            raise LlamaError(
                f"{source}: cannot be quantized to {options.type} without an importance matrix: "
                f"{names.get(tensor.name, tensor.name)} would become {made}; give one with "
                "--imatrix"
            )
    changed = [t for t in tensors if outcome.types[t.name] != t.type.name]
    for tensor in changed:
        name, made = names.get(tensor.name, tensor.name), outcome.types[tensor.name]
        if tensor.type.block_size > 1 and not options.allow_requantize:
            raise LlamaError(
                f"{source}: {name} is quantized already ({tensor.type.name}, it would become "
                f"{made}); --allow-requantize quantizes it again, at a loss of quality"
            )
        if imatrix is not None and tensor.name in imatrix.entries:
            _check_size(tensor, name, imatrix)
        elif imatrix is not None:
            _check_missing(tensor, name, made, options, imatrix)


def _check_size(tensor: Tensor, name: str, imatrix: Imatrix) -> None:
    """An entry has a value for every column of every expert, shape[0] * shape[2]."""
    size, expected = imatrix.entries[tensor.name].size, tensor.shape[0] * prod(tensor.shape[2:3])
    # The quantizer too ignores what does not fit for embeddings: llama-imatrix cannot see them.
    if size != expected and tensor.name not in EMBEDDINGS:
        raise DataError(
            f"{imatrix.path}: {name} has {size} values, expected {expected}: made for another "
            "model?"
        )


def _check_missing(
    tensor: Tensor, name: str, made: str, options: QuantizeOptions, imatrix: Imatrix
) -> None:
    if needs_imatrix(tensor.name, made, options.type):
        raise DataError(f"{imatrix.path}: has no entry for {name}, which {made} cannot do without")
    is_measured = tensor.name.startswith(MEASURED) and tensor.name not in imatrix.left_out
    if is_measured and tensor_type(made).block_size > 1:
        raise DataError(
            f"{imatrix.path}: has no entry for {name}, which is to become {made}: made for another "
            f"model? --exclude-weights {name} quantizes it without one"
        )


def needs_imatrix(name: str, made: str, file_type: str) -> bool:
    """Does the quantizer refuse to make this tensor so without an entry of an imatrix?"""
    if name == OUTPUT or name in EMBEDDINGS:
        return False
    return made in NEEDY_TYPES or (made == "Q2_K" and file_type == "Q2_K_S")


def _check_rows(source: Path, tensors: tuple[Tensor, ...], options: QuantizeOptions) -> None:
    """The two types that the quantizer forces on any shape: it aborts where rows do not fit."""
    forced = {OUTPUT: options.output_tensor_type}
    forced |= dict.fromkeys(EMBEDDINGS, options.token_embedding_type)
    for tensor in tensors:
        name = forced.get(tensor.name)
        if name is not None and tensor.shape[0] % tensor_type(name).block_size:
            raise UsageError(
                f"{source}: {tensor.name} has rows of {tensor.shape[0]}, {name} needs multiples of "
                f"{tensor_type(name).block_size}"
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
