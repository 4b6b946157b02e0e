"""Dataclasses as JSON documents and back: one codec for everything that is written and read.

A dataclass is an object with the keys that `keys` finds, and is read by its type hints. A class
with other ideas of its document has `to_json` and `from_json`. Numbers that are not finite are
null. Knows nothing of what the documents say.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import is_dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, TypeAlias, TypeVar, Union, cast, get_args, get_origin

import numpy as np

from ggprune.errors import DataError, GGPruneError
from ggprune.files.keys import INLINE, LEFT_OUT, Key, Place, entries_of, places_of, written
from ggprune.files.reading import read_utf8

__all__ = [
    "INLINE", "LEFT_OUT", "DocumentError", "Json", "Key", "decode", "decode_fields", "encode",
    "encode_fields", "json_text", "parse_json", "read_document", "to_text", "written",
]  # fmt: skip

Json: TypeAlias = Union[bool, int, float, str, list["Json"], dict[str, "Json"], None]  # noqa: UP007
T = TypeVar("T")

UTF_8 = "utf-8"


class DocumentError(ValueError):
    """A document is not what a class expects: `place` says where in it, `reason` why not."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(f"{place}: {reason}" if place else reason)
        self.reason, self.place = reason, place

    def inside(self, outer: str) -> DocumentError:
        joint = "." if self.place and not self.place.startswith("[") else ""
        return DocumentError(self.reason, f"{outer}{joint}{self.place}")


def to_text(value: object, encoding: str = UTF_8) -> str:
    """A document as all commands print it, in an encoding that may lack some characters."""
    return json_text(encode(value), encoding, indent=2) + "\n"


def json_text(document: object, encoding: str = UTF_8, *, indent: int | None = None) -> str:
    """JSON that can be stored in the encoding: what it lacks is escaped as JSON does it.

    UTF-8 lacks halves of pairs alone, which stand for bytes of file names that are no UTF-8.
    """
    is_utf_8 = codecs.lookup(encoding).name == UTF_8
    text = json.dumps(document, indent=indent, allow_nan=False, ensure_ascii=not is_utf_8)
    return text.encode(UTF_8, "backslashreplace").decode(UTF_8)


def parse_json(text: str, errors: str = "strict") -> Json:
    """JSON without what cannot be used: numbers that are not finite, texts that are no Unicode.

    With the `errors` of "surrogateescape" a text may hold a name that is not UTF-8. Raises
    ValueError with the reason.
    """
    try:
        value = cast(Json, json.loads(text, parse_constant=_no_number, parse_float=_finite))
        if "\\u" in text:
            json.dumps(value, ensure_ascii=False).encode("utf-8", errors)
        return value
    except UnicodeEncodeError as e:
        raise ValueError("half of a surrogate pair stands alone") from e
    except RecursionError as e:
        raise ValueError("is nested too deep") from e


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not a number")


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:20]} is too large for a number")
    return number


def read_document(path: Path, cls: type[T], what: str) -> T:
    """`what` names what the file should be. Raises DataError if it cannot be read as that."""
    text = read_utf8(path)
    try:
        return decode(cls, parse_json(text, "surrogateescape"))
    except ValueError as e:
        raise DataError(f"{path}: not {what}: {e}") from e


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
    **dict.fromkeys((list, tuple), lambda items: [encode(item) for item in items]),
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


def decode(cls: type[T], document: object) -> T:
    """The value that `encode` made a document of. Raises DocumentError if it made none of it."""
    return cast(T, _decode(cls, document))


def decode_fields(cls: type[T], document: object) -> T:
    """A dataclass by its fields, whatever its `from_json` does.

    A field whose key is not there has its default; a key that is not known is an error.
    """
    if not isinstance(document, dict):
        raise DocumentError(f"expected an object, found {_shown(document)}")
    held = _by_place(document, places_of(cls))
    values: dict[str, object] = {}
    for entry in entries_of(cls):
        key, name = entry.key, ".".join(entry.place)
        if key.inline:
            own = {place[0] for place in places_of(entry.inlined)}
            part = {name: item for name, item in document.items() if name in own}
            values[entry.attribute] = _decode(entry.hint, part)
        elif not entry.is_read:
            continue
        elif entry.place in held:
            read = partial(_convert, key.read) if key.read else partial(_decode, entry.hint)
            values[entry.attribute] = _inside(name, read, held[entry.place])
        elif entry.is_required:
            raise DocumentError("is missing", name)
    return cls(**values)


def _by_place(
    document: Mapping[str, object], known: frozenset[Place], at: Place = ()
) -> dict[Place, object]:
    """What stands at the known places; everything has to."""
    held: dict[Place, object] = {}
    for name, item in document.items():
        place = (*at, name)
        if place in known:
            held[place] = item
        elif isinstance(item, dict) and any(p[: len(place)] == place for p in known):
            held |= _by_place(item, known, place)
        else:
            raise DocumentError("is not known to this version", ".".join(place))
    return held


def _inside(place: str, read: Callable[[object], object], document: object) -> object:
    """Errors say where in the whole document they are."""
    try:
        return read(document)
    except DocumentError as e:
        raise e.inside(place) from e


def _convert(make: Callable[..., object], document: object) -> object:
    try:
        return make(document)
    except DocumentError:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, GGPruneError) as e:
        raise DocumentError(str(e) or f"cannot be made of {_shown(document)}") from e


def _decode(hint: object, document: object) -> object:
    """A type hint's value: what a class is made of, or what stands in it."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _decode(inner[0], document)
    if origin is not None:
        return _decode_generic(origin, inner, document)
    if hint in _PLAIN:
        return _decode_plain(cast(type, hint), document)
    if hasattr(hint, "from_json"):
        return _convert(hint.from_json, document)
    if not isinstance(hint, type) or hint is object:
        return document  # whatever JSON it is
    own = next((read for kind, read in _OWN.items() if issubclass(hint, kind)), decode_fields)
    return own(hint, document)


_PLAIN: Mapping[object, tuple[str, tuple[type, ...]]] = {
    str: ("a string", (str,)),
    bool: ("true or false", (bool,)),
    int: ("a whole number", (int,)),
    float: ("a number", (float, int)),
}


def _decode_plain(kind: type, document: object) -> object:
    what, kinds = _PLAIN[kind]
    if kind is float and document is None:
        return math.nan
    if type(document) not in kinds:
        raise DocumentError(f"expected {what}, found {_shown(document)}")
    try:
        return kind(document)
    except OverflowError as e:  # a whole number of 400 digits as a float
        raise DocumentError(f"{_shown(document)} is too large for a number") from e


def _decode_enum(kind: type[Enum], document: object) -> Enum:
    known = {member.value: member for member in kind}
    if not isinstance(document, str | int) or document not in known:
        names = ", ".join(str(value) for value in known)
        raise DocumentError(f"expected one of {names}, found {_shown(document)}")
    return known[document]


_OWN: Mapping[type, Callable[..., object]] = {
    Enum: _decode_enum,
    Path: lambda kind, document: kind(_decode_plain(str, document)),
}


def _decode_generic(origin: object, inner: tuple[object, ...], document: object) -> object:
    if origin in (Union, types.UnionType):
        if document is None and types.NoneType in inner:
            return None
        *others, last = (hint for hint in inner if hint is not types.NoneType)
        for hint in others:  # the first that fits
            with contextlib.suppress(DocumentError):
                return _decode(hint, document)
        return _decode(last, document)
    if origin is np.ndarray and isinstance(document, list):
        return _convert(lambda rows: np.array(rows, get_args(inner[1])[0]), document)
    if origin in (tuple, list):
        items = _decode_items(inner, document, same=origin is list or inner[1:] == (Ellipsis,))
        return items if origin is list else tuple(items)
    if not isinstance(document, dict):
        raise DocumentError(f"expected an object, found {_shown(document)}")
    make, read = cast("Callable[[str], object]", inner[0]), partial(_decode, inner[1])
    return {_convert(make, name): _inside(name, read, item) for name, item in document.items()}


def _decode_items(hints: tuple[object, ...], document: object, *, same: bool) -> list[object]:
    if not isinstance(document, list):
        raise DocumentError(f"expected a list, found {_shown(document)}")
    if not same and len(hints) != len(document):
        raise DocumentError(f"expected {len(hints)} items, found {len(document)}")
    kinds = hints[:1] * len(document) if same else hints
    pairs = zip(kinds, document, strict=True)
    return [_inside(f"[{i}]", partial(_decode, hint), item) for i, (hint, item) in enumerate(pairs)]


def _shown(document: object) -> str:
    if isinstance(document, list | dict):
        return "a list" if isinstance(document, list) else "an object"
    text = json.dumps(document, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "..."
