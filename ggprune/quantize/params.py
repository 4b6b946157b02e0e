"""The quantizer's parameters as the C struct that llama_model_quantize takes.

Follows tools/quantize/quantize.cpp in what it passes and in which order. Knows nothing of models.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from types import ModuleType

import numpy as np

from ggprune.model.imatrix import Imatrix
from ggprune.model.metadata import encode_text
from ggprune.model.types import tensor_type
from ggprune.quantize.options import (
    COPY,
    FILE_TYPES,
    MAX_TEXT_BYTES,
    QuantizeOptions,
    TensorTypeRule,
)

MIB = 1 << 20


def make_params(
    lib: ModuleType, options: QuantizeOptions, imatrix: Imatrix | None, *, dry_run: bool
) -> tuple[ctypes.Structure, list[object]]:
    """The struct, and the objects that it points into: they must outlive the call."""
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
        params.max_buf_size = options.max_buffer_mib * MIB
    alive = _set_rules(lib, params, options.tensor_types)
    alive += _set_overrides(lib, params, added_metadata(options, imatrix))
    return params, alive + (_set_imatrix(lib, params, imatrix) if imatrix is not None else [])


def added_metadata(
    options: QuantizeOptions, imatrix: Imatrix | None
) -> dict[str, bool | int | float | str]:
    """What the quantizer is told to write: the user's values and where the imatrix came from."""
    given = {override.key: override.value for override in options.overrides}
    return given | (imatrix_metadata(imatrix) if imatrix is not None else {})


def imatrix_metadata(imatrix: Imatrix) -> dict[str, str | int]:
    """The keys llama-quantize adds to the file; strings are cut to the bytes it can pass."""
    values: dict[str, str | int] = {
        "quantize.imatrix.file": imatrix.path.name.encode("utf-8", "replace").decode()
    }
    if imatrix.dataset:
        values["quantize.imatrix.dataset"] = imatrix.dataset
    values["quantize.imatrix.entries_count"] = len(imatrix.entries)
    if imatrix.n_chunk > 0:
        values["quantize.imatrix.chunks_count"] = imatrix.n_chunk
    cut = {
        k: v.encode()[:MAX_TEXT_BYTES].decode("utf-8", "ignore")
        for k, v in values.items()
        if type(v) is str
    }
    return values | cut


def _set_imatrix(lib: ModuleType, params: ctypes.Structure, imatrix: Imatrix) -> list[object]:
    alive: list[object] = []
    data = (lib.llama_model_imatrix_data * (len(imatrix.entries) + 1))()
    for slot, (name, entry) in zip(data, imatrix.entries.items(), strict=False):
        values = np.ascontiguousarray(entry, np.float32)
        slot.name, slot.size = encode_text(name), values.size
        slot.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
        alive.append(values)
    params.imatrix = ctypes.cast(data, ctypes.POINTER(lib.llama_model_imatrix_data))
    return [*alive, data]


def _set_rules(
    lib: ModuleType, params: ctypes.Structure, rules: tuple[TensorTypeRule, ...]
) -> list[object]:
    if not rules:
        return []
    overrides = (lib.llama_model_tensor_override * (len(rules) + 1))()
    for slot, rule in zip(overrides, rules, strict=False):
        slot.pattern, slot.type = encode_text(rule.pattern), tensor_type(rule.type).id
    params.tt_overrides = ctypes.cast(overrides, ctypes.POINTER(lib.llama_model_tensor_override))
    return [overrides]


def _set_overrides(
    lib: ModuleType, params: ctypes.Structure, values: Mapping[str, bool | int | float | str]
) -> list[object]:
    if not values:
        return []
    overrides = (lib.llama_model_kv_override * (len(values) + 1))()
    for slot, (key, value) in zip(overrides, values.items(), strict=False):
        slot.key = encode_text(key)
        if isinstance(value, bool):
            slot.tag, slot.value.val_bool = lib.LLAMA_KV_OVERRIDE_TYPE_BOOL, value
        elif isinstance(value, int):
            slot.tag, slot.value.val_i64 = lib.LLAMA_KV_OVERRIDE_TYPE_INT, value
        elif isinstance(value, float):
            slot.tag, slot.value.val_f64 = lib.LLAMA_KV_OVERRIDE_TYPE_FLOAT, value
        else:
            slot.tag, slot.value.val_str = lib.LLAMA_KV_OVERRIDE_TYPE_STR, encode_text(value)
    params.kv_overrides = ctypes.cast(overrides, ctypes.POINTER(lib.llama_model_kv_override))
    return [overrides]
