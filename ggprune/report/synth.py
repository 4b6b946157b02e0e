"""Synthetic models and the shapes they can have, as JSON and as text."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from ggprune.pipeline.synth import Blueprint, Shape, count_parameters, known_shapes, make_tensors
from ggprune.report.table import markdown_table
from ggprune.report.units import count, size


def shapes_document() -> dict[str, Any]:
    return {"shapes": [_shape_document(shape) for shape in known_shapes()]}


def render_shapes() -> str:
    rows = [
        (shape.name, shape.arch, str(shape.n_layer), f"{_n_param(shape):,}", shape.source)
        for shape in known_shapes()
    ]
    return markdown_table(("shape", "arch", "layers", "parameters", "source"), rows, (0, 1, 4))


def blueprint_document(blueprint: Blueprint, out: Path | None, *, written: bool) -> dict[str, Any]:
    return {
        "shape": _shape_document(blueprint.shape),
        "type": blueprint.type,
        "types": dict(Counter(tensor.type.name for tensor in blueprint.contents.tensors)),
        "seed": blueprint.seed,
        "out": {
            "path": str(out) if out is not None else None,
            "size_bytes": blueprint.size_bytes,
            "written": written,
        },
    }


def render_blueprint(blueprint: Blueprint, out: Path | None, *, written: bool) -> str:
    shape = blueprint.shape
    lines = [
        f"shape    {shape.name} ({shape.source}): {shape.arch}, {shape.n_layer} layers",
        f"params   {blueprint.n_param} ({count(blueprint.n_param)})",
        f"type     {blueprint.type}",
        f"size     {size(blueprint.size_bytes)}",
        f"bytes    {blueprint.size_bytes}",
    ]
    if out is not None:
        lines.append(f"{'written ' if written else 'would be'} {out}")
    return "\n".join(lines)


def _shape_document(shape: Shape) -> dict[str, Any]:
    return {
        "name": shape.name,
        "source": shape.source,
        "arch": shape.arch,
        "n_layer": shape.n_layer,
        "n_param": _n_param(shape),
    }


def _n_param(shape: Shape) -> int:
    return count_parameters(make_tensors(shape))
