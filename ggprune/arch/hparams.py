"""What a model's metadata states about its layers, read as llama.cpp reads it.

`get_key_or_arr` and `get_arr` in src/llama-model-loader.cpp, the generic part of `load_hparams` in
src/llama-model.cpp. Knows nothing of a removal, nor which of this an architecture makes use of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ggprune.arch.keys import (
    DEEPSTACK,
    HEAD_COUNT_KV,
    INTERVAL,
    NEXTN,
    OTHER_ARRAYS,
    PER_LAYER_ARRAYS,
    RECURRENT,
    SLIDING_WINDOW,
    SWA_PATTERN,
)
from ggprune.arch.schedules import Flags, recurrent_flags
from ggprune.errors import FormatError
from ggprune.model import Model, Value, ValueType
from ggprune.model.metadata import SCALAR_SIZES

_WHOLE = frozenset(SCALAR_SIZES) - {ValueType.FLOAT32, ValueType.FLOAT64}


@dataclass(frozen=True)
class Hparams:
    """A model's hyperparameters by the templates of `keys`."""

    model: Model

    def key(self, template: str) -> str:
        return template.format(arch=self.model.arch)

    def value(self, template: str) -> Value | None:
        return self.model.metadata.get(self.key(template))

    def number(self, template: str, default: float = 0) -> float:
        """A scalar; `default` where it is missing or an array. Raises FormatError for text."""
        value = self.value(template)
        if value is None or value.array_len is not None:
            return default
        number = value.decode()
        if not isinstance(number, (int, float)):
            raise FormatError(f"{self.model.path}: {self.key(template)} is not a number")
        return number

    def integer(self, template: str, default: int = 0) -> int:
        """A whole number; `default` where it is missing or an array."""
        number = self.number(template, default)
        if number != number // 1:  # not a number is different from itself
            raise FormatError(
                f"{self.model.path}: {self.key(template)} is {number}, expected a whole number"
            )
        return int(number)

    def items(self, template: str) -> list[int] | None:
        """An array of whole numbers or flags, None where it is missing or a scalar."""
        value = self.value(template)
        if value is None or value.array_len is None:
            return None
        if value.element_type not in _WHOLE:
            raise FormatError(
                f"{self.model.path}: {self.key(template)} is not an array of whole numbers"
            )
        return list(value.decode())

    def is_array(self, template: str) -> bool:
        value = self.value(template)
        return value is not None and value.array_len is not None

    @cached_property
    def n_trunk(self) -> int:
        """Layers without the multi-token-prediction (MTP) blocks behind them."""
        return self.model.n_layer - self.integer(NEXTN)

    @property
    def has_windows(self) -> bool:
        """Is a size of sliding windows stated?"""
        return self.integer(SLIDING_WINDOW) > 0

    @cached_property
    def swa(self) -> Flags | None:
        """The flags of an explicit sliding-window array."""
        pattern = self.items(SWA_PATTERN)
        return None if pattern is None else tuple(bool(flag) for flag in pattern)

    def recurrent(self, interval: int | None = None) -> Flags | None:
        """Which layers of the trunk are recurrent, None if nothing says so.

        By `recurrent_layers` or `full_attention_interval` if the architecture has a default
        `interval`, else by layers without key/value heads.
        """
        explicit, heads = self.items(RECURRENT), self.items(HEAD_COUNT_KV)
        if interval and explicit is not None:
            return tuple(bool(flag) for flag in explicit)
        if interval:
            return recurrent_flags(self.integer(INTERVAL, interval), self.n_trunk)
        return None if heads is None else tuple(n == 0 for n in heads)

    @cached_property
    def unknown_arrays(self) -> tuple[str, ...]:
        """Keys of arrays that look per-layer and that no rule knows."""
        known = {self.key(k) for k in (*PER_LAYER_ARRAYS, *OTHER_ARRAYS, DEEPSTACK)}
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
