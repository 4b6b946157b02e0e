"""Routed experts in the walk: what their fit is made of, and whether it is kept."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from ggprune.healing.experts import ExpertRows, fit_experts
from ggprune.healing.kept import BASE
from ggprune.healing.leastsquares import relative_weights
from ggprune.healing.matrix import read_stored
from ggprune.healing.result import Left, Refitted, is_aside
from ggprune.healing.sites import ExpertSite
from ggprune.metrics.estimates import Float32
from ggprune.model.model import Model
from ggprune.model.names import Role, block_of, roles_of
from ggprune.model.types import tensor_type
from ggprune.runtime.nodes import exchange_weights

if TYPE_CHECKING:
    from ggprune.healing.walk import Stage, Walk

PARTS = ("inputs", "gates", "experts", "residual")


def thinned_layers(base: Model, fitted: Model) -> frozenset[int]:
    """Layers of the original whose FFN has fewer experts in the model that is fitted."""
    one, other = (m.fields.integer(f"{m.arch}.expert_count", 0) for m in (base, fitted))
    if one == other:
        return frozenset()
    blocks = (block_of(t.name) for t in base.tensors if Role.EXPERTS in roles_of(t.name))
    return frozenset(block[1] for block in blocks if block is not None)


def fit_routed(
    walk: Walk, stage: Stage, site: ExpertSite, last: int, state: dict[int, str]
) -> Refitted | Left:
    """Fit the experts of a layer; `last` is the stream behind it, `state` what is known before."""
    tensor, name = walk.model.by_name[site.tensor], walk.original_name(stage, site.tensor)
    before = _keep_rows(walk, stage, site, last, state)
    old, n_expert = read_stored(tensor), tensor.shape[2]
    kind = tensor_type(walk.options.tensor_type) if walk.options.tensor_type else old.type

    def read(aside: bool) -> Iterator[ExpertRows]:
        for i in _numbers(walk, aside):
            parts = {part: walk.kept.get(_label(site, part), i) for part in PARTS}
            yield ExpertRows(**parts, target=walk.kept.get(BASE, i))

    new, ridges = fit_experts(old, n_expert, kind, walk.options.ridge, read)
    for part in PARTS:
        walk.drop(_label(site, part))
    if not ridges:
        return Left(stage.layer, name, "too few tokens were sent to each expert")
    exchange_weights(site.pointer, new.raw, kind)
    after = _error(walk, stage, last, state)
    if not after < before:
        exchange_weights(site.pointer, old.raw, old.type)
        reason = f"no better on chunks set aside: error {before:.3g} -> {after:.3g}"
        return Left(stage.layer, name, reason)
    return Refitted(
        layer=stage.layer, tensor=name, type=kind.name, shape=tensor.shape,
        offset=walk.patch.add(new.raw), ridge=float(np.exp(np.mean(np.log(ridges)))),
        error_before=before, error=after,
    )  # fmt: skip


def _keep_rows(
    walk: Walk, stage: Stage, site: ExpertSite, last: int, state: dict[int, str]
) -> float:
    """Compute and keep what the fit reads; returns the error on chunks set aside."""
    errors = []
    for i, chunk in enumerate(walk.chunks):
        wanted = [site.input, site.gates, site.experts, last]
        *rows, stream = walk.computed(stage, state, wanted, i)
        residual = walk.kept.get(BASE, i) - stream
        missing = residual / np.float32(site.factor)
        for part, values in zip(PARTS, [*rows, missing], strict=True):
            walk.kept.put(_label(site, part), i, values)
        if is_aside(chunk.number):
            errors.append(_relative(residual, walk.kept.get(BASE, i)))
    return float(np.mean(errors))


def _error(walk: Walk, stage: Stage, last: int, state: dict[int, str]) -> float:
    """Of the stream that llama.cpp computes now, on chunks set aside."""
    errors = []
    for i in _numbers(walk, True):
        (stream,) = walk.computed(stage, state, [last], i)
        target = walk.kept.get(BASE, i)
        errors.append(_relative(target - stream, target))
    return float(np.mean(errors))


def _relative(residual: Float32, target: Float32) -> float:
    squares = np.square(residual).mean(axis=1, dtype=np.float64)
    return float(np.mean(squares * relative_weights(target)))


def _numbers(walk: Walk, aside: bool) -> list[int]:
    return [i for i, c in enumerate(walk.chunks) if is_aside(c.number) == aside]


def _label(site: ExpertSite, part: str) -> str:
    return f"{site.tensor}:{part}"
