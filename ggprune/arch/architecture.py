"""A model's architecture: may layers be removed at all, what each is, and its residual stream.

A row of the table with a `reason` is refused with it; an architecture without a row is refused
because nothing is known about it, unless the user vouches for its layers.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ggprune.arch.hparams import Hparams
from ggprune.arch.table import ArchitectureRow, RefusedRow, architecture_table
from ggprune.errors import ArchitectureError
from ggprune.model.model import MAX_LAYERS, Model

TRUST = "ggprune prune --trust-uniform-layers"

# What is taken for granted of an architecture whose layers a user vouches for; llama.cpp's graphs
# name the stream that enters layer 0 in one of these ways.
UNKNOWN = ArchitectureRow(
    residual_in=(
        "embd", "inp_scaled", "inpL", "inp_embd", "model.embed_tokens", "model.input_embed",
    ),
    residual_out=("l_out-{i}",),
    source="not known",
)  # fmt: skip

# Parts of keys that have meant a schedule or a place among the layers so far.
_INDEX_WORDS = re.compile(
    r"pattern|interval|period|leading|every|_step|shared_kv|layers?\b|nextn|hash_|mapping|types"
)

# The residual stream at one place of the graph: its names there, for every run through the layers.
StreamNames = tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Architecture:
    """What must be known of a model's architecture to leave out layers, in a file and in memory."""

    name: str
    row: ArchitectureRow
    n_trunk: int  # layers that compute; MTP blocks come behind them
    n_loop: int = 1  # how often the layers are run through

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
        return (self.row.residual_in, *(_numbered(self.row.loop_in, last) for last in again))

    def leaving(self, layer: int) -> StreamNames:
        """Names of the stream behind a layer, one tuple per run through the layers."""
        if layer == self.n_trunk - 1 and self.row.residual_last:
            return (self.row.residual_last,)
        runs = (layer + self.n_trunk * loop for loop in range(self.n_loop))
        return tuple(_numbered(self.row.residual_out, position) for position in runs)


def _numbered(names: Sequence[str], i: int) -> tuple[str, ...]:
    return tuple(name.format(i=i, j=i + 1) for name in names)


def architecture_of(model: Model, *, trust: bool = False) -> Architecture:
    """The model's architecture. Raises ArchitectureError if its layers cannot be removed.

    With `trust`, layers of an unknown architecture and unknown per-layer arrays are taken to be
    what they look like.
    """
    hparams = Hparams(model)
    row = architecture_table().architectures.get(model.arch, UNKNOWN)
    deepest = max(n_block for _, n_block in model.stacks)
    if deepest > MAX_LAYERS:
        raise ArchitectureError(
            f"{model.path}: has {deepest} layers, llama.cpp computes at most {MAX_LAYERS}"
        )
    if isinstance(row, RefusedRow):
        raise ArchitectureError(
            f"{model.path}: layers of {model.arch} cannot be removed yet: {row.reason} "
            f"(llama.cpp {row.source})"
        )
    if row is UNKNOWN and not trust:
        raise ArchitectureError(
            f"{model.path}: nothing is known about architecture {model.arch}, and removing layers "
            f"could be silently wrong: {_suspects(hparams)} ({TRUST} removes them all the same)"
        )
    unknown = () if trust else hparams.unknown_arrays
    if unknown:
        raise ArchitectureError(
            f"{model.path}: {unknown[0]} has one entry per layer ({model.n_layer}) and is not "
            f"known; removing layers could be silently wrong ({TRUST} slices it like the others)"
        )
    n_loop = 1
    if row.loops is not None:
        n_loop = hparams.integer(row.loops, 1, least=1, most=max(MAX_LAYERS // model.n_layer, 1))
    return Architecture(model.arch, row, hparams.n_trunk, n_loop)


def _suspects(hparams: Hparams) -> str:
    """What in the metadata of an unknown architecture may depend on a layer's position."""
    arrays, prefix = hparams.unknown_arrays, f"{hparams.model.arch}."
    others = (k for k in hparams.model.metadata if k.startswith(prefix) and k not in arrays)
    seen = [f"{key} has one entry per layer" for key in arrays]
    seen += [f"{key} sounds like a schedule" for key in others if _INDEX_WORDS.search(key)]
    return "; ".join(seen) or "its metadata shows nothing that looks per-layer, its code may"


def check_scored(arch: Architecture) -> None:
    """Raises ArchitectureError if layers cannot be scored by leaving them out in memory."""
    if arch.row.unscored is not None:
        raise ArchitectureError(
            f"layers of {arch.name} cannot be scored: {arch.row.unscored} "
            "(ggprune prune removes them)"
        )


def layer_traits(model: Model) -> tuple[tuple[str, ...], ...]:
    """For every layer: encoder or decoder, MTP, recurrent, window of N, NoPE, keys of layer N,
    index of layer N.

    Empty for plain attention over everything, and for layers of an unknown architecture.
    """
    hparams, stacks = Hparams(model), model.stacks
    row = architecture_table().architectures.get(model.arch)
    rules = row.rules if isinstance(row, ArchitectureRow) else ()
    traits: list[list[str]] = [[] for _ in range(model.n_layer)]
    for n, words in enumerate(traits):
        if len(stacks) > 1:
            words.append("encoder" if n < stacks[0][1] else "decoder")
        if n >= hparams.n_trunk:
            words.append("MTP")
    stated = (rule.windows(hparams) for rule in rules)
    windows = next((flags for flags in stated if flags is not None), None)  # one rule says so
    for rule in rules:
        for n, word in rule.traits(hparams, windows).items():
            if n < hparams.n_trunk:
                traits[n].append(word)
    return tuple(tuple(words) for words in traits)
