"""What a removal means for the metadata, rule by rule, and which removals cannot be exact.

Every architecture's row names the rules that hold for it. A rule returns the values it changes, or
raises Illegal with the reason. How llama.cpp reads the keys: `get_key_or_arr`, `get_arr` in
src/llama-model-loader.cpp, the generic part of `load_hparams` in src/llama-model.cpp.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ggprune.arch.schedules import recurrent_flags, removed_below, swa_flags
from ggprune.errors import ArchitectureError, FormatError
from ggprune.model import Model, Value, ValueType
from ggprune.model.metadata import SCALAR_FORMATS, array, scalar

Values = dict[str, Value]
Params = Mapping[str, Any]

BLOCK_COUNT = "{arch}.block_count"
NEXTN = "{arch}.nextn_predict_layers"
HEAD_COUNT = "{arch}.attention.head_count"
HEAD_COUNT_KV = "{arch}.attention.head_count_kv"
HEAD_SIZES = ("{arch}.attention.key_length", "{arch}.attention.value_length")
SLIDING_WINDOW = "{arch}.attention.sliding_window"
SWA_PATTERN = "{arch}.attention.sliding_window_pattern"
RECURRENT = "{arch}.attention.recurrent_layers"
INTERVAL = "{arch}.full_attention_interval"
DEEPSTACK = "{arch}.deepstack_mapping"
INDEXER_TYPES = "{arch}.attention.indexer.types"

# One entry per layer where they are arrays; a scalar holds for all layers. Some are as long as the
# trunk, some as all blocks: both lengths are followed.
PER_LAYER_ARRAYS = (
    HEAD_COUNT,
    HEAD_COUNT_KV,
    "{arch}.feed_forward_length",
    "{arch}.expert_used_count",
    "{arch}.expert_feed_forward_length",
    "{arch}.swiglu_clamp_exp",
    "{arch}.swiglu_clamp_shexp",
    SWA_PATTERN,
    RECURRENT,
    INDEXER_TYPES,
    "{arch}.attention.rope_pattern",
    "{arch}.attention.compress_ratios",
    "{arch}.activation_sparsity_scale",
)

# llama.cpp reads these without looking at their length, so they may be longer than the model.
UNCHECKED_ARRAYS = (SWA_PATTERN, DEEPSTACK, "{arch}.attention.compress_ratios")

# The first k layers differ from the rest: k falls by the number of dropped layers among them.
PREFIX_COUNTS = ("{arch}.leading_dense_block_count", "{arch}.hash_layer_count")

# Arrays whose length has nothing to do with the layers, whatever it happens to be.
OTHER_ARRAYS = ("{arch}.rope.dimension_sections", "{arch}.classifier.output_labels")


class Illegal(ArchitectureError):  # noqa: N818  a legal set is the opposite, not an "error"
    """These layers cannot be removed together; another set may be."""


@dataclass(frozen=True)
class Removal:
    """A model and the layers that would remain of it."""

    model: Model
    keep: tuple[int, ...]

    def key(self, template: str) -> str:
        return template.format(arch=self.model.arch)

    def value(self, template: str) -> Value | None:
        return self.model.metadata.get(self.key(template))

    def number(self, template: str, default: float = 0) -> Any:
        """A scalar; `default` where it is missing or an array."""
        value = self.value(template)
        return default if value is None or value.array_len is not None else value.decode()

    def items(self, template: str) -> list[Any] | None:
        """An array, None where it is missing or a scalar."""
        value = self.value(template)
        return None if value is None or value.array_len is None else list(value.decode())

    @cached_property
    def n_trunk(self) -> int:
        """Layers without the multi-token-prediction (MTP) blocks behind them."""
        return int(self.model.n_layer - self.number(NEXTN))

    @cached_property
    def trunk(self) -> tuple[int, ...]:
        """The trunk's layers that remain."""
        return tuple(n for n in self.keep if n < self.n_trunk)

    @cached_property
    def swa(self) -> tuple[bool, ...] | None:
        """The flags of an explicit sliding-window array."""
        pattern = self.items(SWA_PATTERN)
        return None if pattern is None else tuple(bool(x) for x in pattern)


def layer_metadata(model: Model, keep: Sequence[int], rules: Sequence[Params]) -> Values:
    """Values that change when only the layers `keep` (sorted) remain, key by key.

    Raises Illegal with all reasons if the removal cannot be exact, FormatError if a per-layer
    array does not have one entry per layer.
    """
    removal = Removal(model, tuple(keep))
    values: Values = {}
    reasons: list[str] = []
    for rule in ({"rule": "generic"}, *rules):
        try:
            values |= RULES[rule["rule"]](removal, rule)
        except Illegal as e:
            reasons.append(str(e))
    if reasons:
        raise Illegal("; ".join(reasons))
    return values


def check_arrays_known(model: Model) -> None:
    """Raises ArchitectureError if an array looks per-layer and no rule knows it."""
    known = {k.format(arch=model.arch) for k in (*PER_LAYER_ARRAYS, *OTHER_ARRAYS, DEEPSTACK)}
    for key, value in model.metadata.items():
        if not key.startswith(f"{model.arch}.") or key in known:
            continue
        if value.array_len == model.n_layer:
            raise ArchitectureError(
                f"{model.path}: {key} has one entry per layer ({model.n_layer}) and is not known; "
                "removing layers could be silently wrong"
            )


# ---------------------------------------------------------------------------------------------
# rules for every architecture


def generic(removal: Removal, _: Params) -> Values:
    """Counts, prefix counts and per-layer arrays; MTP blocks stay; layer 0's head size stays."""
    keep, n_layer = removal.keep, removal.model.n_layer
    if not removal.trunk:
        raise Illegal("at least one layer that is not an MTP block must stay")
    if len(keep) - len(removal.trunk) != n_layer - removal.n_trunk:
        raise Illegal(
            f"layers {removal.n_trunk} to {n_layer - 1} are multi-token-prediction (MTP) blocks, "
            "which stay"
        )
    changed: dict[str, int] = {BLOCK_COUNT: len(keep)}
    for template in PREFIX_COUNTS:
        if removal.value(template) is not None:
            n_prefix = removal.number(template)
            changed[template] = sum(1 for layer in keep if layer < n_prefix)
    values = {removal.key(t): _same_type(removal, t, n) for t, n in changed.items()}
    for template in PER_LAYER_ARRAYS:
        value = removal.value(template)
        if value is not None and value.array_len is not None:
            values[removal.key(template)] = _sliced(removal, template, value)
    _check_head_size(removal)
    return values


def _same_type(removal: Removal, template: str, number: float) -> Value:
    old = removal.model.metadata[removal.key(template)]
    if old.type not in SCALAR_FORMATS:
        raise FormatError(f"{removal.model.path}: {removal.key(template)} is not a number")
    return scalar(old.type, number)


def _sliced(removal: Removal, template: str, value: Value) -> Value:
    n_layer, n_entry = removal.model.n_layer, value.array_len or 0
    if n_entry == n_layer or (n_entry > n_layer and template in UNCHECKED_ARRAYS):
        return value.select([*removal.keep, *range(n_layer, n_entry)])
    if n_entry == removal.n_trunk:
        return value.select(removal.trunk)
    raise FormatError(
        f"{removal.model.path}: {removal.key(template)} has {value.array_len} entries, "
        f"expected block_count = {removal.model.n_layer}"
    )


def _check_head_size(removal: Removal) -> None:
    """Where head sizes are not stated, llama.cpp derives them from layer 0's number of heads."""
    heads, first = removal.items(HEAD_COUNT), removal.keep[0]
    if heads is None or first == 0:
        return
    if heads[0] and not heads[first]:
        raise Illegal(f"layer {first} would come first and has no attention heads")
    if all(removal.value(k) is not None for k in HEAD_SIZES):
        return
    if heads[first] != heads[0]:
        raise Illegal(
            f"layer 0 cannot be dropped: the head size is derived from its number of heads, "
            f"{heads[0]}, and layer {first} has {heads[first]}"
        )


# ---------------------------------------------------------------------------------------------
# rules of some architectures


def sliced(removal: Removal, rule: Params) -> Values:
    """Per-layer arrays outside the architecture's own keys."""
    values = {key: removal.value(key) for key in rule["keys"]}
    return {
        key: _sliced(removal, key, value)
        for key, value in values.items()
        if value is not None and value.array_len is not None
    }


def swa_period(removal: Removal, rule: Params) -> Values:
    """Sliding windows by a period: kept while it still fits, else written as an array."""
    if rule.get("optional") and not removal.number(SLIDING_WINDOW):
        return {}
    if removal.swa is not None:
        return swa_array(removal, rule)
    period = removal.number(SWA_PATTERN, rule["period"])
    dense_first = rule.get("dense_first", False)
    flags = swa_flags(period, removal.n_trunk, dense_first=dense_first)
    kept = tuple(flags[n] for n in removal.trunk)
    _check_any(kept, "sliding-window")
    if kept == swa_flags(period, len(kept), dense_first=dense_first):
        return {}
    padded = [*kept, *[False] * (len(removal.keep) - len(kept))]
    return {removal.key(SWA_PATTERN): array(ValueType.BOOL, padded)}


def swa_array(removal: Removal, rule: Params) -> Values:
    """Sliding windows by an explicit array, which is sliced like any other; one must remain."""
    if removal.swa is not None and any(removal.swa):
        _check_any([removal.swa[n] for n in removal.trunk], "sliding-window")
    return {}


def first_swa(removal: Removal, rule: Params) -> Values:
    """Sizes of windowed layers differ, and llama.cpp takes those of layer 0 for all."""
    differs = any(
        removal.value(k + "_swa") is not None and removal.number(k + "_swa") != removal.number(k)
        for k in (*HEAD_SIZES, "{arch}.rope.dimension_count")
    )
    first = removal.keep[0]
    if differs and removal.swa is not None and removal.swa[first] != removal.swa[0]:
        raise Illegal(f"layer {first} would come first, but its window is not of layer 0's kind")
    return {}


def recurrent_interval(removal: Removal, rule: Params) -> Values:
    """Recurrent layers by an interval: kept while it still fits, else written as an array."""
    if removal.items(RECURRENT) is not None:
        return {}
    interval = removal.number(INTERVAL, rule["default"])
    flags = recurrent_flags(interval, removal.n_trunk)
    kept = tuple(flags[n] for n in removal.trunk)
    if kept == recurrent_flags(interval, len(kept)):
        return {}
    padded = [*kept, *[False] * (len(removal.keep) - len(kept))]
    return {removal.key(RECURRENT): array(ValueType.BOOL, padded)}


def both_kinds(removal: Removal, rule: Params) -> Values:
    """Hybrid memory needs at least one attention layer and one recurrent layer."""
    flags = _recurrent(removal, rule)
    if flags is None:
        return {}
    kept = [flags[n] for n in removal.trunk]
    if any(flags):
        _check_any(kept, "recurrent")
    if not all(flags):
        _check_any([not x for x in kept], "attention")
    return {}


def _recurrent(removal: Removal, rule: Params) -> list[bool] | None:
    explicit = removal.items(RECURRENT)
    if rule.get("interval") and explicit is not None:
        return [bool(x) for x in explicit]
    if rule.get("interval"):
        return list(recurrent_flags(removal.number(INTERVAL, rule["interval"]), removal.n_trunk))
    heads = removal.items(HEAD_COUNT_KV)
    return None if heads is None else [n == 0 for n in heads]


def _check_any(kept: Sequence[bool], kind: str) -> None:
    if not any(kept):
        raise Illegal(f"the last {kind} layer would be gone, and llama.cpp needs one")


def period(removal: Removal, rule: Params) -> Values:
    """Something hard-coded follows the index with a period: whole periods must go."""
    if rule.get("with_window") and not removal.number(SLIDING_WINDOW):
        return {}
    p = int(removal.number(rule["p"])) if isinstance(rule["p"], str) else rule["p"]
    if p > 1 and any(n % p for n in removed_below(removal.trunk)):
        raise Illegal(
            f"{rule['what']} repeats every {p} layers by their position: in front of every layer "
            f"that stays, a multiple of {p} layers must go"
        )
    return {}


def last_has_ffn(removal: Removal, _: Params) -> Values:
    """The rows that yield logits are picked in the feed-forward part of the last layer."""
    lengths, last = removal.items("{arch}.feed_forward_length"), removal.keep[-1]
    if lengths is not None and not lengths[last]:
        raise Illegal(f"layer {last} would come last and has no feed-forward part")
    return {}


def n_layer_not(removal: Removal, rule: Params) -> Values:
    """A depth at which llama.cpp takes the model for another one."""
    if "tensor" in rule and not any(t.name == rule["tensor"] for t in removal.model.tensors):
        return {}
    if rule.get("with_window") and not removal.number(SLIDING_WINDOW):
        return {}
    if len(removal.trunk) in rule["values"]:
        raise Illegal(f"with {len(removal.trunk)} layers {rule['why']}")
    return {}


def n_layer_at_least(removal: Removal, rule: Params) -> Values:
    if "tensor" in rule and not any(t.name == rule["tensor"] for t in removal.model.tensors):
        return {}
    if len(removal.trunk) < rule["value"]:
        raise Illegal(f"at least {rule['value']} layers must stay: {rule['why']}")
    return {}


def frozen_depth(removal: Removal, rule: Params) -> Values:
    """At one depth llama.cpp computes something else than at all others."""
    if removal.n_trunk == rule["value"]:
        raise Illegal(f"models of {rule['value']} layers cannot lose any: {rule['why']}")
    return {}


def not_set(removal: Removal, rule: Params) -> Values:
    """A key that makes layers differ in a way that is not handled."""
    value = removal.value(rule["key"])
    if value is not None and (value.array_len is not None or value.decode()):
        raise Illegal(f"{removal.key(rule['key'])} is set: {rule['why']}")
    return {}


def deepstack(removal: Removal, _: Params) -> Values:
    """Which input stream each layer takes in (-1: none): every stream must still be taken in."""
    streams, key = removal.items(DEEPSTACK), removal.key(DEEPSTACK)
    if streams is None:
        return {}
    lost = {streams[n] for n in range(len(streams)) if n not in removal.keep} - {-1}
    if lost - {streams[n] for n in removal.keep}:
        raise Illegal(f"image embeddings of stream {min(lost)} enter at a layer that would be gone")
    return {key: _sliced(removal, DEEPSTACK, removal.model.metadata[key])}


def residual_scale(removal: Removal, _: Params) -> Values:
    """Minicpm's default depends on the depth, so the old one is written down (minicpm.cpp:6)."""
    key = removal.key("{arch}.residual_scale")
    if key in removal.model.metadata:
        return {}
    return {key: scalar(ValueType.FLOAT32, 1.4 / math.sqrt(removal.n_trunk))}


def deepseek_lite(removal: Removal, _: Params) -> Values:
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
        return {removal.key("{arch}.attention.q_lora_rank"): scalar(ValueType.UINT32, 0)}
    return {}


RULES: dict[str, Callable[[Removal, Params], Values]] = {
    "generic": generic,
    "sliced": sliced,
    "swa_period": swa_period,
    "swa_array": swa_array,
    "first_swa": first_swa,
    "recurrent_interval": recurrent_interval,
    "both_kinds": both_kinds,
    "period": period,
    "last_has_ffn": last_has_ffn,
    "n_layer_not": n_layer_not,
    "n_layer_at_least": n_layer_at_least,
    "frozen_depth": frozen_depth,
    "not_set": not_set,
    "deepstack": deepstack,
    "residual_scale": residual_scale,
    "deepseek_lite": deepseek_lite,
}
