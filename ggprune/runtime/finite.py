"""Whose logits are not finite, and what in its file may be why: looked for when that is so."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ggprune.errors import DataError, GGPruneError, NonFiniteError
from ggprune.model.gguf import Tensor
from ggprune.model.metadata import ValueType
from ggprune.model.model import Model, open_model
from ggprune.runtime.convert import Dequantizer

FLOATS = (ValueType.FLOAT32, ValueType.FLOAT64)
STEP_VALUES = 1 << 20  # floats that exist at once


@contextlib.contextmanager
def naming(path: Path, what: str = "") -> Iterator[None]:
    """A NonFiniteError raised in the block names the model, and what of it is not finite."""
    try:
        yield
    except NonFiniteError as e:
        raise NonFiniteError(f"{path}{what}: {e}; {_reason(path)}") from e


def _reason(path: Path) -> str:
    try:
        model = open_model(path)
        for key, value in model.metadata.items():
            if value.type in FLOATS and not math.isfinite(value.decode()):
                return f"{key} is {value.decode()}"
        return _told(model, next(filter(_has_flaw, model.tensors), None))
    except (GGPruneError, OSError) as e:
        return f"its weights cannot be looked at: {e}"


def _told(model: Model, tensor: Tensor | None) -> str:
    if tensor is None:
        return "all its weights are finite"
    layer = model.layer_of(tensor.name)
    place = f" (layer {layer})" if layer is not None else ""
    return f"{tensor.name}{place} has weights that are not finite"


def _has_flaw(tensor: Tensor) -> bool:
    """Raises DataError if the tensor cannot be read."""
    try:
        dequantize = Dequantizer(tensor.type)
    except DataError:
        return False  # whole numbers
    step = STEP_VALUES // tensor.type.block_size * tensor.type.block_size
    for start in range(0, tensor.n_element, step):
        floats = np.empty(min(step, tensor.n_element - start), np.float32)
        n_byte, before = (tensor.type.size_bytes((n,)) for n in (len(floats), start))
        raw = np.fromfile(tensor.path, np.uint8, n_byte, offset=tensor.offset + before)
        dequantize(raw, floats)
        if not np.isfinite(floats).all():
            return True
    return False
