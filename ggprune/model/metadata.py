"""Metadata values as the bytes they are stored as, decoded only when asked for.

A value that is not touched is written back byte for byte, so nothing is lost on the way: element
types, empty and nested arrays, strings that are not valid UTF-8. Knows the encoding of values, not
what any key means.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gguf.constants import GGUFValueType

from ggprune.errors import FormatError

ValueType = GGUFValueType

MAX_NESTING = 8  # arrays of arrays of arrays...; llama.cpp itself accepts one level

# Struct codes of the fixed-size types, little-endian.
SCALAR_FORMATS: dict[ValueType, str] = {
    ValueType.UINT8: "<B", ValueType.INT8: "<b", ValueType.UINT16: "<H", ValueType.INT16: "<h",
    ValueType.UINT32: "<I", ValueType.INT32: "<i", ValueType.FLOAT32: "<f", ValueType.BOOL: "<?",
    ValueType.UINT64: "<Q", ValueType.INT64: "<q", ValueType.FLOAT64: "<d",
}  # fmt: skip
SCALAR_SIZES = {value_type: struct.calcsize(code) for value_type, code in SCALAR_FORMATS.items()}

U32 = struct.Struct("<I")
U64 = struct.Struct("<Q")
_ARRAY_HEADER = struct.Struct("<IQ")  # element type, count

Buffer = bytes | memoryview


def decode_text(raw: Buffer) -> str:
    """Bytes to str so that `encode_text` gives the same bytes back, valid UTF-8 or not."""
    return bytes(raw).decode("utf-8", "surrogateescape")


def encode_text(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


@dataclass(frozen=True, eq=False)
class Value:
    """One metadata value: its type and its bytes in the file (for arrays, header included)."""

    type: ValueType
    raw: Buffer

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Value):
            return False
        return self.type == other.type and bytes(self.raw) == bytes(other.raw)

    def __hash__(self) -> int:
        return hash((self.type, bytes(self.raw)))

    def decode(self) -> Any:
        """The value as int, float, bool, str or (nested) list of them."""
        value, _ = _decode(self.type, self.raw, 0)
        return value

    @property
    def array_len(self) -> int | None:
        """Number of elements, None if the value is not an array."""
        return None if self.type != ValueType.ARRAY else _ARRAY_HEADER.unpack_from(self.raw)[1]

    @property
    def element_type(self) -> ValueType | None:
        """Type of the elements, None if the value is not an array."""
        if self.type != ValueType.ARRAY:
            return None
        return ValueType(_ARRAY_HEADER.unpack_from(self.raw)[0])

    def select(self, indices: Sequence[int]) -> Value:
        """The array with only the elements at `indices`, element type kept.

        Raises FormatError if the elements are not of a fixed size.
        """
        element = self.element_type
        if element not in SCALAR_SIZES:
            raise FormatError("only arrays of numbers or booleans can follow the layers")
        size = SCALAR_SIZES[element]
        body = memoryview(self.raw)[_ARRAY_HEADER.size :]
        kept = b"".join(bytes(body[i * size : (i + 1) * size]) for i in indices)
        return Value(ValueType.ARRAY, _ARRAY_HEADER.pack(element, len(indices)) + kept)


def _decode(value_type: ValueType, raw: Buffer, pos: int) -> tuple[Any, int]:
    if value_type in SCALAR_FORMATS:
        (value,) = struct.unpack_from(SCALAR_FORMATS[value_type], raw, pos)
        return value, pos + SCALAR_SIZES[value_type]
    if value_type == ValueType.STRING:
        end = pos + 8 + U64.unpack_from(raw, pos)[0]
        return decode_text(raw[pos + 8 : end]), end
    element_id, count = _ARRAY_HEADER.unpack_from(raw, pos)
    element, pos = ValueType(element_id), pos + _ARRAY_HEADER.size
    if element in SCALAR_FORMATS:
        code = f"<{count}{SCALAR_FORMATS[element][1]}"
        return list(struct.unpack_from(code, raw, pos)), pos + count * SCALAR_SIZES[element]
    items = []
    for _ in range(count):
        item, pos = _decode(element, raw, pos)
        items.append(item)
    return items, pos


def scalar(value_type: ValueType, number: float) -> Value:
    """A number or boolean as a value of the given type."""
    try:
        return Value(value_type, struct.pack(SCALAR_FORMATS[value_type], number))
    except struct.error as e:
        raise FormatError(f"{number} does not fit into {value_type.name}: {e}") from e


def string(text: str) -> Value:
    data = encode_text(text)
    return Value(ValueType.STRING, U64.pack(len(data)) + data)


def array(element: ValueType, items: Sequence[Any]) -> Value:
    """A flat array of numbers, booleans or strings."""
    if element == ValueType.STRING:
        body = b"".join(bytes(string(item).raw) for item in items)
    else:
        body = struct.pack(f"<{len(items)}{SCALAR_FORMATS[element][1]}", *items)
    return Value(ValueType.ARRAY, _ARRAY_HEADER.pack(element, len(items)) + body)


def skip_value(value_type: int, raw: Buffer, pos: int, depth: int = 0) -> int:
    """Position behind the value that starts at `pos`.

    Raises struct.error when it ends behind the buffer, ValueError when its type is unknown.
    """
    kind = ValueType(value_type)
    if kind in SCALAR_SIZES:
        return pos + SCALAR_SIZES[kind]
    if kind == ValueType.STRING:
        return int(pos + 8 + U64.unpack_from(raw, pos)[0])
    if depth == MAX_NESTING:
        raise ValueError(f"arrays nested deeper than {MAX_NESTING}")
    element, count = _ARRAY_HEADER.unpack_from(raw, pos)
    pos += _ARRAY_HEADER.size
    kind = ValueType(element)
    if kind in SCALAR_SIZES:
        return int(pos + count * SCALAR_SIZES[kind])
    if kind == ValueType.STRING:
        # A vocabulary has 10^5 strings, and their lengths are a chain: this is the open time.
        read_length = U64.unpack_from
        for _ in range(count):
            pos += 8 + read_length(raw, pos)[0]
        return pos
    for _ in range(count):
        pos = skip_value(element, raw, pos, depth + 1)
    return pos
