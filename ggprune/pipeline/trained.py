"""What training changed, as tensors of a file: in their own types again, or as an adapter."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ggprune.files.outputs import PendingFile
from ggprune.healing.matrix import read_stored, store
from ggprune.metrics.estimates import Float32
from ggprune.model.gguf import Tensor
from ggprune.model.metadata import Value
from ggprune.model.model import Model
from ggprune.model.types import TensorType, tensor_type
from ggprune.pipeline.adapter import adapter_metadata
from ggprune.pipeline.synth.write import NEW
from ggprune.surgery.contents import Contents, OutTensor
from ggprune.surgery.layout import lay_out
from ggprune.surgery.rewrite import write_proved
from ggprune.training.options import Changed, Place, Trained

FLOAT = tensor_type("F32")


def stored_changes(
    trained: Trained, pruned: Model, values: Path, patch: PendingFile, kind: str | None
) -> dict[str, Tensor]:
    """Write the new bytes of every trained tensor to `patch`; by name, where they lie.

    What has stayed as it was is left out. kind: the type that matrices are stored in; None: their
    own.
    """
    tensors, offset = dict[str, Tensor](), 0
    with patch.path.open("r+b") as file:
        for item in trained.changed:
            old = pruned.by_name[item.tensor]
            own = old.type if kind is None or len(old.shape) < 2 else tensor_type(kind)
            raw = _bytes(item, old, values, own)
            if own == old.type and np.array_equal(raw, read_stored(old).raw):
                continue
            file.seek(offset)
            file.write(raw.data)
            tensors[item.tensor] = Tensor(
                name=item.tensor, type=own, shape=old.shape, path=patch.path, offset=offset,
                size_bytes=len(raw),
            )  # fmt: skip
            offset += len(raw)
    return tensors


def _bytes(item: Changed, old: Tensor, values: Path, kind: TensorType) -> NDArray[np.uint8]:
    stored = read_stored(old)
    if item.values is not None:
        new = _read(values, item.values).reshape(stored.matrix.shape)
    else:
        new = stored.matrix + factor_product(item, values)
    if kind == stored.type and np.array_equal(new, stored.matrix):
        return stored.raw  # quantizing what is quantized need not give the same
    importance = np.ones(old.shape[0], np.float32)
    if item.importance is not None:
        importance = _read(values, item.importance)
    return store(np.ascontiguousarray(new, np.float32), kind, importance).raw


def factor_product(item: Changed, values: Path) -> Float32:
    """scale * B A, (n_out, n_in)."""
    assert item.a is not None and item.b is not None
    product = _read(values, item.b) @ _read(values, item.a)
    result: Float32 = np.multiply(product, np.float32(item.scale), dtype=np.float32)
    return result


def _read(path: Path, place: Place) -> Float32:
    n = math.prod(place.shape)
    return np.fromfile(path, np.float32, n, offset=place.offset).reshape(place.shape)


def write_adapter(
    target: PendingFile, trained: Trained, pruned: Model, values: Path,
    metadata: Mapping[str, Value],
) -> None:  # fmt: skip
    """What was trained as a LoRA adapter for the model that training began with."""
    tensors: list[OutTensor] = []
    scale = trained.changed[0].scale
    rank = trained.changed[0].a.shape[0] if trained.changed[0].a is not None else 0
    for item in trained.changed:
        assert item.a is not None and item.b is not None
        for suffix, place in ((".lora_a", item.a), (".lora_b", item.b)):
            shape = place.shape[::-1]
            source = Tensor(
                name=item.tensor + suffix, type=FLOAT, shape=shape, path=values,
                offset=place.offset, size_bytes=FLOAT.size_bytes(shape),
            )  # fmt: skip
            tensors.append(OutTensor(source.name, FLOAT, shape, source))
    contents = Contents(
        {**adapter_metadata(pruned.arch, scale * rank), **metadata}, tuple(tensors), {}
    )
    write_proved(contents, [lay_out(NEW, contents)], [target])
