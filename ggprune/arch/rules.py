"""What a removal means for the metadata, rule by rule, and which removals cannot be exact.

Every architecture's row names the rules that hold for it. A rule returns what it changes, or raises
Illegal with the reason. Rules about tensors are in `tensor_rules`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ggprune.arch import tensor_rules
from ggprune.arch.change import Change
from ggprune.arch.removal import (
    BLOCK_COUNT,
    DEEPSTACK,
    HEAD_COUNT,
    HEAD_SIZES,
    INDEXER_TYPES,
    INTERVAL,
    MOE_STEP,
    NEXTN,
    OTHER_ARRAYS,
    PER_LAYER_ARRAYS,
    PREFIX_COUNTS,
    RECURRENT,
    SLIDING_WINDOW,
    SWA_PATTERN,
    Illegal,
    Removal,
)  # fmt: skip
from ggprune.arch.schedules import recurrent_flags, removed_below, swa_flags
from ggprune.model import Model, Value, ValueType
from ggprune.model.metadata import SCALAR_SIZES, array, scalar

Params = Mapping[str, Any]
Rule = Callable[[Removal, Params], Change]

ARRAY_NOTE = "its sliding windows are stored as an array, which llama.cpp reads since 2026-09-17"


def layer_change(
    model: Model, keep: Sequence[int], rules: Sequence[Params], *, trust: bool = False
) -> Change:
    """What changes when only the layers `keep` (sorted) remain.

    Raises Illegal with all reasons if the removal cannot be exact, FormatError if a per-layer
    array does not have one entry per layer.
    """
    removal = Removal(model, tuple(keep), trust)
    change, reasons = Change(), []
    for rule in ({"rule": "generic"}, *rules):
        try:
            change |= RULES[rule["rule"]](removal, rule)
        except Illegal as e:
            reasons.append(str(e))
    if reasons:
        raise Illegal("; ".join(reasons))
    return change


def unknown_arrays(model: Model) -> tuple[str, ...]:
    """Keys of arrays that look per-layer and that no rule knows."""
    known = {k.format(arch=model.arch) for k in (*PER_LAYER_ARRAYS, *OTHER_ARRAYS, DEEPSTACK)}
    return tuple(
        key
        for key, value in model.metadata.items()
        if key.startswith(f"{model.arch}.")
        and key not in known
        and value.array_len == model.n_layer
        and value.element_type in SCALAR_SIZES
    )


# ---------------------------------------------------------------------------------------------
# for every architecture


def generic(removal: Removal, _: Params) -> Change:
    """Counts, prefix counts and per-layer arrays; MTP blocks stay together; head sizes stay."""
    keep, n_layer = removal.keep, removal.model.n_layer
    changed: dict[str, int] = {BLOCK_COUNT: len(keep)}
    if not removal.trunk:
        raise Illegal("at least one layer that is not an MTP block must stay")
    n_mtp, n_mtp_kept = n_layer - removal.n_trunk, len(keep) - len(removal.trunk)
    if n_mtp_kept not in (0, n_mtp):
        raise Illegal(
            f"layers {removal.n_trunk} to {n_layer - 1} are multi-token-prediction (MTP) blocks, "
            "which stay or go together (--drop-mtp)"
        )
    if n_mtp and not n_mtp_kept:
        changed[NEXTN] = 0
    for template in PREFIX_COUNTS:
        if removal.value(template) is not None:
            n_prefix = removal.number(template)
            changed[template] = sum(1 for layer in keep if layer < n_prefix)
    values = {removal.key(t): removal.with_type_of(t, n) for t, n in changed.items()}
    for template in (*PER_LAYER_ARRAYS, *(unknown_arrays(removal.model) if removal.trust else ())):
        value = removal.value(template)
        if value is not None and value.array_len is not None:
            values[removal.key(template)] = removal.sliced(template)
    return Change({**values, **_head_sizes(removal)}, notes=_template_note(removal))


def _head_sizes(removal: Removal) -> dict[str, Value]:
    """Where head sizes are not stated, llama.cpp derives them from layer 0's number of heads."""
    heads, first = removal.items(HEAD_COUNT), removal.keep[0]
    if heads is None or first == 0:
        return {}
    if heads[0] and not heads[first]:
        raise Illegal(f"layer {first} would come first and has no attention heads")
    missing = [key for key in HEAD_SIZES if removal.value(key) is None]
    if not missing or heads[first] == heads[0]:
        return {}
    size = int(removal.number("{arch}.embedding_length") // heads[0]) if heads[0] else 0
    if size == 0:
        raise Illegal(f"the head size follows from layer 0's {heads[0]} heads and is not stated")
    return {removal.key(key): scalar(ValueType.UINT32, size) for key in missing}


def _template_note(removal: Removal) -> tuple[str, ...]:
    """`llama_model_chat_template` (llama-model.cpp) knows one model by its 40 layers."""
    metadata = removal.model.metadata
    pre = removal.model.text("tokenizer.ggml.pre")
    if removal.n_trunk != 40 or pre != "tekken" or "tokenizer.chat_template" in metadata:
        return ()
    return (
        "the file has no chat template, and llama.cpp will no longer recognise the model by its "
        "40 layers: name the template yourself (--chat-template mistral-v7-tekken)",
    )


# ---------------------------------------------------------------------------------------------
# arrays and schedules of some architectures


def _applies(removal: Removal, rule: Params) -> bool:
    """Does the rule hold for this model? Some do with sliding windows only."""
    stated, size = removal.value(SLIDING_WINDOW) is not None, removal.number(SLIDING_WINDOW)
    when = {"if_stated": size > 0, "unless_zero": size > 0 or not stated}
    return bool(when.get(rule.get("window", ""), True))


def sliced(removal: Removal, rule: Params) -> Change:
    """Per-layer arrays outside the architecture's own keys."""
    stated = [key for key in rule["keys"] if removal.items(key) is not None]
    return Change({key: removal.sliced(key) for key in stated})


def swa_period(removal: Removal, rule: Params) -> Change:
    """Sliding windows by a period: kept while it still fits, else written as an array."""
    if not _applies(removal, rule):
        return Change()
    if removal.swa is not None:
        return swa_array(removal, rule)
    period = removal.period(rule["period"])
    dense_first = rule.get("dense_first", False)
    flags = swa_flags(period, removal.n_trunk, dense_first=dense_first)
    kept = tuple(flags[n] for n in removal.trunk)
    _check_any(kept, "sliding-window")
    if kept == swa_flags(period, len(kept), dense_first=dense_first):
        return Change()
    padded = [*kept, *[False] * (len(removal.keep) - len(kept))]
    return Change({removal.key(SWA_PATTERN): array(ValueType.BOOL, padded)}, notes=(ARRAY_NOTE,))


def swa_array(removal: Removal, rule: Params) -> Change:
    """Sliding windows by an explicit array, which is sliced like any other; one must remain."""
    if removal.swa is not None and any(removal.swa):
        _check_any([removal.swa[n] for n in removal.trunk], "sliding-window")
    return Change()


def first_swa(removal: Removal, rule: Params) -> Change:
    """Sizes of windowed layers differ, and llama.cpp takes those of layer 0 for all."""
    differs = any(
        removal.value(k + "_swa") is not None and removal.number(k + "_swa") != removal.number(k)
        for k in (*HEAD_SIZES, "{arch}.rope.dimension_count")
    )
    first = removal.keep[0]
    if differs and removal.swa is not None and removal.swa[first] != removal.swa[0]:
        raise Illegal(f"layer {first} would come first, but its window is not of layer 0's kind")
    return Change()


def recurrent_interval(removal: Removal, rule: Params) -> Change:
    """Recurrent layers by an interval: kept while it still fits, else written as an array."""
    if removal.items(RECURRENT) is not None:
        return Change()
    interval = removal.number(INTERVAL, rule["default"])
    flags = recurrent_flags(interval, removal.n_trunk)
    kept = tuple(flags[n] for n in removal.trunk)
    if kept == recurrent_flags(interval, len(kept)):
        return Change()
    padded = [*kept, *[False] * (len(removal.keep) - len(kept))]
    return Change({removal.key(RECURRENT): array(ValueType.BOOL, padded)})


def both_kinds(removal: Removal, rule: Params) -> Change:
    """Hybrid memory needs at least one attention layer and one recurrent layer."""
    flags = removal.recurrent(rule.get("interval"))
    if flags is None:
        return Change()
    kept = [flags[n] for n in removal.trunk]
    if any(flags):
        _check_any(kept, "recurrent")
    if not all(flags):
        _check_any([not x for x in kept], "attention")
    return Change()


def _check_any(kept: Sequence[bool], kind: str) -> None:
    if not any(kept):
        raise Illegal(f"the last {kind} layer would be gone, and llama.cpp needs one")


def period(removal: Removal, rule: Params) -> Change:
    """Something hard-coded follows the index with a period: whole periods must go."""
    if not _applies(removal, rule):
        return Change()
    p = int(removal.number(rule["p"])) if isinstance(rule["p"], str) else rule["p"]
    if p > 1 and any(n % p for n in removed_below(removal.trunk)):
        raise Illegal(
            f"{rule['what']} repeats every {p} layers by their position: in front of every layer "
            f"that stays, a multiple of {p} layers must go"
        )
    return Change()


def last_has_ffn(removal: Removal, _: Params) -> Change:
    """The rows that yield logits are picked in the feed-forward part of the last layer."""
    lengths, last = removal.items("{arch}.feed_forward_length"), removal.keep[-1]
    if lengths is not None and not lengths[last]:
        raise Illegal(f"layer {last} would come last and has no feed-forward part")
    return Change()


def n_layer_not(removal: Removal, rule: Params) -> Change:
    """A depth at which llama.cpp takes the model for another one."""
    if "tensor" in rule and rule["tensor"] not in removal.model.by_name:
        return Change()
    if not _applies(removal, rule):
        return Change()
    if len(removal.trunk) in rule["values"]:
        raise Illegal(f"with {len(removal.trunk)} layers {rule['why']}")
    return Change()


def n_layer_at_least(removal: Removal, rule: Params) -> Change:
    """A depth below which llama.cpp takes the model for another one."""
    if "tensor" in rule and rule["tensor"] not in removal.model.by_name:
        return Change()
    if len(removal.trunk) < rule["value"]:
        raise Illegal(f"at least {rule['value']} layers must stay: {rule['why']}")
    return Change()


def frozen_depth(removal: Removal, rule: Params) -> Change:
    """At one depth llama.cpp computes something else than at all others."""
    if removal.n_trunk == rule["value"]:
        raise Illegal(f"models of {rule['value']} layers cannot lose any: {rule['why']}")
    return Change()


def not_set(removal: Removal, rule: Params) -> Change:
    """A key that makes layers differ in a way that is not handled."""
    value = removal.value(rule["key"])
    if value is not None and (value.array_len is not None or value.decode()):
        raise Illegal(f"{removal.key(rule['key'])} is set: {rule['why']}")
    return Change()


def deepstack(removal: Removal, _: Params) -> Change:
    """Which input stream each layer takes in (-1: none): every stream must still be taken in."""
    streams = removal.items(DEEPSTACK)
    if streams is None:
        return Change()
    lost = {streams[n] for n in range(len(streams)) if n not in removal.keep} - {-1}
    if lost - {streams[n] for n in removal.keep}:
        raise Illegal(f"image embeddings of stream {min(lost)} enter at a layer that would be gone")
    return Change({removal.key(DEEPSTACK): removal.sliced(DEEPSTACK)})


def residual_scale(removal: Removal, _: Params) -> Change:
    """Minicpm's default depends on the depth, so the old one is written down (minicpm.cpp:6)."""
    key = removal.key("{arch}.residual_scale")
    if key in removal.model.metadata:
        return Change()
    return Change({key: scalar(ValueType.FLOAT32, 1.4 / math.sqrt(removal.n_trunk))})


def deepseek_lite(removal: Removal, _: Params) -> Change:
    """`is_lite` follows the depth and decides whether q_lora_rank is read (deepseek2.cpp:8-26)."""
    n_vocab = removal.number("{arch}.vocab_size")

    def is_lite(n: int) -> bool:
        return n in (26, 27) or (n == 48 and n_vocab == 128256)

    has_rank = any(t.name.endswith("attn_q_a.weight") for t in removal.model.tensors)
    before, after = is_lite(removal.n_trunk), is_lite(len(removal.trunk))
    if after and has_rank:
        raise Illegal(f"with {len(removal.trunk)} layers llama.cpp takes it for a lite model")
    gating = removal.value("{arch}.expert_gating_func") is not None
    if not gating and n_vocab == 154880 and {removal.n_trunk, len(removal.trunk)} & {47, 48}:
        raise Illegal("the default of expert_gating_func depends on the number of layers")
    if before and not after:
        return Change({removal.key("{arch}.attention.q_lora_rank"): scalar(ValueType.UINT32, 0)})
    return Change()


def frozen_below(removal: Removal, rule: Params) -> Change:
    """Layers in front of a number that the code knows."""
    gone = [n for n in range(min(rule["value"], removal.n_trunk)) if n not in removal.keep]
    if gone:
        raise Illegal(f"layers 0 to {rule['value'] - 1} must stay: {rule['why']}")
    return Change()


def windows_needed(removal: Removal, rule: Params) -> Change:
    """A variant that is told by its window of size 0."""
    if removal.value(SLIDING_WINDOW) is not None and not removal.number(SLIDING_WINDOW):
        raise Illegal(f"its sliding window is 0: {rule['why']}")
    return Change()


def moe_step(removal: Removal, _: Params) -> Change:
    """Every step-th layer has experts: another step may fit what remains (llama4.cpp:62)."""
    step = removal.number(MOE_STEP)
    if step <= 0:
        return Change()
    kept = [(n + 1) % step == 0 for n in removal.trunk]
    for candidate in range(1, len(kept) + 2):
        if kept == [(n + 1) % candidate == 0 for n in range(len(kept))]:
            return Change({removal.key(MOE_STEP): removal.with_type_of(MOE_STEP, candidate)})
    raise Illegal("the layers with experts would no longer be every k-th layer")


def shared_index(removal: Removal, rule: Params) -> Change:
    """Layers without an indexer attend to what the indexer of the nearest layer before chose.

    That layer must stay as long as one that depends on it stays.
    """
    if not removal.number("{arch}.attention.indexer.top_k"):
        return Change()
    types, values = removal.items(INDEXER_TYPES), {}
    if removal.value(INDEXER_TYPES) is not None and types is None:
        types = [removal.number(INDEXER_TYPES)] * removal.n_trunk
    full = [bool(t) for t in types] if types is not None else _index_default(removal, rule)
    if types is None and not all(full):
        kept = [int(full[n]) for n in removal.trunk]
        values[removal.key(INDEXER_TYPES)] = array(ValueType.UINT32, kept)
    recurrent = removal.recurrent() if rule.get("hybrid") else None
    provider = None
    for n in range(removal.n_trunk):
        if recurrent is not None and recurrent[n]:
            continue
        if full[n]:
            provider = n
        elif n in removal.keep and provider not in removal.keep:
            raise Illegal(f"layer {n} uses the index of layer {provider}, which must stay with it")
    return Change(values)


def _index_default(removal: Removal, rule: Params) -> list[bool]:
    """glm-dsa.cpp: all layers, but GLM 5.2 is known by its context length."""
    if removal.number("{arch}.context_length") < rule.get("shares_from_context", math.inf):
        return [True] * removal.n_trunk
    return [n < 2 or (n < 78 and n % 4 == 2) for n in range(removal.n_trunk)]


RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        generic, sliced, swa_period, swa_array, first_swa, recurrent_interval, both_kinds, period,
        last_has_ffn, n_layer_not, n_layer_at_least, frozen_depth, frozen_below, windows_needed,
        not_set, deepstack, residual_scale, deepseek_lite, moe_step, shared_index,
        tensor_rules.slices, tensor_rules.shared_kv, tensor_rules.attention_scale,
        tensor_rules.rescaled_by_depth, tensor_rules.hosted,
        tensor_rules.rope_by_array, tensor_rules.two_stacks, tensor_rules.one_embedding_layer,
    )
}  # fmt: skip
