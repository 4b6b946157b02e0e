"""What was written, or would be: pruned, quantized and synthetic models, a model's companions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ggprune.files.keys import INLINE, Key
from ggprune.model.cut import Cut
from ggprune.model.layers import format_layers
from ggprune.model.model import Model
from ggprune.model.newlayer import NewLayer
from ggprune.pipeline.files import CacheSizes, OutputFiles
from ggprune.pipeline.synth import Blueprint, Shape, count_parameters, known_shapes, make_tensors
from ggprune.report.blocks import Block, Text, table_of
from ggprune.report.units import count, size
from ggprune.surgery.plan import PrunePlan
from ggprune.surgery.remap import Remapped

Notes = Annotated[tuple[str, ...], "what a user must know about the result"]


@dataclass(frozen=True)
class SourceFile:
    """The model that another one was made of."""

    path: Path
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class PlanSummary:
    """The plan that was carried out."""

    fingerprint: str
    arch: str
    n_layer: int
    drop: Annotated[Cut, "layers, and halves of them"]
    keep: Annotated[tuple[NewLayer, ...], 'layers; "11a+12f" has the halves of two, "20f" one']


@dataclass(frozen=True, kw_only=True)
class ModelFiles:
    """The files of a model."""

    path: Annotated[Path | None, Key(optional=True), "the first, of a quantized model"] = None
    paths: Annotated[tuple[Path, ...], "one, or the shards"]
    arch: Annotated[str | None, Key(optional=True), "of a pruned model"] = None
    size_bytes: int
    written: Annotated[bool, "false with --dry-run"]


@dataclass(frozen=True)
class PrunedModel:
    """A model that layers have left."""

    source: SourceFile
    plan: PlanSummary
    out: ModelFiles
    notes: Notes
    cache: Annotated[
        CacheSizes | None, Key(optional=True),
        "what the KV cache takes, as llama.cpp allocates it; once written and verified",
    ] = None  # fmt: skip


@dataclass(frozen=True)
class QuantizedModel:
    """A model in another type."""

    source: SourceFile
    type: str
    out: ModelFiles
    notes: Notes


@dataclass(frozen=True)
class Companion:
    """What belongs to a model, carried over to the pruned one."""

    remapped: Annotated[Remapped, INLINE]
    out: Path


@dataclass(frozen=True, kw_only=True)
class ShapeDescription:
    """A well-known model's name and size."""

    name: str
    source: str
    arch: str
    n_layer: int
    n_param: int


@dataclass(frozen=True, kw_only=True)
class SynthModel:
    """A model with random weights: written, or only worked out."""

    shape: ShapeDescription
    type: str
    types: Annotated[dict[str, int], "tensors of each type"]
    seed: int
    path: Annotated[Path | None, Key(name="out.path")]
    size_bytes: Annotated[int, Key(name="out.size_bytes")]
    written: Annotated[bool, Key(name="out.written"), "false with --dry-run"]


def pruned_model(
    model: Model, plan: PrunePlan, files: OutputFiles, *, written: bool,
    cache: CacheSizes | None = None,
) -> PrunedModel:  # fmt: skip
    summary = PlanSummary(
        fingerprint=plan.fingerprint, arch=plan.arch, n_layer=plan.n_layer, drop=plan.cut,
        keep=plan.layers,
    )  # fmt: skip
    out = ModelFiles(
        paths=files.paths, arch=plan.out_arch, size_bytes=files.size_bytes, written=written
    )
    source = SourceFile(model.path, model.size_bytes)
    return PrunedModel(source, summary, out, (*plan.notes, *files.notes), cache)


def quantized_model(
    model: Model, type_name: str, files: OutputFiles, *, written: bool
) -> QuantizedModel:
    out = ModelFiles(
        path=files.paths[0], paths=files.paths, size_bytes=files.size_bytes, written=written
    )
    return QuantizedModel(SourceFile(model.path, model.size_bytes), type_name, out, files.notes)


def list_shapes() -> dict[str, list[ShapeDescription]]:
    """All that are known, as a document."""
    return {"shapes": [_describe(shape) for shape in known_shapes()]}


def synth_model(blueprint: Blueprint, out: Path | None, *, written: bool) -> SynthModel:
    types = Counter(tensor.type.name for tensor in blueprint.contents.tensors)
    return SynthModel(
        shape=_describe(blueprint.shape), type=blueprint.type, types=dict(types),
        seed=blueprint.seed, path=out, size_bytes=blueprint.size_bytes, written=written,
    )  # fmt: skip


def _describe(shape: Shape) -> ShapeDescription:
    return ShapeDescription(
        name=shape.name, source=shape.source, arch=shape.arch, n_layer=shape.n_layer,
        n_param=count_parameters(make_tensors(shape)),
    )  # fmt: skip


def blocks(result: PrunedModel | QuantizedModel | Companion | SynthModel) -> tuple[Text, ...]:
    """What it is, what a user must know about it, and where it is."""
    match result:
        case Companion(done, path):
            kept = f"{done.n_after} of {done.n_before} tensors belong to layers that stay"
            facts, notes, paths, written = [f"{done.kind}: {kept}"], done.notes, [path], True
        case SynthModel(path=place, written=written):
            facts, notes, paths = _synth_facts(result), (), [place] if place is not None else []
        case _:
            facts, notes = _facts(result), result.notes
            paths, written = list(result.out.paths), result.out.written
    lines = (*facts, *(f"note     {note}" for note in notes))
    return (Text((*lines, *(f"{'written ' if written else 'would be'} {p}" for p in paths))),)


def _facts(result: PrunedModel | QuantizedModel) -> list[str]:
    before, after = result.source.size_bytes, result.out.size_bytes
    sizes, n_byte = f"size     {size(before)} -> {size(after)}", f"bytes    {after}"
    if isinstance(result, QuantizedModel):
        return [f"type     {result.type}", sizes, n_byte]
    plan = result.plan
    return [
        f"drop     {plan.drop.brief if len(plan.drop) else '(nothing)'}",
        f"keep     {_kept(plan.keep)}  (renumbered to 0-{len(plan.keep) - 1})",
        f"layers   {plan.n_layer} -> {len(plan.keep)}",
        f"{sizes} ({_change(before, after)})",
        n_byte,
        *_cache_line(result.cache),
    ]


def _cache_line(cache: CacheSizes | None) -> list[str]:
    if cache is None or not cache.before_bytes:
        return []
    sizes = f"{size(cache.before_bytes)} -> {size(cache.after_bytes)}"
    return [f"KV cache {sizes} ({_change(cache.before_bytes, cache.after_bytes)}) for "
            f"{cache.n_ctx} tokens"]  # fmt: skip


def _change(before: int, after: int) -> str:
    return f"{100 * (after / before - 1):+.1f} %"


def _kept(layers: Sequence[NewLayer]) -> str:
    """Whole layers in the shortest notation, then those that have halves of two, or one."""
    whole = format_layers(layer.first for layer in layers if layer.is_whole)
    made = [str(layer) for layer in layers if not layer.is_whole]
    return ",".join([*([whole] if whole else []), *made])


def _synth_facts(model: SynthModel) -> list[str]:
    shape, n_byte = model.shape, model.size_bytes
    return [
        f"shape    {shape.name} ({shape.source}): {shape.arch}, {shape.n_layer} layers",
        f"params   {shape.n_param} ({count(shape.n_param)})",
        f"type     {model.type}",
        f"size     {size(n_byte)}",
        f"bytes    {n_byte}",
    ]


def shape_blocks(shapes: Mapping[str, Iterable[ShapeDescription]]) -> tuple[Block, ...]:
    return (table_of(
        shapes["shapes"],
        ("shape", lambda shape: shape.name), ("arch", lambda shape: shape.arch),
        ("layers", lambda shape: shape.n_layer),
        ("parameters", lambda shape: f"{shape.n_param:,}"),
        ("source", lambda shape: shape.source), left=(0, 1, 4),
        spare=("source", "arch", "layers"),
    ),)  # fmt: skip
