"""The decision which layers leave a model: made once, kept as JSON, carried out by `rewrite`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ggprune.arch import nearest_legal, removal_metadata
from ggprune.arch.rules import Illegal
from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.model import Model
from ggprune.surgery.selection import format_layers

PLAN_FORMAT = 1


@dataclass(frozen=True)
class PrunePlan:
    """Which layers of which model to drop. Numbers are 0-based layers of the original model."""

    fingerprint: str
    arch: str
    n_layer: int
    drop: tuple[int, ...]

    @property
    def keep(self) -> tuple[int, ...]:
        """The layers that stay; the i-th becomes layer i."""
        return tuple(n for n in range(self.n_layer) if n not in self.drop)

    def to_json(self) -> str:
        return json.dumps({"ggprune_plan": PLAN_FORMAT, **asdict(self)}, indent=2) + "\n"


def make_plan(model: Model, drop: Iterable[int]) -> PrunePlan:
    """A plan that can be carried out exactly.

    Raises UsageError for impossible layers, ArchitectureError when the result would not be exact.
    """
    layers = tuple(sorted(drop))
    n_layer = len(model.layers)
    if len(set(layers)) != len(layers) or any(not 0 <= n < n_layer for n in layers):
        raise UsageError(f"{list(layers)} are not distinct layers of 0 to {n_layer - 1}")
    if len(layers) == n_layer:
        raise UsageError(f"all {n_layer} layers would be dropped: at least one must stay")
    plan = PrunePlan(model.fingerprint, model.arch, n_layer, layers)
    if layers:
        _check_legal(model, plan)
    return plan


def _check_legal(model: Model, plan: PrunePlan) -> None:
    try:
        removal_metadata(model, plan.keep)
    except Illegal as e:
        near = [format_layers(drop) for drop in nearest_legal(model, plan.drop)]
        hint = f"; possible nearby: {' or '.join(near)}" if near else ""
        raise ArchitectureError(f"{e}{hint}") from e


def load_plan(path: Path, model: Model) -> PrunePlan:
    """Read a plan and check that it was made for this model.

    Raises DataError if it is not a plan, or one for another model.
    """
    try:
        data = json.loads(path.read_text("utf-8"))
        form, fingerprint, drop = data["ggprune_plan"], data["fingerprint"], data["drop"]
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, TypeError, KeyError, RecursionError) as e:
        raise DataError(f"{path}: not a ggprune plan") from e
    if form != PLAN_FORMAT:
        raise DataError(f"{path}: plan format {form} is not known to this version")
    if fingerprint != model.fingerprint:
        raise DataError(f"{path}: made for another model than {model.path}")
    if not isinstance(drop, list) or not all(type(n) is int for n in drop):
        raise DataError(f"{path}: 'drop' is not a list of layer numbers")
    return make_plan(model, drop)
