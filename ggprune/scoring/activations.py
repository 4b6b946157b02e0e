"""What an importance matrix says about layers: neither a text nor a forward pass is needed.

The formulas are those of llama-imatrix --show-statistics (tools/imatrix/imatrix.cpp), which sees
only what enters each matrix: a proxy of how much a layer changes, weaker than the stream itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from ggprune.arch.hparams import n_trunk
from ggprune.errors import DataError, FormatError
from ggprune.metrics.estimates import Float64
from ggprune.model.gguf import Tensor
from ggprune.model.imatrix import Imatrix
from ggprune.model.model import Model
from ggprune.model.names import block_of, rename_block
from ggprune.scoring.weights import is_matrix


@dataclass(frozen=True)
class LayerActivations:
    """What enters a layer's matrices: means over them, weighted by their numbers of inputs.

    `energy` is the sum over a matrix's inputs of the mean squared activation E[A^2], 0 for a layer
    without matrices. `cosine` is that of a matrix's summed squares to those of the same matrix of
    the layer before; None where that layer has none of these matrices, as in front of the first.
    """

    energy: float
    cosine: float | None


@dataclass(frozen=True)
class _Entry:
    """A matrix's inputs, those of all its experts one behind the other."""

    sums: Float64  # (n_matrix * n_column,) of the squared activations
    n_value: int  # inputs of the experts that were chosen at least once
    energy: float


def activation_statistics(imatrix: Imatrix, model: Model) -> tuple[LayerActivations, ...]:
    """One per trunk layer, in order.

    llama-imatrix counts a matrix without its like in the layer before as a cosine of 0; here it
    has no say. Raises DataError if the importance matrix does not fit the model or leaves out a
    layer of it.
    """
    for name in imatrix.entries:
        try:
            model.layer_of(name)
        except FormatError as e:
            raise DataError(
                f"{imatrix.path}: of another model, {e}; ggprune remap carries the importance "
                "matrix of a model over to what was pruned from it"
            ) from e
    trunk = model.layers[: n_trunk(model)]
    held = ((tensor.name, _entry(imatrix, tensor)) for layer in trunk for tensor in layer)
    entries = {name: entry for name, entry in held if entry is not None}
    if not entries:
        raise DataError(f"{imatrix.path}: no entry is of a matrix in the layers of {model.path}")
    return tuple(_layer(imatrix, n, tensors, entries) for n, tensors in enumerate(trunk))


def _entry(imatrix: Imatrix, tensor: Tensor) -> _Entry | None:
    """None if the tensor has no entry, or one without a single token."""
    means, n_column = imatrix.entries.get(tensor.name), tensor.shape[0]
    if means is None:
        return None
    n_matrix = tensor.n_element // math.prod(tensor.shape[:2])
    counts = imatrix.counts.get(tensor.name, np.ones(1, np.float32))
    if len(means) != n_matrix * n_column or len(counts) not in (1, n_matrix):
        raise DataError(
            f"{imatrix.path}: {tensor.name} has {len(means)} values and {len(counts)} counts, "
            f"expected {n_matrix} x {n_column} and 1 or {n_matrix}"
        )
    by_count = means.reshape(len(counts), -1).astype(np.float64)  # (n_count, n_column or all)
    seen = by_count[counts > 0]
    if seen.size == 0:
        return None
    return _Entry((by_count * counts[:, None]).ravel(), seen.size, float(seen.sum()))


def _layer(
    imatrix: Imatrix, layer: int, tensors: tuple[Tensor, ...], entries: Mapping[str, _Entry]
) -> LayerActivations:
    names = [tensor.name for tensor in tensors if tensor.name in entries]
    if not names and any(is_matrix(tensor) for tensor in tensors):
        raise DataError(f"{imatrix.path}: layer {layer} has matrices, but no entry for any of them")
    cosines = {name: _cosine_to_previous(name, entries) for name in names}
    return LayerActivations(
        _mean({name: entries[name].energy for name in names}, entries) or 0.0,
        _mean({name: x for name, x in cosines.items() if x is not None}, entries),
    )


def _mean(values: Mapping[str, float], entries: Mapping[str, _Entry]) -> float | None:
    """Weighted by the matrices' numbers of inputs; None of nothing."""
    if not values:
        return None
    weights = [entries[name].n_value for name in values]
    return float(np.average(list(values.values()), weights=weights))


def _cosine_to_previous(name: str, entries: Mapping[str, _Entry]) -> float | None:
    """None if the layer before has no such matrix or one of another size, or one saw only zeros."""
    block = block_of(name)
    if block is None or block[1] == 0:
        return None
    before = entries.get(rename_block(name, block[1] - 1))
    sums = entries[name].sums
    if before is None or before.sums.shape != sums.shape:
        return None
    norms = float(np.linalg.norm(sums) * np.linalg.norm(before.sums))
    return float(sums @ before.sums) / norms if norms > 0 else None
