"""A model described from its header alone: no llama.cpp, no tensor data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ggprune.arch import layer_traits, shortest_runs
from ggprune.errors import ArchitectureError
from ggprune.files.keys import INLINE, LEFT_OUT
from ggprune.model import Model, Tensor
from ggprune.model.layers import format_layers
from ggprune.model.names import Role, roles_of
from ggprune.report.blocks import Block, Table, Text
from ggprune.report.units import count, size

Run = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class TensorGroup:
    """Tensors that stand together."""

    kind: Annotated[str, 'from the tensors: "attention + FFN"']
    n_tensor: int
    n_param: int
    size_bytes: int
    types: Annotated[dict[str, int], "tensors of each type"]


@dataclass(frozen=True, kw_only=True)
class LayerDescription:
    """A layer: what it is made of, what its place makes it, what it can go with."""

    layer: int
    traits: Annotated[tuple[str, ...], "what the layer's place makes it"]
    removable: Annotated[bool, "alone"]
    removable_with: Annotated[Run, "the shortest run of layers that can go, this one among them"]
    tensors: Annotated[TensorGroup, INLINE]
    words: Annotated[str, LEFT_OUT]  # kind and traits


@dataclass(frozen=True, kw_only=True)
class WholeModel:
    """A model as a whole."""

    path: Path
    files: Annotated[tuple[Path, ...], "one, or the shards"]
    fingerprint: str
    name: str | None
    arch: str
    n_layer: int
    n_param: int
    size_bytes: int
    bits_per_weight: float
    types: Annotated[dict[str, int], "bytes of each type"]


@dataclass(frozen=True)
class ModelDescription:
    """What `inspect` tells of a file."""

    model: WholeModel
    layers: tuple[LayerDescription, ...]
    refused: Annotated[str | None, "why no layer can go"]
    outside: Annotated[TensorGroup, "tensors that are in no layer"]


def describe(model: Model) -> ModelDescription:
    runs, reason = _removable_layers(model)
    traits = layer_traits(model)
    layers = tuple(
        LayerDescription(
            layer=i,
            traits=tuple(traits[i]),
            removable=run == (i,),
            removable_with=run,
            tensors=_group(tensors),
            words=_kind(tensors, traits[i]),
        )
        for i, (tensors, run) in enumerate(zip(model.layers, runs, strict=True))
    )
    outside = [tensor for tensor in model.tensors if model.layer_of(tensor.name) is None]
    return ModelDescription(_whole(model), layers, reason, _group(outside))


def _whole(model: Model) -> WholeModel:
    type_bytes = Counter[str]()
    for tensor in model.tensors:
        type_bytes[tensor.type.name] += tensor.size_bytes
    return WholeModel(
        path=model.path,
        files=tuple(file.path for file in model.files),
        fingerprint=model.fingerprint,
        name=model.text("general.name"),
        arch=model.arch,
        n_layer=model.n_layer,
        n_param=model.n_param,
        size_bytes=model.size_bytes,
        bits_per_weight=model.bits_per_weight,
        types=dict(type_bytes.most_common()),
    )


def _removable_layers(model: Model) -> tuple[tuple[Run, ...], str | None]:
    """For every layer the shortest run that can go with it, and why none can if that is so."""
    try:
        return tuple(run or () for run in shortest_runs(model)), None
    except ArchitectureError as e:
        return ((),) * model.n_layer, str(e).removeprefix(f"{model.path}: ")


def _group(tensors: Sequence[Tensor]) -> TensorGroup:
    return TensorGroup(
        kind=_kind(tensors),
        n_tensor=len(tensors),
        n_param=sum(t.n_element for t in tensors),
        size_bytes=sum(t.size_bytes for t in tensors),
        types=dict(Counter(t.type.name for t in tensors).most_common()),
    )


def _kind(tensors: Sequence[Tensor], traits: Sequence[str] = ()) -> str:
    """What a layer is made of, from its tensors, and what its place makes it: `attention + MoE`."""
    roles = [roles_of(tensor.name) for tensor in tensors]
    is_recurrent = "recurrent" in traits
    parts = []
    if is_recurrent or any(Role.RECURRENT in role for role in roles):
        parts.append("recurrent")
    if not is_recurrent and any(Role.ATTENTION | Role.WRITER in role for role in roles):
        parts.append("attention")
    if any(Role.EXPERTS in role for role in roles):
        parts.append("MoE")
    elif any(Role.FFN in role for role in roles):
        parts.append("FFN")
    more = [trait for trait in traits if trait != "recurrent"]
    return ", ".join([" + ".join(parts) or "other", *more])


def blocks(description: ModelDescription) -> tuple[Block, ...]:
    """The model, then a line per layer."""
    rows = [
        _row(str(layer.layer), layer.words, _removal_cell(layer), layer.tensors)
        for layer in description.layers
    ]
    if description.outside.n_tensor:
        rows.append(_row("-", "not in a layer", "", description.outside))
    headers = ("layer", "kind", "goes", "tensors", "types", "params", "size")
    return (Text(tuple(_facts(description))), Table(headers, tuple(rows), left=(1, 2, 4)))


def _facts(description: ModelDescription) -> Iterator[str]:
    model = description.model
    total = max(sum(model.types.values()), 1)
    shares = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in model.types.items())
    more = f" (+ {len(model.files) - 1} more shards)" if len(model.files) > 1 else ""
    yield f"file          {model.path}{more}"
    yield f"name          {model.name or '-'}"
    yield f"architecture  {model.arch}"
    yield f"layers        {model.n_layer}"
    yield f"parameters    {count(model.n_param)}"
    yield f"size          {size(model.size_bytes)} ({model.bits_per_weight:.2f} bits per weight)"
    yield f"types         {shares or '-'}"
    yield f"removable     {description.refused or _removal_line(description.layers)}"
    yield f"fingerprint   {model.fingerprint}"


def _removal_line(layers: Sequence[LayerDescription]) -> str:
    alone = [layer.layer for layer in layers if layer.removable]
    together = [layer.layer for layer in layers if len(layer.removable_with) > 1]
    never = [layer.layer for layer in layers if not layer.removable_with]
    if len(alone) == len(layers):
        return "every layer alone"
    groups = (("alone", alone), ("only with others", together), ("never", never))
    return "; ".join(f"{what}: {format_layers(numbers)}" for what, numbers in groups if numbers)


def _removal_cell(layer: LayerDescription) -> str:
    if not layer.removable_with:
        return "never"
    others = [n for n in layer.removable_with if n != layer.layer]
    return f"with {format_layers(others)}" if others else "alone"


def _row(label: str, kind: str, goes: str, group: TensorGroup) -> tuple[str, ...]:
    types = ", ".join(f"{n} {name}" for name, n in group.types.items())
    n_tensor, n_param, n_byte = str(group.n_tensor), count(group.n_param), size(group.size_bytes)
    return (label, kind, goes, n_tensor, types, n_param, n_byte)
