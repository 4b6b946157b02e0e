"""What a model's metadata states about its layers, read as llama.cpp reads it, and what is left.

`get_key_or_arr` and `get_arr` in src/llama-model-loader.cpp, the generic part of `load_hparams` in
src/llama-model.cpp; sliding windows: `llama_hparams::set_swa_pattern` in src/llama-hparams.cpp.
Keys are templates, in which `{arch}` stands for the architecture's name. Which of them has to
follow the layers is for `rules` to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from ggprune.errors import ArchitectureError, FormatError
from ggprune.model.fields import MAX_U32, Fields
from ggprune.model.metadata import SCALAR_SIZES, Value, ValueType, array, scalar
from ggprune.model.model import Model
from ggprune.model.unit import Unit


class Key:
    """Templates of keys."""

    BLOCK_COUNT = "{arch}.block_count"
    DECODER_BLOCK_COUNT = "{arch}.decoder_block_count"
    NEXTN = "{arch}.nextn_predict_layers"
    EMBEDDING_LENGTH = "{arch}.embedding_length"
    FEED_FORWARD_LENGTH = "{arch}.feed_forward_length"
    HEAD_COUNT = "{arch}.attention.head_count"
    HEAD_COUNT_KV = "{arch}.attention.head_count_kv"
    KEY_LENGTH = "{arch}.attention.key_length"
    VALUE_LENGTH = "{arch}.attention.value_length"
    SLIDING_WINDOW = "{arch}.attention.sliding_window"
    SWA_PATTERN = "{arch}.attention.sliding_window_pattern"
    ROPE_PATTERN = "{arch}.attention.rope_pattern"
    RECURRENT = "{arch}.attention.recurrent_layers"
    INTERVAL = "{arch}.full_attention_interval"
    DEEPSTACK = "{arch}.deepstack_mapping"
    INDEXER_TYPES = "{arch}.attention.indexer.types"
    INDEXER_TOP_K = "{arch}.attention.indexer.top_k"
    SHARED_KV = "{arch}.attention.shared_kv_layers"
    EXPERTS_USED = "{arch}.expert_used_count"
    MOE_STEP = "{arch}.interleave_moe_layer_step"
    LEADING_DENSE = "{arch}.leading_dense_block_count"


HEAD_SIZES = (Key.KEY_LENGTH, Key.VALUE_LENGTH)

# One entry per layer where they are arrays; a scalar holds for all layers. Some are as long as the
# trunk, some as all blocks: both lengths are followed.
PER_LAYER_ARRAYS = (
    Key.HEAD_COUNT, Key.HEAD_COUNT_KV, Key.FEED_FORWARD_LENGTH, Key.EXPERTS_USED,
    "{arch}.expert_feed_forward_length", "{arch}.swiglu_clamp_exp", "{arch}.swiglu_clamp_shexp",
    Key.SWA_PATTERN, Key.RECURRENT, Key.INDEXER_TYPES, Key.ROPE_PATTERN,
    "{arch}.attention.compress_ratios", "{arch}.activation_sparsity_scale",
)  # fmt: skip

# Which half of a layer a key speaks of; of the others both halves must say the same.
KEY_HALVES = {
    **dict.fromkeys((
        Key.HEAD_COUNT, Key.HEAD_COUNT_KV, Key.KEY_LENGTH, Key.VALUE_LENGTH, Key.SWA_PATTERN,
        Key.RECURRENT, Key.INDEXER_TYPES, Key.ROPE_PATTERN, Key.SHARED_KV,
        "{arch}.attention.compress_ratios",
    ), Unit.ATTN),
    **dict.fromkeys((
        Key.FEED_FORWARD_LENGTH, Key.EXPERTS_USED, Key.LEADING_DENSE, Key.MOE_STEP,
        "{arch}.expert_feed_forward_length", "{arch}.swiglu_clamp_exp",
        "{arch}.swiglu_clamp_shexp", "{arch}.activation_sparsity_scale", "{arch}.hash_layer_count",
    ), Unit.FFN),
}  # fmt: skip

# llama.cpp reads these without looking at their length, so they may be longer than the model.
UNCHECKED_ARRAYS = (Key.SWA_PATTERN, Key.DEEPSTACK, "{arch}.attention.compress_ratios")

# The first k layers differ from the rest: k falls by the number of dropped layers among them.
PREFIX_COUNTS = (Key.LEADING_DENSE, "{arch}.hash_layer_count")

# Arrays whose length has nothing to do with the layers, whatever it happens to be.
OTHER_ARRAYS = ("{arch}.rope.dimension_sections", "{arch}.classifier.output_labels")


MAX_HEADS = 1 << 14  # more than any model has; tensors are made by this number

Flags = tuple[bool, ...]  # one per layer


def swa_flags(period: int, n: int, dense_first: bool = False) -> Flags:
    """True for layers with a sliding window. Period 0: all of them."""
    if period == 0:
        return (True,) * n
    if dense_first:
        return tuple(i % period != 0 for i in range(n))
    return tuple(i % period < period - 1 for i in range(n))


def recurrent_flags(interval: int, n: int) -> Flags:
    """True for recurrent layers: all but every `interval`-th."""
    return tuple((i + 1) % interval != 0 for i in range(n))


def removed_below(keep: Sequence[int]) -> tuple[int, ...]:
    """For every kept layer, how many layers in front of it are gone."""
    return tuple(old - new for new, old in enumerate(keep))


@dataclass(frozen=True)
class Hparams:
    """A model's hyperparameters by the templates of `keys`."""

    model: Model

    @property
    def fields(self) -> Fields:
        return self.model.fields

    def key(self, template: str) -> str:
        return template.replace("{arch}", self.model.arch)

    def value(self, template: str) -> Value | None:
        return self.model.metadata.get(self.key(template))

    def number(self, template: str, default: float = 0) -> float:
        return self.fields.number(self.key(template), default)

    def integer(
        self, template: str, default: int = 0, *, least: int = 0, most: int = MAX_U32
    ) -> int:
        """A whole number that holds for all layers; `default` where it is missing."""
        return self.fields.integer(self.key(template), default, least=least, most=most)

    def per_layer(self, template: str, n_least: int | None = None) -> tuple[int, ...] | None:
        """Whole numbers or flags, `n_least` or one for each layer of the trunk, or more of them.

        None where it is missing or holds for all layers.
        """
        if not self.is_array(template):
            return None
        items = self.fields.integers(self.key(template))
        if len(items) < (self.n_trunk if n_least is None else n_least):
            raise self.wrong_length(template, len(items))
        return items

    def wrong_length(self, template: str, n_entry: int) -> FormatError:
        where, n_layer = f"{self.model.path}: {self.key(template)}", self.model.n_layer
        return FormatError(f"{where} has {n_entry} entries, expected block_count = {n_layer}")

    def is_array(self, template: str) -> bool:
        return self.fields.is_array(self.key(template))

    @cached_property
    def n_trunk(self) -> int:
        """Layers without the multi-token-prediction (MTP) blocks behind them."""
        return self.model.n_layer - self.model.n_mtp

    @property
    def n_head(self) -> int:
        """Attention heads of every layer, 0 where layers differ or nothing is stated."""
        stated = not self.is_array(Key.HEAD_COUNT)
        return self.integer(Key.HEAD_COUNT, most=MAX_HEADS) if stated else 0

    @property
    def has_windows(self) -> bool:
        """Is a size of sliding windows stated?"""
        return self.integer(Key.SLIDING_WINDOW) > 0

    @cached_property
    def swa(self) -> Flags | None:
        """The flags of an explicit sliding-window array."""
        pattern = self.per_layer(Key.SWA_PATTERN)
        return None if pattern is None else tuple(bool(flag) for flag in pattern)

    def recurrent(self, interval: int | None = None) -> Flags | None:
        """Which layers of the trunk are recurrent, None if nothing says so.

        By `recurrent_layers` or `full_attention_interval` if the architecture has a default
        `interval`, else by layers without key/value heads.
        """
        explicit, heads = self.per_layer(Key.RECURRENT), self.per_layer(Key.HEAD_COUNT_KV)
        if interval and explicit is not None:
            return tuple(bool(flag) for flag in explicit)
        if interval:
            return recurrent_flags(self.integer(Key.INTERVAL, interval, least=1), self.n_trunk)
        return None if heads is None else tuple(n == 0 for n in heads)

    @cached_property
    def unknown_arrays(self) -> tuple[str, ...]:
        """Keys of arrays that look per-layer and that no rule knows."""
        known = {self.key(k) for k in (*PER_LAYER_ARRAYS, *OTHER_ARRAYS, Key.DEEPSTACK)}
        model = self.model
        return tuple(
            key
            for key, value in model.metadata.items()
            if key.startswith(f"{model.arch}.")
            and key not in known
            and value.array_len == model.n_layer
            and value.element_type in SCALAR_SIZES
        )


def n_trunk(model: Model) -> int:
    """Layers without the multi-token-prediction (MTP) blocks behind them."""
    return Hparams(model).n_trunk


def mtp_blocks(model: Model) -> range:
    """The multi-token-prediction blocks, which come behind all other layers."""
    return range(n_trunk(model), model.n_layer)


class Illegal(ArchitectureError):  # noqa: N818  a legal set is the opposite, not an "error"
    """These layers cannot be removed together; another set may be."""


@dataclass(frozen=True)
class Removal(Hparams):
    """A model and the layers that would remain of it."""

    keep: tuple[int, ...]
    trust: bool = False  # slice arrays that look per-layer and are not known

    @cached_property
    def trunk(self) -> tuple[int, ...]:
        """The trunk's layers that remain."""
        return tuple(n for n in self.keep if n < self.n_trunk)

    def with_type_of(self, template: str, number: int) -> Value:
        """A whole number in the type that the key, which has been read, has in the file."""
        return scalar(self.model.metadata[self.key(template)].type, number)

    def flag_array(self, template: str, trunk: Flags) -> dict[str, Value]:
        """An array with the flags of the layers that remain, False for MTP blocks, by its key."""
        padded = [*trunk, *[False] * (len(self.keep) - len(trunk))]
        return {self.key(template): array(ValueType.BOOL, padded)}

    def sliced(self, template: str) -> Value:
        """A per-layer array without the entries of the layers that go, element type kept."""
        value, n_layer = self.fields.numbers(self.key(template)), self.model.n_layer
        n_entry = value.array_len or 0
        if n_entry == n_layer or (n_entry > n_layer and template in UNCHECKED_ARRAYS):
            return value.select([*self.keep, *range(n_layer, n_entry)])
        if n_entry == self.n_trunk:
            return value.select(self.trunk)
        if n_entry == self.model.stacks[0][1]:  # of an encoder, whose decoder has none
            return value.select([n for n in self.keep if n < n_entry])
        raise self.wrong_length(template, n_entry)
