"""Metadata read as what it has to be: a whole number with limits, a number, a text, arrays of them.

Every value that means something to this program passes through here. Of another kind or outside of
its limits it is a FormatError that names the file, the key and what was expected; a file may say
anything. Knows kinds, not what any key means.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ggprune.errors import FormatError
from ggprune.model.metadata import SCALAR_SIZES, Value, ValueType

MAX_U32, MAX_U64 = (1 << 32) - 1, (1 << 64) - 1

FRACTIONS = frozenset({ValueType.FLOAT32, ValueType.FLOAT64})
WHOLE = frozenset(SCALAR_SIZES) - FRACTIONS - {ValueType.BOOL}
FLAGS = frozenset({ValueType.BOOL})
TEXT = frozenset({ValueType.STRING})


@dataclass(frozen=True)
class Fields:
    """The metadata of a file. Without a default, a key that is missing is an error as well."""

    path: Path
    values: Mapping[str, Value]

    def integer(
        self, key: str, default: int | None = None, *, least: int = 0, most: int = MAX_U32
    ) -> int:
        """A whole number, both limits included."""
        number: int = self._scalar(key, default, WHOLE, "a whole number")
        if key in self.values and not least <= number <= most:
            raise self._wrong(key, number, f"{least} to {most}")
        return number

    def number(self, key: str, default: float | None = None) -> float:
        """A number that is finite."""
        number = float(self._scalar(key, default, WHOLE | FRACTIONS, "a number"))
        if not math.isfinite(number):
            raise self._wrong(key, number, "a finite number")
        return number

    def text(self, key: str, default: str | None = None) -> str:
        text: str = self._scalar(key, default, TEXT, "a text")
        return text

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """An array of whole numbers or flags."""
        return self._array(key, default, WHOLE | FLAGS, "whole numbers")

    def texts(self, key: str, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
        return self._array(key, default, TEXT, "texts")

    def numbers(self, key: str) -> Value:
        """An array of numbers or flags of any size, as it is stored."""
        value = self.values[key]
        if value.element_type not in SCALAR_SIZES:
            raise self._wrong(key, _shown(value), "an array of numbers")
        return value

    def is_array(self, key: str) -> bool:
        return key in self.values and self.values[key].type == ValueType.ARRAY

    def _scalar(self, key: str, default: Any, kinds: frozenset[ValueType], what: str) -> Any:
        value = self._value(key, default)
        if value is None:
            return default
        if value.type not in kinds:
            raise self._wrong(key, _shown(value), what)
        return value.decode()

    def _array(
        self, key: str, default: Any, kinds: frozenset[ValueType], what: str
    ) -> tuple[Any, ...]:
        value = self._value(key, default)
        if value is None:
            return tuple(default)
        if value.element_type not in kinds:
            raise self._wrong(key, _shown(value), f"an array of {what}")
        return tuple(value.decode())

    def _value(self, key: str, default: object) -> Value | None:
        if key not in self.values and default is None:
            raise FormatError(f"{self.path}: metadata has no {key}")
        return self.values.get(key)

    def _wrong(self, key: str, found: object, expected: str) -> FormatError:
        return FormatError(f"{self.path}: {key} is {found}, expected {expected}")


def _shown(value: Value) -> str:
    """A value in a few words, however large it is."""
    if value.element_type is not None:
        return f"an array of {value.array_len} x {value.element_type.name}"
    return reprlib.repr(value.decode())
