"""Frozen dataclasses from JSON objects, every field checked by its name and its type.

Knows the types that architectures.json needs, and no architecture and no rule.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache, partial
from inspect import get_annotations
from typing import Literal, TypeVar, Union, cast, get_args, get_origin

from ggprune.errors import DataError

T = TypeVar("T")

Reader = Callable[[object, str], object]  # a JSON value and its place -> what the field holds


def parse_object(kind: type[T], row: object, place: str) -> T:
    """A dataclass from the JSON object `row`, which stands at `place`.

    Raises DataError that names the place and the field if one is unknown, missing or mistyped.
    """
    if not isinstance(row, Mapping):
        raise DataError(f"{place} is {row!r}, expected an object")
    plain: type = kind
    readers = _readers_of(plain)
    for name in row:
        if name not in readers:
            known = ", ".join(readers) or "none"
            raise DataError(f"{place}: unknown field {name} (known: {known})")
    for name in _required_of(plain):
        if name not in row:
            raise DataError(f"{place}: field {name} is missing")
    return kind(**{name: readers[name](value, f"{place}: {name}") for name, value in row.items()})


@cache
def _readers_of(kind: type) -> dict[str, Reader]:
    """By field. Inherited fields are none of them: no rule and no row has any."""
    annotations = get_annotations(kind, eval_str=True)
    return {field.name: _reader_of(annotations[field.name]) for field in fields(kind)}


@cache
def _required_of(kind: type) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind) if field.default is MISSING)


@cache
def _reader_of(annotation: object) -> Reader:
    """What checks values of X, X | None, Literal, tuple[X, ...] or Mapping[int, X]."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        (stated,) = (argument for argument in arguments if argument is not types.NoneType)
        return _reader_of(stated)  # what is not stated is not in the object
    if origin is Literal:
        return partial(_read_choice, arguments)
    if origin is tuple:
        return partial(_read_list, _reader_of(arguments[0]))
    if origin is Mapping and arguments[0] is int:
        return partial(_read_numbered, _reader_of(arguments[1]))
    return partial(_read_plain, cast(type, origin or annotation))


def _read_plain(kind: type, value: object, place: str) -> object:
    # bool is an int to isinstance, and a flag where a number belongs is a mistake
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise DataError(f"{place} is {value!r}, expected {kind.__name__}")
    return value


def _read_choice(choices: tuple[object, ...], value: object, place: str) -> object:
    if value not in choices:
        raise DataError(f"{place} is {value!r}, expected {' or '.join(map(repr, choices))}")
    return value


def _read_list(read: Reader, value: object, place: str) -> object:
    if not isinstance(value, (list, tuple)):
        raise DataError(f"{place} is {value!r}, expected a list")
    return tuple(read(item, f"{place}[{i}]") for i, item in enumerate(value))


def _read_numbered(read: Reader, value: object, place: str) -> object:
    """An object whose names are numbers, which JSON can only write as text."""
    if not isinstance(value, Mapping) or not all(str(name).isdecimal() for name in value):
        raise DataError(f"{place} is {value!r}, expected an object with numbers for names")
    return {int(name): read(item, f"{place}.{name}") for name, item in value.items()}
