"""What is known of every architecture that llama.cpp knows: `architectures.json`, typed.

The table is read when it is first asked for, and as a whole: a misspelled field is an error of
every run, not of the model that happens to need it.
"""

from __future__ import annotations

import json
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from functools import cache, partial
from inspect import get_annotations
from pathlib import Path
from typing import Literal, TypeVar, Union, cast, get_args, get_origin

from ggprune.arch.rules import RULES, Rule
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
    for item in fields(plain):
        is_needed = item.default is MISSING and item.default_factory is MISSING
        if is_needed and item.name not in row:
            raise DataError(f"{place}: field {item.name} is missing")
    return kind(**{name: readers[name](value, f"{place}: {name}") for name, value in row.items()})


@cache
def _readers_of(kind: type) -> dict[str, Reader]:
    """By field. Inherited fields are none of them: no rule and no row has any."""
    annotations = get_annotations(kind, eval_str=True)
    return {item.name: _reader_of(annotations[item.name]) for item in fields(kind)}


@cache
def _reader_of(annotation: object) -> Reader:
    """What checks values of X, X | None, Literal, Alone, tuple[X, ...] or a Mapping."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        (stated,) = (argument for argument in arguments if argument is not types.NoneType)
        return _reader_of(stated)  # what is not stated is not in the object
    if origin is Literal:
        return partial(_read_choice, arguments)
    if origin is tuple:
        return partial(_read_list, _reader_of(arguments[0]))
    if annotation is Alone:
        return partial(parse_object, Alone)
    if origin is Mapping and (arguments[0] is int or arguments[1] is float):
        return partial(_read_mapping, arguments[0], _reader_of(arguments[1]))
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


def _read_mapping(kind: type, read: Reader, value: object, place: str) -> object:
    """An object by names, or by numbers, which JSON can only write as text."""
    is_numbered = kind is int
    if not isinstance(value, Mapping) or (
        is_numbered and not all(str(name).isdecimal() for name in value)
    ):
        what = "an object with numbers for names" if is_numbered else "an object"
        raise DataError(f"{place} is {value!r}, expected {what}")
    return {kind(name): read(item, f"{place}.{name}") for name, item in value.items()}


PATH = Path(__file__).with_name("architectures.json")


@dataclass(frozen=True, kw_only=True)
class Alone:
    """How llama.cpp is told of layers that keep one half alone; None: it cannot be.

    An attention that is missing has no heads (but one of zeros in the first layer), or always one
    head of zeros. An FFN that is missing is one of zeros, one element wide, or its norm alone.
    """

    attn: Literal["no_heads", "zero_head"] | None = None
    ffn: Literal["width_1", "absent"] | None = None
    # Which elements of a head rotate together; mrope: by other positions where images are.
    rope: Literal["norm", "neox", "mrope"]
    host: str | None = None  # the architecture that a model is stored as; None: its own
    # Keys that the host does not read, and the numbers at which that makes no difference.
    unless: Mapping[str, float] = field(default_factory=dict)
    unread: tuple[str, ...] = ()  # tensors that only the host would compute with


@dataclass(frozen=True, kw_only=True)
class ArchitectureRow:
    """An architecture whose layers can be removed: names in its graph, and the rules that hold.

    `residual_in` are the graph names of the stream that enters layer 0, `residual_out` those of
    the stream behind layer i ({i}; {j} is i + 1); the last of them that the graph has counts.
    `source` is the place in llama.cpp's C++ that this was read from.
    """

    residual_in: tuple[str, ...]
    residual_out: tuple[str, ...]
    source: str
    rules: tuple[Rule, ...] = ()
    residual_last: tuple[str, ...] = ()  # other names of the stream behind the last layer
    loops: str | None = None  # key of how often the layers are run through
    loop_in: tuple[str, ...] = ()  # the stream that enters layer 0 again, by the layer before
    experts_by_layer: bool = False  # the graph asks each layer how many experts it uses
    # Gates of a token's experts: divided by their sum, as the softmax over all experts has them, or
    # what the file states. None: it is not known what follows when experts leave.
    experts: Literal["normalized", "softmax", "stated"] | None = None
    alone: Alone | None = None
    halves: bool = False  # every layer is an attention, then an FFN of its own, computed once
    undivided: tuple[int, ...] = ()  # layers for which the graph does not show that
    ffn_tensors: tuple[str, ...] = ()  # whose names sound as if they were the attention's
    parallel_if: str | None = None  # key of a flag, by default set: both halves read one stream
    sequential_with: str | None = None  # tensor of every block without which that is so
    unscored: str | None = None  # why leaving layers out in memory does not predict the file


@dataclass(frozen=True)
class RefusedRow:
    """An architecture whose layers cannot be removed, and why."""

    reason: str
    source: str


Row = ArchitectureRow | RefusedRow


@dataclass(frozen=True)
class ArchitectureTable:
    """All rows by the architecture's name, and what they were read from."""

    source: str
    architectures: Mapping[str, Row]


@cache
def architecture_table() -> ArchitectureTable:
    """The table that comes with this package."""
    return parse_table(json.loads(PATH.read_text("utf-8")))


def parse_table(document: Mapping[str, object]) -> ArchitectureTable:
    """Raises DataError with the architecture and the field if a row is not what it should be."""
    rows = document.get("architectures")
    if not isinstance(rows, Mapping):
        raise DataError(f"{PATH.name}: architectures is missing or not an object")
    typed = {name: parse_row(row, f"{PATH.name}: {name}") for name, row in rows.items()}
    return parse_object(ArchitectureTable, {**document, "architectures": typed}, PATH.name)


def parse_row(row: object, place: str) -> Row:
    """One architecture's row, which stands at `place`: a refusal if it has a reason."""
    if not isinstance(row, Mapping) or "reason" in row:
        return parse_object(RefusedRow, row, place)
    rules = row.get("rules", [])
    if not isinstance(rules, list):
        raise DataError(f"{place}: rules is {rules!r}, expected a list")
    typed = tuple(parse_rule(rule, place) for rule in rules)
    return parse_object(ArchitectureRow, {**row, "rules": typed}, place)


def parse_rule(row: object, place: str) -> Rule:
    """The rule that a JSON object names, which stands at `place`.

    Raises DataError with the place and the field if anything of it is unknown, missing or mistyped.
    """
    if not isinstance(row, Mapping) or "rule" not in row:
        raise DataError(f"{place}: {row!r} does not name a rule")
    name = row["rule"]
    if not isinstance(name, str) or name not in RULES:
        raise DataError(f"{place}: unknown rule {name}")
    stated = {field: value for field, value in row.items() if field != "rule"}
    return parse_object(RULES[name], stated, f"{place}: {name}")
