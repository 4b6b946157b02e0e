"""Which layers of which architecture can be removed exactly, and the names of the residual stream.

`architectures.json` has one row per architecture llama.cpp knows: the graph's names and the rules
of `rules.py` that hold for it. A row with a `reason` is refused with it; an architecture without a
row is refused because nothing is known about it, unless the user vouches for its layers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any

from ggprune.arch.change import Change
from ggprune.arch.removal import Illegal, n_trunk
from ggprune.arch.rules import layer_change, unknown_arrays
from ggprune.errors import ArchitectureError
from ggprune.model import Model

TRUST = "ggprune prune --trust-uniform-layers"

# What architectures call the stream that enters layer 0; tried where nothing else is known.
USUAL_INPUTS = ("embd", "inp_scaled", "inpL", "inp_embd", "model.embed_tokens", "model.input_embed")

# Parts of keys that have meant a schedule or a place among the layers so far.
_INDEX_WORDS = re.compile(
    r"pattern|interval|period|leading|every|_step|shared_kv|layers?\b|nextn|hash_|mapping|types"
)


# The residual stream at one place of the graph: its names there, for every run through the layers.
StreamNames = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Architecture:
    """What must be known of a model's architecture to leave out layers, in a file and in memory.

    `residual_in` are the graph names of the stream that enters layer 0, `residual_out` those of
    the stream behind layer i ({i}; {j} is i + 1); the last of them that the graph has counts.
    `source` is the place in llama.cpp's C++ that this was read from.
    """

    name: str
    residual_in: tuple[str, ...]
    residual_out: tuple[str, ...]
    rules: tuple[Mapping[str, Any], ...]
    source: str
    n_trunk: int  # layers that compute; MTP blocks come behind them
    residual_last: tuple[str, ...] = ()  # other names of the stream behind the last layer
    n_loop: int = 1  # how often the layers are run through
    loop_in: tuple[str, ...] = ()  # the stream that enters layer 0 again, by the layer before
    unscored: str | None = None  # why leaving layers out in memory does not predict the file

    @property
    def places(self) -> tuple[StreamNames, ...]:
        """The stream in front of every layer that computes, and behind the last one."""
        entering = (self.entering(layer) for layer in range(self.n_trunk))
        return (*entering, self.leaving(self.n_trunk - 1))

    def entering(self, layer: int) -> StreamNames:
        """Names of the stream in front of a layer, one tuple per run through the layers."""
        if layer > 0:
            return self.leaving(layer - 1)
        again = (self.n_trunk * loop - 1 for loop in range(1, self.n_loop))
        return (self.residual_in, *(_numbered(self.loop_in, last) for last in again))

    def leaving(self, layer: int) -> StreamNames:
        """Names of the stream behind a layer, one tuple per run through the layers."""
        if layer == self.n_trunk - 1 and self.residual_last:
            return (self.residual_last,)
        runs = (layer + self.n_trunk * loop for loop in range(self.n_loop))
        return tuple(_numbered(self.residual_out, position) for position in runs)


def _numbered(names: Sequence[str], i: int) -> tuple[str, ...]:
    return tuple(name.format(i=i, j=i + 1) for name in names)


@cache
def architecture_table() -> dict[str, dict[str, Any]]:
    """The rows of architectures.json."""
    data = files("ggprune.arch").joinpath("architectures.json").read_text("utf-8")
    table: dict[str, dict[str, Any]] = json.loads(data)["architectures"]
    return table


def architecture_of(model: Model, *, trust: bool = False) -> Architecture:
    """The model's architecture. Raises ArchitectureError if its layers cannot be removed.

    With `trust`, layers of an unknown architecture and unknown per-layer arrays are taken to be
    what they look like.
    """
    row = architecture_table().get(model.arch)
    if row is None and trust:
        return Architecture(
            model.arch, USUAL_INPUTS, ("l_out-{i}",), (), "not known", n_trunk(model)
        )
    if row is None:
        raise ArchitectureError(
            f"{model.path}: nothing is known about architecture {model.arch}, and removing layers "
            f"could be silently wrong: {_suspects(model)} ({TRUST} removes them all the same)"
        )
    if "reason" in row:
        raise ArchitectureError(
            f"{model.path}: layers of {model.arch} cannot be removed yet: {row['reason']} "
            f"(llama.cpp {row['source']})"
        )
    unknown = unknown_arrays(model)
    if unknown and not trust:
        raise ArchitectureError(
            f"{model.path}: {unknown[0]} has one entry per layer ({model.n_layer}) and is not "
            f"known; removing layers could be silently wrong ({TRUST} slices it like the others)"
        )
    return _architecture(model, row)


def _architecture(model: Model, row: Mapping[str, Any]) -> Architecture:
    def number(key: str | None, default: int) -> int:
        value = model.metadata.get(key.format(arch=model.arch)) if key else None
        return default if value is None or value.array_len is not None else int(value.decode())

    return Architecture(
        model.arch,
        tuple(row["residual_in"]),
        tuple(row["residual_out"]),
        tuple(row.get("rules", ())),
        row["source"],
        n_trunk(model),
        residual_last=tuple(row.get("residual_last", ())),
        n_loop=max(number(row.get("loops"), 1), 1),
        loop_in=tuple(row.get("loop_in", ())),
        unscored=row.get("unscored"),
    )


def _suspects(model: Model) -> str:
    """What in the metadata of an unknown architecture may depend on a layer's position."""
    arrays = unknown_arrays(model)
    named = [
        key
        for key in model.metadata
        if key.startswith(f"{model.arch}.") and key not in arrays and _INDEX_WORDS.search(key)
    ]
    seen = [f"{key} has one entry per layer" for key in arrays]
    seen += [f"{key} sounds like a schedule" for key in named]
    return "; ".join(seen) or "its metadata shows nothing that looks per-layer, its code may"


def check_scored(arch: Architecture) -> None:
    """Raises ArchitectureError if layers cannot be scored by leaving them out in memory."""
    if arch.unscored is not None:
        raise ArchitectureError(
            f"layers of {arch.name} cannot be scored: {arch.unscored} (ggprune prune removes them)"
        )


def removal_change(model: Model, keep: Sequence[int], *, trust: bool = False) -> Change:
    """Everything that changes when only the layers `keep` remain.

    Raises Illegal (an ArchitectureError) with the reasons if the result would not be exact.
    """
    arch = architecture_of(model, trust=trust)
    try:
        return layer_change(model, keep, arch.rules, trust=trust)
    except Illegal as e:
        raise Illegal(
            f"{model.path}: not exact for {arch.name}: {e} (llama.cpp {arch.source})"
        ) from e


def is_legal(model: Model, keep: Sequence[int], *, trust: bool = False) -> bool:
    """Can exactly these layers remain? Raises ArchitectureError if the architecture is refused."""
    try:
        layer_change(model, keep, architecture_of(model, trust=trust).rules, trust=trust)
    except Illegal:
        return False
    return True
