"""Rules about tensors: slices, weights that carry a constant, tensors of another place, new hosts.

Like `rules`, but what they change is more than numbers in the metadata.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ggprune.arch.change import Change, Edit, Scale, Slice
from ggprune.arch.removal import (
    BLOCK_COUNT,
    HEAD_COUNT,
    SHARED_KV,
    SLIDING_WINDOW,
    SWA_PATTERN,
    Illegal,
    Removal,
)  # fmt: skip
from ggprune.model import ValueType
from ggprune.model.metadata import array, scalar
from ggprune.model.names import rename_block

Params = Mapping[str, Any]

ROUNDED = "equal to leaving the layers out up to the rounding of 32-bit floats"
PER_LAYER_EMBEDDING = "per_layer_token_embd.weight"
PER_LAYER_PROJECTION = "per_layer_model_proj.weight"
ROPE_FREQS = "rope_freqs.weight"

# More tokens than any context has, and still far from overflowing 32 bits in llama.cpp's sums of
# windows over up to 256 sequences.
ENDLESS_WINDOW = 1 << 23
NO_SINK = -1e30  # exp() of it is 0: an attention sink that takes nothing


def slices(removal: Removal, _: Params) -> Change:
    """Embeddings per layer: one group per layer within rows, and the projection's groups of rows.

    gemma3n.cpp and gemma4.cpp, `load_arch_tensors`.
    """
    groups = {PER_LAYER_EMBEDDING: 0, PER_LAYER_PROJECTION: 1}
    edits: dict[str, Edit] = {}
    for name, axis in groups.items():
        tensor = removal.model.by_name.get(name)
        if tensor is None:
            continue
        n_group = removal.n_trunk
        block = tensor.type.block_size if axis == 0 else 1
        if tensor.shape[axis] % (n_group * block):
            raise Illegal(
                f"{name} stores {tensor.shape[axis]} elements of {n_group} layers as "
                f"{tensor.type.name}, whose blocks do not end with a layer's"
            )
        edits[name] = Slice(axis, n_group, removal.trunk)
    return Change(edits=edits)


def shared_kv(removal: Removal, rule: Params) -> Change:
    """The last layers use keys and values of the last two layers that have their own.

    gemma4.cpp:8-11, `reuse` in llama-model.cpp. Gemma3n knows its layer 20 by number.
    """
    n_shared = removal.number(SHARED_KV)
    first = removal.model.n_layer - n_shared
    kept = sum(1 for n in removal.keep if n >= first)
    if len(removal.keep) < 2:
        raise Illegal("at least 2 layers must stay: llama.cpp needs them for shared keys")
    if kept and not {first - 2, first - 1} <= set(removal.keep):
        raise Illegal(
            f"layers {first - 2} and {first - 1} hold the keys and values that the layers from "
            f"{first} on use, and must stay with them"
        )
    change = Change()
    if removal.value(SHARED_KV) is not None:
        change |= Change({removal.key(SHARED_KV): removal.with_type_of(SHARED_KV, kept)})
    windows = removal.swa
    if rule.get("rope_freqs") and windows is not None and all(windows[n] for n in removal.trunk):
        change |= Change(dropped=frozenset({ROPE_FREQS}))
    return change


def attention_scale(removal: Removal, rule: Params) -> Change:
    """At one depth the attention's scale is 1/sqrt(n_embd / n_head), else 1/sqrt(head size).

    gemma2.cpp:17-27, gemma3.cpp:18-31. The quotient goes into the queries: into their norm's
    weights, or into a `.scale` tensor, so that no weight is touched.
    """
    depth, now = rule["depth"], len(removal.trunk)
    if removal.n_trunk != depth:
        if now == depth:
            raise Illegal(f"with {depth} layers llama.cpp takes another attention scale")
        return Change()
    n_head = removal.number(HEAD_COUNT)
    head_size = removal.number("{arch}.attention.key_length")
    if not n_head or not head_size:
        raise Illegal("the attention's scale cannot be told from the metadata")
    factor = math.sqrt(head_size / (removal.number("{arch}.embedding_length") // n_head))
    edits: dict[str, Edit] = {}
    added: dict[str, tuple[float, ...]] = {}
    tensors = removal.model.by_name
    for new, old in enumerate(removal.trunk):
        name, bias = f"blk.{old}.{rule['tensor']}", f"blk.{old}.attn_q.bias"
        if name in tensors:
            edits[name] = _exact_scale(removal, name, factor)
        elif name.endswith(".scale") and f"blk.{old}.attn_q.weight" in tensors:
            added[rename_block(name, new)] = (factor,)
        else:
            raise Illegal(f"{name} is missing, which would carry the attention's scale")
        if name.endswith(".scale") and bias in tensors:  # it is added behind the scale
            edits[bias] = _exact_scale(removal, bias, factor)
    note = f"the attention scale of {depth}-layer models is carried by {rule['tensor']}: {ROUNDED}"
    return Change(edits=edits, added=added, notes=(note,))


def rescaled_by_depth(removal: Removal, rule: Params) -> Change:
    """Every layer's two branches are divided by sqrt(number of layers) (minicpm3.cpp:197-220)."""
    factor = math.sqrt(len(removal.trunk) / removal.n_trunk)
    edits: dict[str, Edit] = {
        name: _exact_scale(removal, name, factor)
        for name in _layer_tensors(removal, rule["tensors"])
    }
    note = f"llama.cpp scales by the number of layers; the weights make up for it: {ROUNDED}"
    return Change(edits=edits, notes=(note,))


def _layer_tensors(removal: Removal, parts: list[str]) -> list[str]:
    names = [f"blk.{layer}.{part}" for layer in removal.trunk for part in parts]
    missing = [name for name in names if name not in removal.model.by_name]
    if missing:
        raise Illegal(f"{missing[0]} is missing, which would have to be rescaled")
    return names


def _exact_scale(removal: Removal, name: str, factor: float) -> Scale:
    kind = removal.model.by_name[name].type.name
    if kind != "F32":
        raise Illegal(
            f"{name} would have to be multiplied by {factor:.6g} and cannot be as {kind} without "
            "loss: convert the model to F32 first (ggprune quantize --type F32), prune, requantize"
        )
    return Scale(factor)


def hosted(removal: Removal, rule: Params) -> Change:
    """At some depths llama.cpp computes the architecture differently; another one does not.

    `hosts` maps the old depth to the architecture that computes the same at any depth.
    """
    host: str | None = rule["hosts"].get(str(removal.n_trunk))
    now = str(len(removal.trunk))
    if host is None and now in rule["hosts"]:
        raise Illegal(f"with {now} layers {rule['why']}")
    if host is None:
        return Change()
    if any(name.endswith(".scale") for name in removal.model.by_name):
        raise Illegal(f"with its .scale tensors it cannot become {host}, and {rule['why']}")
    note = f"stored as architecture {host}, which computes the same at any depth ({rule['why']})"
    return Change(arch=host, notes=(note,))


def rope_by_array(removal: Removal, rule: Params) -> Change:
    """Every p-th layer has no position encoding. Where that breaks, granite_swa can be told so.

    It wants sliding windows and attention sinks: endless ones, and some that take nothing
    (smollm3.cpp:70, granite-swa.cpp:30-43).
    """
    p = rule["p"]
    kept = [(n + 1) % p != 0 for n in removal.trunk]
    if kept == [(n + 1) % p != 0 for n in range(len(kept))]:
        return Change()
    n, n_head = len(kept), removal.number(HEAD_COUNT)
    if not n_head or removal.number("{arch}.logit_scale"):
        raise Illegal("the position encoding of the remaining layers cannot be stored")
    stored = {
        SWA_PATTERN: array(ValueType.BOOL, [True] * n),
        SLIDING_WINDOW: scalar(ValueType.UINT32, ENDLESS_WINDOW),
        "{arch}.attention.rope_pattern": array(ValueType.BOOL, kept),
        "{arch}.logit_scale": scalar(ValueType.FLOAT32, 1.0),
    }
    sinks = {f"blk.{i}.attn_sinks.weight": (NO_SINK,) * n_head for i in range(n)}
    note = "stored as architecture granite_swa, which is told per layer where RoPE applies"
    return Change(
        {removal.key(k): v for k, v in stored.items()},
        frozenset({removal.key("{arch}.expert_count")}),
        arch="granite_swa",
        added=sinks,
        notes=(note,),
    )


def two_stacks(removal: Removal, _: Params) -> Change:
    """An encoder and a decoder, whose first layer's position biases serve all (t5.cpp:146,305)."""
    n_encoder, rest = removal.model.stacks[0][1], removal.model.stacks[1:]
    encoder = [n for n in removal.keep if n < n_encoder]
    decoder = [n for n in removal.keep if n >= n_encoder]
    if not encoder or (rest and not decoder):
        raise Illegal("at least one layer of the encoder and one of the decoder must stay")
    if len(decoder) > len(encoder):
        raise Illegal("llama.cpp needs an encoder at least as deep as the decoder")
    values = {removal.key(BLOCK_COUNT): removal.with_type_of(BLOCK_COUNT, len(encoder))}
    if rest:
        key = removal.key("{arch}.decoder_block_count")
        values[key] = scalar(ValueType.UINT32, len(decoder))
    biases = ("enc.blk.0.attn_rel_b.weight", "dec.blk.0.attn_rel_b.weight",
              "dec.blk.0.cross_attn_rel_b.weight")  # fmt: skip
    first = {0: encoder[0], **({n_encoder: decoder[0]} if decoder else {})}
    moved: dict[str, str] = {}
    for name in biases:
        if name not in removal.model.by_name:
            continue
        old_first = removal.model.layer_of(name) or 0
        new_first = first[old_first]
        own = rename_block(name, new_first - old_first)
        if new_first != old_first and own not in removal.model.by_name:
            moved[name] = name
    return Change(values, moved=moved)


def one_embedding_layer(removal: Removal, _: Params) -> Change:
    """One layer takes in n-gram embeddings (qwen4exp.cpp:71-86): its number follows or all goes."""
    layers = removal.items("{arch}.ple.layers")
    if layers is None:
        return Change()
    (layer,) = layers
    if layer in removal.keep:
        key = removal.key("{arch}.ple.layers")
        element = removal.model.metadata[key].element_type
        return Change({key: array(element or ValueType.UINT32, [removal.keep.index(layer)])})
    prefix = removal.key("{arch}.ple.")
    gone = frozenset(key for key in removal.model.metadata if key.startswith(prefix))
    return Change(gone=gone, dropped=frozenset({PER_LAYER_EMBEDDING}))
