"""Dataclasses as JSON documents and back: one codec for everything that is written and read.

A dataclass is an object with the keys that `keys` finds. A class with other ideas of its document
has `to_json` and `from_json`. Numbers that are not finite are null. Knows nothing of what the
documents say.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from typing import TypeAlias, TypeVar, Union, cast

import numpy as np

from ggprune.errors import DataError
from ggprune.files.decoding import DocumentError, decode, decode_fields
from ggprune.files.keys import INLINE, LEFT_OUT, Key, entries_of, written
from ggprune.files.reading import read_utf8

__all__ = [
    "INLINE",
    "LEFT_OUT",
    "DocumentError",
    "Json",
    "Key",
    "decode",
    "decode_fields",
    "encode",
    "encode_fields",
    "read_document",
    "to_text",
    "written",
]

Json: TypeAlias = Union[bool, int, float, str, list["Json"], dict[str, "Json"], None]  # noqa: UP007
T = TypeVar("T")


def to_text(value: object) -> str:
    """A document as all commands print it."""
    return json.dumps(encode(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def read_document(path: Path, cls: type[T], what: str) -> T:
    """`what` names what the file should be. Raises DataError if it cannot be read as that."""
    text = read_utf8(path)
    try:
        return decode(cls, json.loads(text))
    except DocumentError as e:
        raise DataError(f"{path}: not {what}: {e}") from e
    except (ValueError, RecursionError) as e:
        raise DataError(f"{path}: not {what}") from e


def encode(value: object) -> Json:
    """What `json` can write. Raises TypeError for what has no place in a document."""
    if value is None or type(value) in (str, int, bool):
        return cast(Json, value)
    for kind, write in _WRITERS.items():
        if isinstance(value, kind):
            return write(value)
    return cast(Json, value.to_json()) if hasattr(value, "to_json") else encode_fields(value)


_WRITERS: Mapping[type, Callable[..., Json]] = {
    float: lambda number: float(number) if math.isfinite(number) else None,
    list: lambda items: [encode(item) for item in items],
    tuple: lambda items: [encode(item) for item in items],
    Mapping: lambda items: {_key_text(name): encode(item) for name, item in items.items()},
    Enum: lambda member: encode(member.value),
    Path: str,
    np.ndarray: lambda array: encode(array.tolist()),
    np.generic: lambda number: encode(number.item()),
}


def _key_text(name: object) -> str:
    return f"{name:g}" if isinstance(name, float) else str(encode(name))


def encode_fields(value: object) -> dict[str, Json]:
    """A dataclass's document by its fields, whatever its `to_json` does."""
    if not is_dataclass(value):
        raise TypeError(f"{type(value).__name__} has no place in a document")
    document: dict[str, Json] = {}
    for entry in entries_of(type(value)):
        held: object = getattr(value, entry.attribute)
        if held is None and entry.key.optional:
            continue
        item = encode(held if entry.key.write is None else entry.key.write(held))
        if entry.key.inline:
            document.update(cast("dict[str, Json]", item))
            continue
        inner = document
        for name in entry.place[:-1]:
            inner = cast("dict[str, Json]", inner.setdefault(name, {}))
        inner[entry.place[-1]] = item
    return document
