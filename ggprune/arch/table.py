"""What is known of every architecture that llama.cpp knows: `architectures.json`, typed.

The table is read when it is first asked for, and as a whole: a misspelled field is an error of
every run, not of the model that happens to need it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from ggprune.arch.parse import parse_object
from ggprune.arch.rules import Rule, parse_rule
from ggprune.errors import DataError

PATH = Path(__file__).with_name("architectures.json")


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
