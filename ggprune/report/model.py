"""A model described from its header alone: no llama.cpp, no tensor data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ggprune.arch.architecture import architecture_of, layer_traits
from ggprune.arch.experts import routing_of
from ggprune.arch.legal import AloneHalf, alone_half, shortest_runs, undivided_reason
from ggprune.errors import ArchitectureError
from ggprune.files.keys import INLINE, LEFT_OUT
from ggprune.model.gguf import Tensor
from ggprune.model.layers import format_layers
from ggprune.model.model import Model
from ggprune.model.names import Role, roles_of
from ggprune.model.unit import HALVES, SUFFIXES, Unit
from ggprune.report.blocks import Block, Text, table_of
from ggprune.report.units import count, size


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
    removable_with: Annotated[
        tuple[int, ...], "the shortest run of layers that can go, this one among them"
    ]
    tensors: Annotated[TensorGroup, INLINE]
    words: Annotated[str, LEFT_OUT]  # kind and traits


UNREAD = "not known: --fingerprint reads the whole file"


@dataclass(frozen=True, kw_only=True)
class WholeModel:
    """A model as a whole."""

    path: Path
    files: Annotated[tuple[Path, ...], "one, or the shards"]
    fingerprint: Annotated[str | None, "null where the tensors would have to be read for it"]
    name: str | None
    arch: str
    n_layer: int
    n_param: int
    size_bytes: int
    bits_per_weight: float
    types: Annotated[dict[str, int], "bytes of each type"]


@dataclass(frozen=True, kw_only=True)
class ExpertsDescription:
    """The experts of a MoE model."""

    n_expert: Annotated[int, "of every layer that has some"]
    n_used: Annotated[int, "that every token is sent to"]
    n_group: Annotated[int, "that a layer's experts are in; as many leave each"]
    layers: Annotated[tuple[int, ...], "that have experts"]


@dataclass(frozen=True)
class ModelDescription:
    """What `inspect` tells of a file."""

    model: WholeModel
    layers: tuple[LayerDescription, ...]
    refused: Annotated[str | None, "why no layer can go"]
    undivided: Annotated[str | None, "why no run of units can begin with an FFN"]
    alone: Annotated[tuple[AloneHalf, ...], "what of a layer can go without the rest of it"]
    experts: Annotated[ExpertsDescription | None, "null if it has none, or none can leave"]
    experts_refused: Annotated[str | None, "why none of them can leave"]
    outside: Annotated[TensorGroup, "tensors that are in no layer"]


def describe(model: Model) -> ModelDescription:
    try:
        runs, refused = tuple(run or () for run in shortest_runs(model)), None
    except ArchitectureError as e:
        runs, refused = ((),) * model.n_layer, str(e).removeprefix(f"{model.path}: ")
    undivided = refused if refused is not None else undivided_reason(model)
    alone = () if refused is not None else tuple(alone_half(model, half) for half in HALVES)
    experts, experts_refused = _experts(model, refused)
    traits = layer_traits(model)
    layers = tuple(
        LayerDescription(
            layer=i, traits=tuple(traits[i]), removable=run == (i,), removable_with=run,
            tensors=_group(tensors), words=_kind(tensors, traits[i]),
        )
        for i, (tensors, run) in enumerate(zip(model.layers, runs, strict=True))
    )  # fmt: skip
    type_bytes = Counter[str]()
    for tensor in model.tensors:
        type_bytes[tensor.type.name] += tensor.size_bytes
    whole = WholeModel(
        path=model.path, files=tuple(file.path for file in model.files),
        fingerprint=model.known_fingerprint, name=model.text("general.name"), arch=model.arch,
        n_layer=model.n_layer, n_param=model.n_param, size_bytes=model.size_bytes,
        bits_per_weight=model.bits_per_weight, types=dict(type_bytes.most_common()),
    )  # fmt: skip
    outside = [tensor for tensor in model.tensors if model.layer_of(tensor.name) is None]
    return ModelDescription(
        whole, layers, refused, undivided, alone, experts, experts_refused, _group(outside)
    )


def _experts(model: Model, refused: str | None) -> tuple[ExpertsDescription | None, str | None]:
    """Those of a model that has some, or why they stay."""
    if not any(Role.EXPERTS in roles_of(tensor.name) for tensor in model.tensors):
        return None, None
    if refused is not None:
        return None, refused
    try:
        found = routing_of(model, architecture_of(model).row)
    except ArchitectureError as e:
        return None, str(e)
    return ExpertsDescription(
        n_expert=found.n_expert, n_used=found.n_used, n_group=found.n_group, layers=found.layers
    ), None


def _group(tensors: Sequence[Tensor]) -> TensorGroup:
    return TensorGroup(
        kind=_kind(tensors), n_tensor=len(tensors), n_param=sum(t.n_element for t in tensors),
        size_bytes=sum(t.size_bytes for t in tensors),
        types=dict(Counter(t.type.name for t in tensors).most_common()),
    )  # fmt: skip


def _kind(tensors: Sequence[Tensor], traits: Sequence[str] = ()) -> str:
    """What a layer is made of, from its tensors, and what its place makes it: `attention + MoE`."""
    roles = [roles_of(tensor.name) for tensor in tensors]
    has_experts = any(Role.EXPERTS in role for role in roles)
    is_recurrent = "recurrent" in traits
    parts = {
        "recurrent": is_recurrent or any(Role.RECURRENT in role for role in roles),
        "attention": not is_recurrent and any(Role.ATTENTION | Role.WRITER in r for r in roles),
        "MoE": has_experts,
        "FFN": not has_experts and any(Role.FFN in role for role in roles),
    }
    made_of = " + ".join(part for part, is_there in parts.items() if is_there)
    made_of = made_of or ("other" if tensors else "not in the file")
    return ", ".join([made_of, *(trait for trait in traits if trait != "recurrent")])


def blocks(description: ModelDescription) -> tuple[Block, ...]:
    """The model, then a line per layer."""
    lines = [
        (str(layer.layer), layer.words, _removal_cell(layer), layer.tensors)
        for layer in description.layers
    ]
    if description.outside.n_tensor:
        lines.append(("-", "not in a layer", "", description.outside))
    table = table_of(
        lines,
        ("layer", lambda line: line[0]), ("kind", lambda line: line[1]),
        ("goes", lambda line: line[2]), ("tensors", lambda line: line[3].n_tensor),
        ("types", lambda line: ", ".join(f"{n} {name}" for name, n in line[3].types.items())),
        ("params", lambda line: count(line[3].n_param)),
        ("size", lambda line: size(line[3].size_bytes)), left=(1, 2, 4),
        spare=("tensors", "params", "types", "goes"),
    )  # fmt: skip
    return (Text(_facts(description)), table)


def _facts(description: ModelDescription) -> tuple[str, ...]:
    model = description.model
    total = max(sum(model.types.values()), 1)
    shares = ", ".join(f"{name} {100 * n / total:.1f} %" for name, n in model.types.items())
    more = f" (+ {len(model.files) - 1} more shards)" if len(model.files) > 1 else ""
    return (
        f"file          {model.path}{more}",
        f"name          {model.name or '-'}",
        f"architecture  {model.arch}",
        f"layers        {model.n_layer}",
        f"parameters    {count(model.n_param)}",
        f"size          {size(model.size_bytes)} ({model.bits_per_weight:.2f} bits per weight)",
        f"types         {shares or '-'}",
        f"removable     {description.refused or _removal_line(description.layers)}",
        *(() if description.refused else _unit_lines(description)),
        f"fingerprint   {model.fingerprint or UNREAD}",
    )


def _unit_lines(description: ModelDescription) -> Iterator[str]:
    """What can go besides whole layers."""
    if description.undivided is None:
        yield "runs          may also begin with an FFN and end with an attention (1f-2a)"
    else:
        yield f"runs          of whole layers only: {description.undivided}"
    yield from _alone_lines(description)
    experts = description.experts
    if experts is not None:
        groups = f" in {experts.n_group} groups" if experts.n_group > 1 else ""
        n_most = experts.n_expert - max(experts.n_used, 2)
        yield (
            f"experts       {experts.n_expert}{groups} in each of {len(experts.layers)} layers, "
            f"{experts.n_used} for every token; up to {n_most} of each can leave (--drop-experts)"
        )
    elif description.experts_refused is not None:
        yield f"experts       all stay: {description.experts_refused}"


def _alone_lines(description: ModelDescription) -> Iterator[str]:
    """What can go of a layer while the rest of it stays."""
    words = {Unit.ATTN: "attention    ", Unit.FFN: "FFN          "}
    for found in description.alone:
        letter = SUFFIXES[found.half]
        if found.stored_as is None:
            yield f"{words[found.half]} never goes alone: {found.refused}"
            continue
        stored = f", stored as {found.stored_as}" * (found.stored_as != description.model.arch)
        yield f"{words[found.half]} may go alone (1{letter}){stored}"


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
