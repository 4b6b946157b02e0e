"""Requantizing through llama.cpp's own quantizer, with its names for the types.

The types are those of tools/quantize/quantize.cpp. Nothing here decides which layers there are:
a model is pruned first, so that the quantizer sees its true depth.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggprune.errors import LlamaError, UsageError
from ggprune.model import Tensor
from ggprune.model.imatrix import Imatrix
from ggprune.model.metadata import encode_text
from ggprune.model.types import TENSOR_TYPES
from ggprune.runtime.library import llama, log_tail

COPY = "COPY"

# name -> llama_ftype
FILE_TYPES: dict[str, int] = {
    "F32": 0, "F16": 1, "BF16": 32,
    "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "Q8_0": 7,
    "Q2_K": 10, "Q2_K_S": 21,
    "Q3_K_S": 11, "Q3_K_M": 12, "Q3_K_L": 13, "Q3_K": 12,
    "Q4_K_S": 14, "Q4_K_M": 15, "Q4_K": 15,
    "Q5_K_S": 16, "Q5_K_M": 17, "Q5_K": 17, "Q6_K": 18,
    "IQ1_S": 24, "IQ1_M": 31,
    "IQ2_XXS": 19, "IQ2_XS": 20, "IQ2_S": 28, "IQ2_M": 29,
    "IQ3_XXS": 23, "IQ3_XS": 22, "IQ3_S": 26, "IQ3_M": 27,
    "IQ4_NL": 25, "IQ4_XS": 30,
    "TQ1_0": 36, "TQ2_0": 37, "MXFP4_MOE": 38, "Q1_0": 40, "Q2_0": 41,
    COPY: 0,
}  # fmt: skip

_TENSOR_LINE = re.compile(
    r"\[\s*(?P<i>\d+)/\s*(?P<n>\d+)\] (?P<name>.+?)\s+- \[.*?\], type =\s*(?P<old>\w+),"
    r"(?:.*?\((?P<new>\w+)\)\n)?"
)


@dataclass(frozen=True)
class QuantizeOptions:
    """What llama-quantize offers on its command line."""

    type: str
    allow_requantize: bool = False
    pure: bool = False
    leave_output_tensor: bool = False
    n_threads: int | None = None


@dataclass(frozen=True)
class DryRun:
    """What a quantization would make: the type of every tensor and the bytes of all of them."""

    types: dict[str, str]
    tensor_bytes: int  # with the padding between tensors


def parse_type(text: str) -> str:
    """The official name of a type, case ignored. Raises UsageError for one that does not exist."""
    name = text.upper()
    if name not in FILE_TYPES:
        raise UsageError(f"'{text}' is not a quantization type: {', '.join(FILE_TYPES)}")
    return name


def quantize(
    source: Path,
    target: Path,
    options: QuantizeOptions,
    imatrix: Imatrix | None = None,
    progress: Callable[[int, int], object] | None = None,
) -> None:
    """Write `source` (the first shard of a split model) as one file of another type.

    `progress` is told the number of the current tensor and of all. Raises LlamaError with the
    quantizer's reason.
    """

    def report(match: re.Match[str]) -> None:
        if progress is not None:
            progress(int(match["i"]), int(match["n"]))

    with _tensor_lines(report):
        _run(source, target, options, imatrix, dry_run=False)


def dry_run(
    source: Path, tensors: tuple[Tensor, ...], options: QuantizeOptions, imatrix: Imatrix | None
) -> DryRun:
    """The exact outcome without quantizing. `source` needs no tensor data, only its header."""
    types: dict[str, str] = {}

    def collect(match: re.Match[str]) -> None:
        types[match["name"]] = (match["new"] or match["old"]).upper()

    with _tensor_lines(collect):
        _run(source, Path("unused"), options, imatrix, dry_run=True)
    _check_outcome(source, tensors, types, options)
    by_name = {t.name.upper(): t for t in TENSOR_TYPES.values()}
    sizes = [by_name[types[tensor.name]].size_bytes(tensor.shape) for tensor in tensors]
    return DryRun(types, sum(-(-size // 32) * 32 for size in sizes))


def _check_outcome(
    source: Path, tensors: tuple[Tensor, ...], types: dict[str, str], options: QuantizeOptions
) -> None:
    """A dry run only warns of what the real one refuses; raises LlamaError for it."""
    if "will require an imatrix" in log_tail().last_error():
        raise LlamaError(
            f"{source}: cannot be quantized to {options.type} without an importance matrix: "
            "give one with --imatrix"
        )
    changed = [t for t in tensors if t.type.name != types[t.name] and t.type.block_size > 1]
    if changed and not options.allow_requantize:
        raise LlamaError(
            f"{source}: {changed[0].name} is quantized already ({changed[0].type.name}); "
            "--allow-requantize quantizes it again, at a loss of quality"
        )


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
            outcomes.append(dry_run(source, tensors, options, imatrix))
        except LlamaError:
            outcomes.append(None)
    return tuple(outcomes)


@contextlib.contextmanager
def _tensor_lines(handle: Callable[[re.Match[str]], None]) -> Iterator[None]:
    """Call `handle` for every tensor the quantizer logs; it logs a line in several pieces."""
    pieces: list[str] = []

    def listen(text: str) -> None:
        pieces.append(text)
        if text.endswith("\n"):
            match = _TENSOR_LINE.match("".join(pieces))
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
    params = lib.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[options.type]
    params.only_copy = options.type == COPY
    params.allow_requantize = options.allow_requantize
    params.pure = options.pure
    params.quantize_output_tensor = not options.leave_output_tensor
    params.nthread = options.n_threads or 0
    params.dry_run = dry_run
    kept_alive = _set_imatrix(lib, params, imatrix)
    log_tail().lines.clear()
    status = lib.llama_model_quantize(
        os.fsencode(source), os.fsencode(target), ctypes.byref(params)
    )
    del kept_alive
    if status != 0:
        raise LlamaError(f"{source}: cannot be quantized to {options.type}: {_reason()}")


def _reason() -> str:
    text = log_tail().last_error()
    text = text.removeprefix("llama_model_quantize: failed to quantize: ")
    if "requantizing from type" in text:
        return f"{text}; --allow-requantize does it nevertheless, at a loss of quality"
    if "iostream" in text:
        return "the output cannot be written; is the disk full?"
    if "requires an imatrix" in text:
        return f"{text} Give one with --imatrix"
    return text


def _set_imatrix(lib: Any, params: Any, imatrix: Imatrix | None) -> list[Any]:
    """Point the parameters to the data; returns the objects that must outlive the call."""
    if imatrix is None:
        return []
    alive: list[Any] = []
    data = (lib.llama_model_imatrix_data * (len(imatrix.entries) + 1))()
    for slot, (name, entry) in zip(data, imatrix.entries.items(), strict=False):
        values = np.ascontiguousarray(entry, np.float32)
        slot.name, slot.size = encode_text(name), values.size
        slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        alive.append(values)
    overrides = _overrides(lib, imatrix_metadata(imatrix))
    params.imatrix = ctypes.cast(data, ctypes.POINTER(lib.llama_model_imatrix_data))
    params.kv_overrides = ctypes.cast(overrides, ctypes.POINTER(lib.llama_model_kv_override))
    return [*alive, data, overrides]


def imatrix_metadata(imatrix: Imatrix) -> dict[str, str | int]:
    """The keys llama-quantize adds to the file; strings are cut to the 127 bytes it can pass."""
    values: dict[str, str | int] = {
        "quantize.imatrix.file": imatrix.path.name.encode("utf-8", "replace").decode()
    }
    if imatrix.dataset:
        values["quantize.imatrix.dataset"] = imatrix.dataset
    values["quantize.imatrix.entries_count"] = len(imatrix.entries)
    if imatrix.n_chunk > 0:
        values["quantize.imatrix.chunks_count"] = imatrix.n_chunk
    cut = {
        k: v.encode()[:127].decode("utf-8", "ignore") for k, v in values.items() if type(v) is str
    }
    return values | cut


def _overrides(lib: Any, values: dict[str, str | int]) -> Any:
    overrides = (lib.llama_model_kv_override * (len(values) + 1))()
    for slot, (key, value) in zip(overrides, values.items(), strict=False):
        slot.key = key.encode()
        if isinstance(value, int):
            slot.tag, slot.value.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, value
        else:
            slot.tag, slot.value.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, value.encode()
    return overrides
