"""The page formats.md, from its template and the dataclasses that are written.

A line `@keys module.Class: a title` in the template becomes the table of the class's keys. Where a
class has a table of its own, the others refer to it by that title.
"""

from __future__ import annotations

import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from enum import Enum
from importlib import import_module
from pathlib import Path
from typing import Annotated, Union, get_args, get_origin

import numpy as np

from ggprune.files.keys import Entry, entries_of
from ggprune.model.cut import Cut
from ggprune.report.blocks import markdown_table

TEMPLATE = Path(__file__).with_name("formats.template.md")
DIRECTIVE = re.compile(r"^@keys (?P<module>[\w.]+)\.(?P<name>\w+): (?P<title>.+)$", re.MULTILINE)
PLAIN: Mapping[object, str] = {
    str: "string", int: "whole number", float: "number", bool: "true or false", Path: "string",
    Cut: "[layer number or string, ...]",
}  # fmt: skip

Titles = Mapping[type, str]
Row = tuple[str, str, str]


def document() -> str:
    template = TEMPLATE.read_text("utf-8")
    titles = {_named(match): match["title"] for match in DIRECTIVE.finditer(template)}
    return DIRECTIVE.sub(lambda match: _table(_named(match), titles), template)


def _named(match: re.Match[str]) -> type:
    found: type = getattr(import_module(match["module"]), match["name"])
    return found


def _table(cls: type, titles: Titles) -> str:
    heading = f"{titles[cls][0].upper()}{titles[cls][1:]}:\n\n"
    rows = [(f"`{key}`", kind, description) for key, kind, description in _rows(cls, titles)]
    table = markdown_table(("key", "value", "what it is"), rows, left=(0, 1, 2))
    return heading + table.replace("||", "\\|\\|")


def _rows(cls: type, titles: Titles, before: str = "") -> Iterator[Row]:
    """The keys of a class, with those of the objects in it that have no table of their own."""
    for entry in entries_of(cls):
        if entry.key.inline and entry.inlined in titles:
            yield f"{before}*", "", f"the keys of {titles[entry.inlined]}"
        elif entry.key.inline:
            yield from _rows(entry.inlined, titles, before)
        else:
            key = before + ".".join(entry.place)
            yield key, _value(entry, titles), entry.description
            inner = _object_in(entry.hint)
            if inner is not None and inner not in titles and entry.key.write is None:
                yield from _rows(inner, titles, f"{key}{'[]' * _depth(entry.hint)}.")


def _value(entry: Entry, titles: Titles) -> str:
    if entry.key.write is not None:
        return ""  # what is said about it has to do
    return _kind(entry.hint, titles) + (", or no key" if entry.key.optional else "")


def _kind(hint: object, titles: Titles) -> str:
    """What stands in a document for a type."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _kind(inner[0], titles)
    if origin in (Union, types.UnionType):
        names = [_kind(one, titles) for one in inner if one is not types.NoneType]
        return " or ".join([*names, *(["null"] if types.NoneType in inner else [])])
    if origin in (tuple, list):
        same = origin is list or inner[1:] == (Ellipsis,)
        kinds = [_kind(one, titles) for one in (inner[:1] if same else inner)]
        return f"[{', '.join(kinds)}{', ...' if same else ''}]"
    if origin is dict:
        return f"{{name: {_kind(inner[1], titles)}, ...}}"
    if origin is np.ndarray:
        return "[[number, ...], ...]"
    return _kind_of_class(hint, titles)


def _kind_of_class(hint: object, titles: Titles) -> str:
    if hint in PLAIN:
        return PLAIN[hint]
    assert isinstance(hint, type), hint
    if issubclass(hint, Enum):
        return " or ".join(f'`"{member.value}"`' for member in hint)
    if hint in titles:
        return titles[hint]
    return "object"


def _object_in(hint: object) -> type | None:
    """The dataclass that a value, or the items of its lists, are of."""
    if isinstance(hint, type) and is_dataclass(hint) and not hasattr(hint, "to_json"):
        return hint
    return next(filter(None, map(_object_in, get_args(hint))), None)


def _depth(hint: object) -> int:
    """Lists around it."""
    inner = max((_depth(one) for one in get_args(hint)), default=0)
    return inner + (get_origin(hint) in (tuple, list))
