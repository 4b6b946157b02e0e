"""Metadata that depends on the layers: what must be rewritten, and what makes us refuse.

The keys and how llama.cpp reads them: `get_key_or_arr` in src/llama-model-loader.cpp and the
generic part of `load_hparams` in src/llama-model.cpp.
"""

from __future__ import annotations

from collections.abc import Sequence

from ggprune.errors import ArchitectureError, FormatError
from ggprune.model import Model, Value
from ggprune.model.metadata import SCALAR_FORMATS, scalar

BLOCK_COUNT = "{arch}.block_count"

HEAD_COUNT = "{arch}.attention.head_count"
HEAD_SIZES = ("{arch}.attention.key_length", "{arch}.attention.value_length")

# One entry per layer where they are arrays; a scalar holds for all layers.
PER_LAYER_ARRAYS = (
    HEAD_COUNT,
    "{arch}.attention.head_count_kv",
    "{arch}.feed_forward_length",
    "{arch}.expert_used_count",
    "{arch}.expert_feed_forward_length",
    "{arch}.swiglu_clamp_exp",
    "{arch}.swiglu_clamp_shexp",
)

# The first k layers differ from the rest: k falls by the number of dropped layers among them.
PREFIX_COUNTS = ("{arch}.leading_dense_block_count",)

# Arrays whose length has nothing to do with the layers, whatever it happens to be.
OTHER_ARRAYS = ("{arch}.rope.dimension_sections", "{arch}.classifier.output_labels")

# Not zero means that the layers are not all alike, whatever the architecture says.
REFUSED_COUNTS = {
    "{arch}.nextn_predict_layers": "its last layers are multi-token-prediction (MTP) blocks",
}


def check_layers_alike(model: Model) -> None:
    """Raises ArchitectureError if the metadata says that layers differ in a way not handled."""
    for template, reason in REFUSED_COUNTS.items():
        value = model.metadata.get(_key(template, model))
        if value is not None and value.decode():
            raise ArchitectureError(f"{model.path}: layers cannot be removed yet: {reason}")
    known = {_key(k, model) for k in (*PER_LAYER_ARRAYS, *OTHER_ARRAYS)}
    for key, value in model.metadata.items():
        if not key.startswith(f"{model.arch}.") or key in known:
            continue
        if value.array_len == model.n_layer:
            raise ArchitectureError(
                f"{model.path}: {key} has one entry per layer ({model.n_layer}) and is not known; "
                "removing layers could be silently wrong"
            )


def layer_metadata(model: Model, keep: Sequence[int]) -> dict[str, Value]:
    """Values that change when only the layers `keep` (sorted) remain, key by key.

    Raises FormatError if a per-layer array does not have one entry per layer.
    """
    changed = {_key(BLOCK_COUNT, model): len(keep)}
    for template in PREFIX_COUNTS:
        key = _key(template, model)
        if key in model.metadata:
            n_prefix = model.value(key, int)
            changed[key] = sum(1 for layer in keep if layer < n_prefix)
    values = {key: _same_type(model.metadata[key], n) for key, n in changed.items()}
    for template in PER_LAYER_ARRAYS:
        key = _key(template, model)
        value = model.metadata.get(key)
        if value is not None and value.array_len is not None:
            values[key] = _sliced(model, key, value, keep)
    _check_head_size(model, keep)
    return values


def _check_head_size(model: Model, keep: Sequence[int]) -> None:
    """Where head sizes are not stated, llama.cpp derives them from layer 0's number of heads."""
    heads = model.metadata.get(_key(HEAD_COUNT, model))
    if heads is None or heads.array_len is None or keep[0] == 0:
        return
    counts = heads.decode()
    stated = all(_key(k, model) in model.metadata for k in HEAD_SIZES)
    if not stated and counts[keep[0]] != counts[0]:
        raise ArchitectureError(
            f"{model.path}: layer 0 cannot be dropped: the head size is derived from its number of "
            f"heads, {counts[0]}, and layer {keep[0]} has {counts[keep[0]]}"
        )


def _sliced(model: Model, key: str, value: Value, keep: Sequence[int]) -> Value:
    if value.array_len != model.n_layer:
        raise FormatError(
            f"{model.path}: {key} has {value.array_len} entries, "
            f"expected block_count = {model.n_layer}"
        )
    return value.select(keep)


def _same_type(old: Value, number: int) -> Value:
    assert old.type in SCALAR_FORMATS  # Model.value has decoded it as an int
    return scalar(old.type, number)


def _key(template: str, model: Model) -> str:
    return template.format(arch=model.arch)
