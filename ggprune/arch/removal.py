"""A model, the layers that would remain of it, and what its metadata says about them.

How llama.cpp reads the keys: `get_key_or_arr`, `get_arr` in src/llama-model-loader.cpp, the generic
part of `load_hparams` in src/llama-model.cpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ggprune.arch.schedules import recurrent_flags
from ggprune.errors import ArchitectureError, FormatError
from ggprune.model import Model, Value
from ggprune.model.metadata import SCALAR_FORMATS, scalar

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

SHARED_KV = "{arch}.attention.shared_kv_layers"
MOE_STEP = "{arch}.interleave_moe_layer_step"

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


def n_trunk(model: Model) -> int:
    """Layers without the multi-token-prediction (MTP) blocks behind them."""
    value = model.metadata.get(NEXTN.format(arch=model.arch))
    return model.n_layer - (0 if value is None or value.array_len is not None else value.decode())


def mtp_blocks(model: Model) -> range:
    """The multi-token-prediction blocks, which come behind all other layers."""
    return range(n_trunk(model), model.n_layer)


@dataclass(frozen=True)
class Removal:
    """A model and the layers that would remain of it."""

    model: Model
    keep: tuple[int, ...]
    trust: bool = False  # slice arrays that look per-layer and are not known

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

    def with_type_of(self, template: str, number: float) -> Value:
        """A number in the type that the key has in the file."""
        old = self.model.metadata[self.key(template)]
        if old.type not in SCALAR_FORMATS:
            raise FormatError(f"{self.model.path}: {self.key(template)} is not a number")
        return scalar(old.type, number)

    def sliced(self, template: str) -> Value:
        """A per-layer array without the entries of the layers that go, element type kept."""
        value, n_layer = self.model.metadata[self.key(template)], self.model.n_layer
        n_entry = value.array_len or 0
        if n_entry == n_layer or (n_entry > n_layer and template in UNCHECKED_ARRAYS):
            return value.select([*self.keep, *range(n_layer, n_entry)])
        if n_entry == self.n_trunk:
            return value.select(self.trunk)
        if n_entry == self.model.stacks[0][1]:  # of an encoder, whose decoder has none
            return value.select([n for n in self.keep if n < n_entry])
        raise FormatError(
            f"{self.model.path}: {self.key(template)} has {value.array_len} entries, "
            f"expected block_count = {n_layer}"
        )

    @cached_property
    def n_trunk(self) -> int:
        return n_trunk(self.model)

    @cached_property
    def trunk(self) -> tuple[int, ...]:
        """The trunk's layers that remain."""
        return tuple(n for n in self.keep if n < self.n_trunk)

    @cached_property
    def swa(self) -> tuple[bool, ...] | None:
        """The flags of an explicit sliding-window array."""
        pattern = self.items(SWA_PATTERN)
        return None if pattern is None else tuple(bool(x) for x in pattern)

    def period(self, default: int) -> int:
        """The period of the sliding windows, where it is not an array."""
        return int(self.number(SWA_PATTERN, default))

    def recurrent(self, interval: int | None = None) -> tuple[bool, ...] | None:
        """Which layers of the trunk are recurrent, None if nothing says so.

        By `recurrent_layers` or `full_attention_interval` if the architecture has a default
        `interval`, else by layers without key/value heads.
        """
        explicit, heads = self.items(RECURRENT), self.items(HEAD_COUNT_KV)
        if interval and explicit is not None:
            return tuple(bool(x) for x in explicit)
        if interval:
            return recurrent_flags(self.number(INTERVAL, interval), self.n_trunk)
        return None if heads is None else tuple(n == 0 for n in heads)
