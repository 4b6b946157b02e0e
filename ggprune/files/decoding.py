"""JSON documents to the values that dataclasses say they hold, by their type hints.

What does not fit is a DocumentError that says where in the document, and why. Knows no files.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar, Union, cast, get_args, get_origin

import numpy as np

from ggprune.errors import GGPruneError
from ggprune.files.keys import Entry, Place, entries_of, places_of

T = TypeVar("T")


class DocumentError(ValueError):
    """A document is not what a class expects: `place` says where in it, `reason` why not."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(f"{place}: {reason}" if place else reason)
        self.reason, self.place = reason, place

    def inside(self, outer: str) -> DocumentError:
        joint = "." if self.place and not self.place.startswith("[") else ""
        return DocumentError(self.reason, f"{outer}{joint}{self.place}")


def decode(cls: type[T], document: object) -> T:
    """The value that `encode` made a document of. Raises DocumentError if it made none of it."""
    return cast(T, _decode(cls, document))


def decode_fields(cls: type[T], document: object) -> T:
    """A dataclass by its fields, whatever its `from_json` does.

    A field whose key is not there has its default; a key that is not known is an error.
    """
    if not isinstance(document, dict):
        raise DocumentError(f"expected an object, found {_shown(document)}")
    _check_known(document, places_of(cls))
    values: dict[str, object] = {}
    for entry in entries_of(cls):
        if entry.key.inline:
            own = {place[0] for place in places_of(entry.inlined)}
            part = {name: item for name, item in document.items() if name in own}
            values[entry.attribute] = _decode(entry.hint, part)
        elif not entry.is_read:
            continue
        elif (held := _held(document, entry.place)) is not MISSING:
            values[entry.attribute] = _inside(".".join(entry.place), _reader(entry), held)
        elif entry.is_required:
            raise DocumentError("is missing", ".".join(entry.place))
    return cls(**values)


def _check_known(document: Mapping[str, object], known: frozenset[Place], at: Place = ()) -> None:
    for name, item in document.items():
        place = (*at, name)
        if place in known:
            continue
        if not isinstance(item, dict) or all(p[: len(place)] != place for p in known):
            raise DocumentError("is not known to this version", ".".join(place))
        _check_known(item, known, place)


def _held(document: object, place: Place) -> object:
    for name in place:
        if not isinstance(document, dict) or name not in document:
            return MISSING
        document = document[name]
    return document


def _reader(entry: Entry) -> Callable[[object], object]:
    if entry.key.read is not None:
        return partial(_convert, entry.key.read)
    return partial(_decode, entry.hint)


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
    except (ValueError, TypeError, KeyError, AttributeError, GGPruneError) as e:
        raise DocumentError(str(e) or f"cannot be made of {_shown(document)}") from e


def _decode(hint: object, document: object) -> object:
    """A type hint's value: what a class is made of, or what stands in it."""
    origin, inner = get_origin(hint), get_args(hint)
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
    return kind(document)


def _decode_enum(kind: type[Enum], document: object) -> Enum:
    known = {member.value: member for member in kind}
    if not isinstance(document, str | int) or document not in known:
        names = ", ".join(str(value) for value in known)
        raise DocumentError(f"expected one of {names}, found {_shown(document)}")
    return known[document]


def _decode_path(kind: type[Path], document: object) -> Path:
    return kind(cast(str, _decode_plain(str, document)))


_OWN: Mapping[type, Callable[..., object]] = {Enum: _decode_enum, Path: _decode_path}


def _decode_generic(origin: object, inner: tuple[object, ...], document: object) -> object:
    if origin is Annotated:
        return _decode(inner[0], document)
    if origin in (Union, types.UnionType):
        return _decode_union(inner, document)
    if origin is np.ndarray:
        return _convert(lambda rows: np.array(rows, get_args(inner[1])[0]), document)
    if origin in (tuple, list):
        items = _decode_items(inner, document, same=origin is list or inner[1:] == (Ellipsis,))
        return items if origin is list else tuple(items)
    if not isinstance(document, dict):
        raise DocumentError(f"expected an object, found {_shown(document)}")
    return {
        _convert(cast("Callable[[str], object]", inner[0]), name): _inside(
            name, partial(_decode, inner[1]), item
        )
        for name, item in document.items()
    }


def _decode_union(hints: tuple[object, ...], document: object) -> object:
    """The first alternative that fits; null is None where that is one."""
    if document is None and types.NoneType in hints:
        return None
    others = [hint for hint in hints if hint is not types.NoneType]
    for hint in others[:-1]:
        try:
            return _decode(hint, document)
        except DocumentError:
            continue
    return _decode(others[-1], document)


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
