"""Layer numbers as the user writes them: `20,21`, `20-22`, `-1` for the last one."""

from __future__ import annotations

import re
from collections.abc import Iterable

from ggprune.errors import UsageError

_ITEM = re.compile(r"(-?[0-9]{1,9})(?:-(-?[0-9]{1,9}))?")


def parse_layers(text: str, n_layer: int) -> tuple[int, ...]:
    """Sorted 0-based layer numbers. Ranges include both ends; -1 is the last layer.

    Raises UsageError for anything that is not a layer of the model, or is named twice.
    """
    layers = [n for item in text.split(",") for n in _parse_item(item.strip(), n_layer)]
    twice = sorted({n for n in layers if layers.count(n) > 1})
    if twice:
        raise UsageError(f"layer {twice[0]} is named twice in '{text}'")
    return tuple(sorted(layers))


def _parse_item(item: str, n_layer: int) -> range:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise UsageError(f"'{item}' is not a layer number: write layers like 20,21 or 20-22 or -1")
    first = resolve_layer(match[1], n_layer)
    last = resolve_layer(match[2], n_layer) if match[2] is not None else first
    if last < first:
        raise UsageError(f"'{item}' runs backwards: it means layers {first} to {last}")
    return range(first, last + 1)


def resolve_layer(number: str, n_layer: int) -> int:
    """The layer; -1 is the last one. Raises UsageError if there is none of that number."""
    n = int(number)
    if not -n_layer <= n < n_layer:
        raise UsageError(f"there is no layer {n}: the model has layers 0 to {n_layer - 1}")
    return n % n_layer


def runs_of(layers: Iterable[int]) -> list[tuple[int, int]]:
    """Maximal runs of consecutive numbers, ends included: (3, 5, 6) -> [(3, 3), (5, 6)]."""
    runs: list[tuple[int, int]] = []
    for n in sorted(layers):
        if runs and n == runs[-1][1] + 1:
            runs[-1] = (runs[-1][0], n)
        else:
            runs.append((n, n))
    return runs


def format_layers(layers: Iterable[int]) -> str:
    """Layer numbers in the shortest notation `parse_layers` reads: `3,5-7`."""
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs_of(layers))
