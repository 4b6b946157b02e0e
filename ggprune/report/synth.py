"""Synthetic models, and the shapes they can have."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ggprune.pipeline.synth import Blueprint, Shape, count_parameters, known_shapes, make_tensors
from ggprune.report.blocks import Block, Table, Text
from ggprune.report.units import count, size


@dataclass(frozen=True, kw_only=True)
class ShapeDescription:
    """A well-known model's name and size."""

    name: str
    source: str
    arch: str
    n_layer: int
    n_param: int


@dataclass(frozen=True)
class ShapeList:
    """All shapes that are known."""

    shapes: tuple[ShapeDescription, ...]


@dataclass(frozen=True)
class SynthFile:
    """Where a synthetic model is, or would be."""

    path: Path | None
    size_bytes: int
    written: Annotated[bool, "false with --dry-run"]


@dataclass(frozen=True, kw_only=True)
class SynthModel:
    """A model with random weights: written, or only worked out."""

    shape: ShapeDescription
    type: str
    types: Annotated[dict[str, int], "tensors of each type"]
    seed: int
    out: SynthFile


def list_shapes() -> ShapeList:
    return ShapeList(tuple(_describe(shape) for shape in known_shapes()))


def describe(blueprint: Blueprint, out: Path | None, *, written: bool) -> SynthModel:
    return SynthModel(
        shape=_describe(blueprint.shape),
        type=blueprint.type,
        types=dict(Counter(tensor.type.name for tensor in blueprint.contents.tensors)),
        seed=blueprint.seed,
        out=SynthFile(out, blueprint.size_bytes, written),
    )


def _describe(shape: Shape) -> ShapeDescription:
    return ShapeDescription(
        name=shape.name,
        source=shape.source,
        arch=shape.arch,
        n_layer=shape.n_layer,
        n_param=count_parameters(make_tensors(shape)),
    )


def blocks(result: ShapeList | SynthModel) -> tuple[Block, ...]:
    return (_table(result) if isinstance(result, ShapeList) else _facts(result),)


def _table(shapes: ShapeList) -> Table:
    rows = tuple(
        (shape.name, shape.arch, str(shape.n_layer), f"{shape.n_param:,}", shape.source)
        for shape in shapes.shapes
    )
    return Table(("shape", "arch", "layers", "parameters", "source"), rows, left=(0, 1, 4))


def _facts(model: SynthModel) -> Text:
    shape, out = model.shape, model.out
    lines = (
        f"shape    {shape.name} ({shape.source}): {shape.arch}, {shape.n_layer} layers",
        f"params   {shape.n_param} ({count(shape.n_param)})",
        f"type     {model.type}",
        f"size     {size(out.size_bytes)}",
        f"bytes    {out.size_bytes}",
    )
    place = f"{'written ' if out.written else 'would be'} {out.path}"
    return Text(lines if out.path is None else (*lines, place))
