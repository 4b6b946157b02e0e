"""What keys a dataclass has in its document, said where its fields are.

In a field's `Annotated` type a string describes the key, for docs/formats.md, and a `Key` says
where it differs from the field; `@written` puts a property among the keys. Knows nothing of JSON.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields
from functools import cache
from inspect import get_annotations
from types import SimpleNamespace
from typing import Annotated, TypeVar, cast, get_args, get_origin, get_type_hints

F = TypeVar("F", bound=Callable[..., object])
Place = tuple[str, ...]  # of a key: the objects around it, its name


@dataclass(frozen=True, kw_only=True)
class Key:
    """How a field stands in the document, where it is not simply a key of its own name."""

    name: str = ""  # dots lead into objects: "model.path"
    inline: bool = False  # the keys of its dataclass stand among the others
    left_out: bool = False  # not in the document; what is read has the field's default
    optional: bool = False  # not in the document where it is None
    write: Callable[..., object] | None = None  # what is encoded in place of the value
    read: Callable[..., object] | None = None  # the value, from what stands in the document


LEFT_OUT = Key(left_out=True)
INLINE = Key(inline=True)


def written(name: str = "", *, before: str = "") -> Callable[[F], F]:
    """Have a property in the document, in front of the field `before`, or else at the end.

    Stands below `@property`; a description is in the `Annotated` type that it returns.
    """

    def mark(function: F) -> F:
        vars(function)["written"] = (name, before)
        return function

    return mark


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One key of a class's document, or all that an inlined field brings."""

    place: Place
    attribute: str
    hint: object  # the type, without what is said about it
    description: str
    key: Key
    is_read: bool  # a property is written only
    is_required: bool

    @property
    def inlined(self) -> type:
        return cast(type, self.hint)


def _entries_of(cls: type) -> tuple[Entry, ...]:
    """The keys of a dataclass's document, in its order."""
    hints: dict[str, object] = {}
    marked: list[tuple[str, Callable[..., object]]] = []  # first those that the class inherits
    for base in reversed(cls.__mro__):  # hints are in the words of the module that it is in
        named = SimpleNamespace(__annotations__=get_annotations(base))
        hints |= get_type_hints(named, vars(sys.modules[base.__module__]), include_extras=True)
        for name, member in vars(base).items():
            function = getattr(member, "fget", None) or getattr(member, "func", None)
            if function and "written" in getattr(function, "__dict__", {}):
                marked.append((name, function))
    entries = [
        _entry(f.name, hints[f.name], is_required=f.default is f.default_factory is MISSING)
        for f in fields(cls)
    ]
    for attribute, function in marked:
        name, before = vars(function)["written"]
        hint = get_type_hints(function, include_extras=True)["return"]
        attributes = [entry.attribute for entry in entries]
        place = attributes.index(before) if before else len(entries)
        entries.insert(place, _entry(attribute, hint, name, is_read=False, is_required=False))
    return tuple(entry for entry in entries if not entry.key.left_out)


def _places_of(cls: type) -> frozenset[Place]:
    """Where all keys of a class stand, with those that inlined fields bring."""
    entries = entries_of(cls)
    own = {entry.place for entry in entries if not entry.key.inline}
    return frozenset(own.union(*(places_of(e.inlined) for e in entries if e.key.inline)))


# Typed again: `cache` alone does not take the classes of all values.
entries_of: Callable[[type], tuple[Entry, ...]] = cache(_entries_of)
places_of: Callable[[type], frozenset[Place]] = cache(_places_of)


def _entry(
    attribute: str, hint: object, name: str = "", *, is_read: bool = True, is_required: bool
) -> Entry:
    bare, *notes = get_args(hint) if get_origin(hint) is Annotated else (hint,)
    key = next((note for note in notes if isinstance(note, Key)), Key())
    description = next((note for note in notes if isinstance(note, str)), "")
    place = tuple((name or key.name or attribute).split("."))
    return Entry(
        place=place, attribute=attribute, hint=bare, description=description, key=key,
        is_read=is_read, is_required=is_required and not key.optional,
    )  # fmt: skip
