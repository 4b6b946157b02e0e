"""Requantizing through llama.cpp's own quantizer, and what it would do without doing it.

Follows tools/quantize/quantize.cpp in what it passes and in which order. Nothing here decides which
layers there are: a model is pruned first, so that the quantizer sees its true depth.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from ggprune.errors import LlamaError, UsageError
from ggprune.files.copy import start_writeback
from ggprune.model.imatrix import Imatrix
from ggprune.model.metadata import encode_text
from ggprune.model.model import Model, open_model
from ggprune.model.names import HEAD, LAYER_EMBEDDING, TOKEN_EMBEDDING
from ggprune.model.types import tensor_type
from ggprune.progress import SILENT, Progress
from ggprune.quantize.options import COPY, FILE_TYPES, MAX_TEXT_BYTES, QuantizeOptions
from ggprune.runtime.lastwords import announce, quantize_limit_s, time_limit
from ggprune.runtime.library import llama, log_tail
from ggprune.runtime.shards import findable

EMBEDDINGS = (TOKEN_EMBEDDING, LAYER_EMBEDDING)
# llama_model_kv_override: tag and member for a value
KV_TAGS = {
    bool: ("BOOL", "val_bool"), int: ("INT", "val_i64"), float: ("FLOAT", "val_f64"),
    str: ("STR", "val_str"),
}  # fmt: skip

_TENSOR_LINE = re.compile(
    r"\[\s*(?P<i>\d+)/\s*(?P<n>\d+)\] (?P<name>.+?)\s+- \[.*?\], type =\s*(?P<old>\w+),"
    r"(?:.*?\((?P<new>\w+)\)\n)?"
)


def quantize(
    source: Path, target: Path, options: QuantizeOptions,
    imatrix: Imatrix | None = None, progress: Progress = SILENT,
) -> None:  # fmt: skip
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
        limit.start(limit_s)
        progress.step(int(match["i"]), int(match["n"]))

    largest = max((tensor.size_bytes for tensor in open_model(source).tensors), default=0)
    limit_s, what = quantize_limit_s(largest), f"{source}: quantizing one of its tensors"
    with time_limit(limit_s, what) as limit, listen_to_lines(_TENSOR_LINE, report):
        _run(source, target, options, imatrix, dry_run=False)


def dry_run(model: Model, options: QuantizeOptions, imatrix: Imatrix | None) -> dict[str, str]:
    """The type that every tensor would get, in the order in which the quantizer stores them.

    The model's file needs no tensor data, only its header. What only the real run refuses is for
    `check_types` to say. Raises UsageError for rows that do not fit a type which the quantizer
    forces on any shape: it aborts.
    """
    forced = {HEAD: options.output_tensor_type}
    forced |= dict.fromkeys(EMBEDDINGS, options.token_embedding_type)
    for tensor in model.tensors:
        name = forced.get(tensor.name)
        if name is not None and tensor.shape[0] % tensor_type(name).block_size:
            raise UsageError(
                f"{model.path}: {tensor.name} has rows of {tensor.shape[0]}, {name} needs "
                f"multiples of {tensor_type(name).block_size}"
            )
    lines: list[re.Match[str]] = []
    with listen_to_lines(_TENSOR_LINE, lines.append):
        _run(model.path, Path("unused"), options, imatrix, dry_run=True)
    return {line["name"]: (line["new"] or line["old"]).upper() for line in lines}


@contextlib.contextmanager
def listen_to_lines(
    pattern: re.Pattern[str], handle: Callable[[re.Match[str]], object]
) -> Iterator[None]:
    """Call `handle` for every line of the log that matches; lines are logged in several pieces."""
    pieces: list[str] = []

    def listen(text: str) -> None:
        pieces.append(text)
        if text.endswith("\n"):
            line = "".join(pieces)
            pieces.clear()
            if match := pattern.match(line):
                handle(match)

    with log_tail().heard_by(listen):
        yield


def _run(
    source: Path, target: Path, options: QuantizeOptions, imatrix: Imatrix | None, *, dry_run: bool
) -> None:
    lib = llama()
    params, alive = _params(options, imatrix, dry_run=dry_run)
    log_tail().lines.clear()
    announce(source)
    with findable(source) as first:
        paths = os.fsencode(first), os.fsencode(target)
        status = lib.llama_model_quantize(*paths, ctypes.byref(params))
    del alive
    if status != 0:
        reason = log_tail().last_error().removeprefix("llama_model_quantize: failed to quantize: ")
        if "iostream" in reason:
            reason = "the output cannot be written; is the disk full?"
        raise LlamaError(f"{source}: cannot be quantized to {options.type}: {reason}")


def _params(
    options: QuantizeOptions, imatrix: Imatrix | None, *, dry_run: bool
) -> tuple[ctypes.Structure, list[object]]:
    """What llama_model_quantize takes, and what that points into, which must outlive the call."""
    lib = llama()
    params = lib.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[options.type]
    params.only_copy = options.type == COPY
    params.allow_requantize = options.allow_requantize
    params.pure = options.pure
    params.quantize_output_tensor = not options.leave_output_tensor
    params.nthread = options.n_threads or 0
    params.dry_run = dry_run
    if options.output_tensor_type is not None:
        params.output_tensor_type = tensor_type(options.output_tensor_type).id
    if options.token_embedding_type is not None:
        params.token_embedding_type = tensor_type(options.token_embedding_type).id
    if options.max_buffer_mib is not None:
        params.max_buf_size = options.max_buffer_mib << 20
    alive: list[object] = []

    def attach(field: str, kind: type[ctypes.Structure], n: int) -> ctypes.Array[ctypes.Structure]:
        """Point a field at room for `n` rows and an empty one, which ends them."""
        rows = (kind * (n + 1))()
        setattr(params, field, ctypes.cast(rows, ctypes.POINTER(kind)))
        alive.append(rows)
        return rows

    if rules := options.tensor_types:
        rows = attach("tt_overrides", lib.llama_model_tensor_override, len(rules))
        for row, rule in zip(rows, rules, strict=False):
            row.pattern, row.type = encode_text(rule.pattern), tensor_type(rule.type).id
    if added := added_metadata(options, imatrix):
        rows = attach("kv_overrides", lib.llama_model_kv_override, len(added))
        for row, (key, value) in zip(rows, added.items(), strict=False):
            tag, field = KV_TAGS[type(value)]
            row.key, row.tag = encode_text(key), getattr(lib, f"LLAMA_KV_OVERRIDE_TYPE_{tag}")
            setattr(row.value, field, encode_text(value) if isinstance(value, str) else value)
    if imatrix is not None:
        rows = attach("imatrix", lib.llama_model_imatrix_data, len(imatrix.entries))
        for row, (name, entry) in zip(rows, imatrix.entries.items(), strict=False):
            values = np.ascontiguousarray(entry, np.float32)
            row.name, row.size = encode_text(name), values.size
            row.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            alive.append(values)
    return params, alive


def added_metadata(
    options: QuantizeOptions, imatrix: Imatrix | None
) -> dict[str, bool | int | float | str]:
    """What the quantizer is told to write: the user's values and where the imatrix came from."""
    values = {override.key: override.value for override in options.overrides}
    if imatrix is None:
        return values
    values["quantize.imatrix.file"] = _cut(imatrix.path.name.encode("utf-8", "replace"))
    if imatrix.dataset:
        values["quantize.imatrix.dataset"] = _cut(imatrix.dataset.encode())
    values["quantize.imatrix.entries_count"] = len(imatrix.entries)
    if imatrix.n_chunk > 0:
        values["quantize.imatrix.chunks_count"] = imatrix.n_chunk
    return values


def _cut(text: bytes) -> str:
    """As much of it as llama-quantize can pass."""
    return text[:MAX_TEXT_BYTES].decode("utf-8", "ignore")
