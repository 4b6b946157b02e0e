"""What the pruned file will look like, byte for byte, before anything is written.

Names, metadata and offsets of the result follow from the model and the plan alone, so exact sizes
are known without writing.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gguf.utility import size_label

from ggprune.arch import removal_metadata
from ggprune.errors import DataError
from ggprune.model import Model, Tensor, Value, ValueType
from ggprune.model.blocks import block_of, rename_block
from ggprune.model.gguf import MAGIC
from ggprune.model.metadata import SCALAR_FORMATS, array, encode_text, scalar, string
from ggprune.surgery.plan import PrunePlan
from ggprune.version import __version__

SIZE_LABEL = "general.size_label"
PARAMETER_COUNT = "general.parameter_count"
EXPERT_COUNT = "{arch}.expert_count"
TENSOR_EXTRA = "general.tensor_extra."  # llama.cpp: src/llama-model.cpp, load_stats

DROPPED_LAYERS = "ggprune.dropped_layers"
SOURCE_FINGERPRINT = "ggprune.source.fingerprint"
SOURCE_BLOCK_COUNT = "ggprune.source.block_count"
VERSION = "ggprune.version"
HISTORY = "ggprune.history"
PROVENANCE = (DROPPED_LAYERS, SOURCE_FINGERPRINT, SOURCE_BLOCK_COUNT, VERSION)


@dataclass(frozen=True)
class Placement:
    """A kept tensor, its new name and where its bytes start in the new file."""

    tensor: Tensor
    name: str
    offset: int


@dataclass(frozen=True)
class Layout:
    """A whole GGUF file except for the tensors' bytes."""

    header: bytes  # up to the first tensor, padding included
    placements: tuple[Placement, ...]
    size_bytes: int


def make_layout(model: Model, plan: PrunePlan) -> Layout:
    """The file that `plan` makes of `model`: kept tensors in their order, padded with zeros.

    Raises DataError if the plan was made for another model.
    """
    if plan.fingerprint != model.fingerprint:
        raise DataError(f"{model.path}: the plan was made for another model")
    names = kept_names(model, plan)
    metadata = pruned_metadata(model, plan)
    kept = [tensor for tensor in model.tensors if tensor.name in names]
    relative, offsets = 0, []
    for tensor in kept:
        offsets.append(relative)
        relative = _pad(relative + tensor.size_bytes, model.alignment)
    header = _header(model, metadata, [(t, names[t.name]) for t in kept], offsets)
    placements = tuple(
        Placement(tensor, names[tensor.name], len(header) + offset)
        for tensor, offset in zip(kept, offsets, strict=True)
    )
    return Layout(header, placements, len(header) + relative)


def size_with(model: Model, added: Mapping[str, Value], tensor_bytes: int) -> int:
    """Size of a file with the model's metadata and `added` to it, in front of `tensor_bytes`."""
    tensors = [(tensor, tensor.name) for tensor in model.tensors]
    header = _header(model, {**model.metadata, **added}, tensors, [0] * len(tensors))
    return len(header) + tensor_bytes


def kept_names(model: Model, plan: PrunePlan) -> dict[str, str]:
    """New name of every tensor that stays, by its old name."""
    new_layer = {old: new for new, old in enumerate(plan.keep)}
    names: dict[str, str] = {}
    for tensor in model.tensors:
        layer = block_of(tensor.name)
        if layer is None:
            names[tensor.name] = tensor.name
        elif layer in new_layer:
            names[tensor.name] = rename_block(tensor.name, new_layer[layer])
    return names


def pruned_metadata(model: Model, plan: PrunePlan) -> dict[str, Value]:
    """All metadata of the result in the order of the source, provenance at the end."""
    if not plan.drop:
        return dict(model.metadata)
    names = kept_names(model, plan)
    kept = [tensor for tensor in model.tensors if tensor.name in names]
    by_position = removal_metadata(model, plan.keep)
    return {
        **model.metadata,
        **by_position,
        **_size_values(model, kept),
        **_tensor_extra(model, names),
        **_provenance(model, plan),
    }


def _size_values(model: Model, kept: Sequence[Tensor]) -> dict[str, Value]:
    """Parameter counts, where the source states them."""
    n_param = sum(tensor.n_element for tensor in kept)
    values: dict[str, Value] = {}
    if PARAMETER_COUNT in model.metadata and model.metadata[PARAMETER_COUNT].type in SCALAR_FORMATS:
        values[PARAMETER_COUNT] = scalar(model.metadata[PARAMETER_COUNT].type, n_param)
    if SIZE_LABEL in model.metadata:
        values[SIZE_LABEL] = string(_label(model, kept, n_param))
    return values


def _label(model: Model, kept: Sequence[Tensor], n_param: int) -> str:
    """`7B` or `8x7B`, by the formula of gguf-py that made the original label."""
    value = model.metadata.get(EXPERT_COUNT.format(arch=model.arch))
    n_expert = value.decode() if value is not None else 0
    if not isinstance(n_expert, int) or n_expert <= 0:
        return str(size_label(n_param, 0, 0, 0))
    n_in_experts = sum(t.n_element for t in kept if "_exps." in t.name)
    return str(size_label(n_param, n_param - n_in_experts, n_in_experts // n_expert, n_expert))


def _tensor_extra(model: Model, names: Mapping[str, str]) -> dict[str, Value]:
    """`general.tensor_extra.*`: parallel arrays about tensors, one of which names them."""
    if TENSOR_EXTRA + "name" not in model.metadata:
        return {}
    listed = model.value(TENSOR_EXTRA + "name", list)
    kept = [i for i, name in enumerate(listed) if name in names]
    values = {
        key: value.select(kept)
        for key, value in model.metadata.items()
        if key.startswith(TENSOR_EXTRA)
        and value.array_len == len(listed)
        and value.element_type != ValueType.STRING
    }
    renamed = array(ValueType.STRING, [names[listed[i]] for i in kept])
    return {**values, TENSOR_EXTRA + "name": renamed}


def _provenance(model: Model, plan: PrunePlan) -> dict[str, Value]:
    """Where the file came from. A second pruning moves the first one's record to the history."""
    values = {
        DROPPED_LAYERS: array(ValueType.INT32, plan.drop),
        SOURCE_FINGERPRINT: string(plan.fingerprint),
        SOURCE_BLOCK_COUNT: scalar(ValueType.UINT32, plan.n_layer),
        VERSION: string(__version__),
    }
    if DROPPED_LAYERS in model.metadata:
        before = model.metadata[HISTORY].decode() if HISTORY in model.metadata else []
        record = {k: model.metadata[k].decode() for k in PROVENANCE if k in model.metadata}
        values[HISTORY] = array(ValueType.STRING, [*before, json.dumps(record)])
    return values


def _header(
    model: Model,
    metadata: Mapping[str, Value],
    tensors: Sequence[tuple[Tensor, str]],
    offsets: Sequence[int],
) -> bytes:
    parts = [struct.pack("<4sIQQ", MAGIC, model.files[0].version, len(tensors), len(metadata))]
    for key, value in metadata.items():
        parts += [_text(key), struct.pack("<I", value.type), bytes(value.raw)]
    for (tensor, name), offset in zip(tensors, offsets, strict=True):
        n_dim = len(tensor.shape)
        parts += [_text(name), struct.pack(f"<I{n_dim}Q", n_dim, *tensor.shape)]
        parts.append(struct.pack("<IQ", tensor.type.id, offset))
    header = b"".join(parts)
    return header.ljust(_pad(len(header), model.alignment), b"\0")


def _text(text: str) -> bytes:
    data = encode_text(text)
    return struct.pack("<Q", len(data)) + data


def _pad(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
