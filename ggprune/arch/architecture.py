"""Which layers of which architecture can be removed exactly, and the names of the residual stream.

`architectures.json` has one row per architecture llama.cpp knows: the graph's names and the rules
of `rules.py` that hold for it. A row with a `reason` is refused with it; an architecture without a
row is refused because nothing is known about it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ggprune.arch.rules import Illegal, check_arrays_known, layer_metadata
from ggprune.errors import ArchitectureError
from ggprune.model import Model, Value


@dataclass(frozen=True)
class Architecture:
    """What must be known of an architecture to leave out layers, in a file and in memory.

    `residual_in` are the graph names of the stream that enters layer 0, `residual_out` those of
    the stream behind layer i ({i}; {j} is i + 1); the last of them that the graph has counts.
    `source` is the place in llama.cpp's C++ that this was read from.
    """

    name: str
    residual_in: tuple[str, ...]
    residual_out: tuple[str, ...]
    rules: tuple[dict[str, Any], ...]
    source: str

    def stream_names(self, position: int) -> tuple[str, ...]:
        """Graph names of the residual stream in front of layer `position`."""
        if position == 0:
            return self.residual_in
        return tuple(name.format(i=position - 1, j=position) for name in self.residual_out)


@cache
def _table() -> dict[str, dict[str, Any]]:
    data = files("ggprune.arch").joinpath("architectures.json").read_text("utf-8")
    table: dict[str, dict[str, Any]] = json.loads(data)["architectures"]
    return table


def architecture_of(model: Model) -> Architecture:
    """The model's architecture. Raises ArchitectureError if its layers cannot be removed."""
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
    check_arrays_known(model)
    return Architecture(
        model.arch,
        tuple(row["residual_in"]),
        tuple(row["residual_out"]),
        tuple(row.get("rules", ())),
        row["source"],
    )


def removal_metadata(model: Model, keep: Sequence[int]) -> dict[str, Value]:
    """Values that change when only the layers `keep` remain.

    Raises ArchitectureError with the reasons if the result would not be exact.
    """
    arch = architecture_of(model)
    try:
        return layer_metadata(model, keep, arch.rules)
    except Illegal as e:
        raise Illegal(
            f"{model.path}: not exact for {arch.name}: {e} (llama.cpp {arch.source})"
        ) from e


def is_legal(model: Model, keep: Sequence[int]) -> bool:
    """Can exactly these layers remain? Raises ArchitectureError if the architecture is refused."""
    try:
        layer_metadata(model, keep, architecture_of(model).rules)
    except Illegal:
        return False
    return True
