"""Which architectures can be pruned exactly, and the names of their residual stream.

`architectures.json` has one row per architecture llama.cpp knows. A row with a `reason` is refused
with it; an architecture without a row is refused because nothing is known about it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ggprune.arch.rules import check_layers_alike
from ggprune.errors import ArchitectureError
from ggprune.model import Model


@dataclass(frozen=True)
class Architecture:
    """What must be known of an architecture to leave out layers, in a file and in memory.

    `residual_in` are the graph names of the stream that enters layer 0 (the last of them that the
    graph has counts); layer n leaves it as `{residual_out}-{n}`. `source` is the place in
    llama.cpp's C++ that this was read from.
    """

    name: str
    residual_in: tuple[str, ...]
    residual_out: str
    source: str


@cache
def _table() -> dict[str, dict[str, Any]]:
    data = files("ggprune.arch").joinpath("architectures.json").read_text("utf-8")
    table: dict[str, dict[str, Any]] = json.loads(data)["architectures"]
    return table


def supported_architectures() -> tuple[str, ...]:
    return tuple(name for name, row in _table().items() if "reason" not in row)


def architecture_of(model: Model) -> Architecture:
    """The model's architecture. Raises ArchitectureError unless any set of its layers is exact."""
    row = _table().get(model.arch)
    if row is None:
        raise ArchitectureError(
            f"{model.path}: nothing is known about architecture {model.arch}, so its layers "
            "cannot be removed safely"
        )
    if "reason" in row:
        raise ArchitectureError(
            f"{model.path}: layers of {model.arch} cannot be removed yet: {row['reason']} "
            f"(llama.cpp {row['source']})"
        )
    check_layers_alike(model)
    return Architecture(model.arch, tuple(row["residual_in"]), row["residual_out"], row["source"])
