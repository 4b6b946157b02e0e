"""What was written, or would be: a pruned model, a quantized one, a model's companion."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from ggprune.files.keys import INLINE, Key
from ggprune.model import Model
from ggprune.model.layers import format_layers
from ggprune.pipeline import OutputFiles
from ggprune.report.blocks import Block, Text
from ggprune.report.units import size
from ggprune.surgery import PrunePlan
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
    drop: tuple[int, ...]
    keep: tuple[int, ...]


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


def pruned_model(
    model: Model, plan: PrunePlan, files: OutputFiles, *, written: bool
) -> PrunedModel:
    summary = PlanSummary(
        fingerprint=plan.fingerprint,
        arch=plan.arch,
        n_layer=plan.n_layer,
        drop=plan.drop,
        keep=plan.keep,
    )
    out = ModelFiles(
        paths=files.paths, arch=plan.out_arch, size_bytes=files.size_bytes, written=written
    )
    source = SourceFile(model.path, model.size_bytes)
    return PrunedModel(source, summary, out, (*plan.notes, *files.notes))


def quantized_model(
    model: Model, type_name: str, files: OutputFiles, *, written: bool
) -> QuantizedModel:
    out = ModelFiles(
        path=files.paths[0], paths=files.paths, size_bytes=files.size_bytes, written=written
    )
    return QuantizedModel(SourceFile(model.path, model.size_bytes), type_name, out, files.notes)


def blocks(result: PrunedModel | QuantizedModel | Companion) -> tuple[Block, ...]:
    match result:
        case PrunedModel():
            lines = _pruned(result)
        case QuantizedModel():
            lines = _quantized(result)
        case Companion():
            lines = _companion(result)
    return (Text(lines),)


def _pruned(pruned: PrunedModel) -> tuple[str, ...]:
    plan, out, before = pruned.plan, pruned.out, pruned.source.size_bytes
    change = 100 * (out.size_bytes / before - 1)
    lines = (
        f"drop     {format_layers(plan.drop) or '(nothing)'}",
        f"keep     {format_layers(plan.keep)}  (renumbered to 0-{len(plan.keep) - 1})",
        f"layers   {plan.n_layer} -> {len(plan.keep)}",
        f"size     {size(before)} -> {size(out.size_bytes)} ({change:+.1f} %)",
        f"bytes    {out.size_bytes}",
    )
    return (*lines, *_noted(pruned.notes), *_named(out))


def _quantized(quantized: QuantizedModel) -> tuple[str, ...]:
    out = quantized.out
    lines = (
        f"type     {quantized.type}",
        f"size     {size(quantized.source.size_bytes)} -> {size(out.size_bytes)}",
        f"bytes    {out.size_bytes}",
    )
    return (*lines, *_noted(quantized.notes), *_named(out))


def _companion(companion: Companion) -> tuple[str, ...]:
    done = companion.remapped
    kept = f"{done.n_after} of {done.n_before} tensors belong to layers that stay"
    return (f"{done.kind}: {kept}", *_noted(done.notes), f"written  {companion.out}")


def _noted(notes: Iterable[str]) -> tuple[str, ...]:
    return tuple(f"note     {note}" for note in notes)


def _named(out: ModelFiles) -> tuple[str, ...]:
    return tuple(f"{'written ' if out.written else 'would be'} {path}" for path in out.paths)
