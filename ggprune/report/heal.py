"""What healing did, or would do: matrix by matrix, and what was gained on text it did not see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated

from ggprune.files.keys import INLINE, Key
from ggprune.healing.result import GOOD_ROWS_PER_INPUT, Healing, Left
from ggprune.pipeline.adapter import AdapterFile
from ggprune.report.blocks import Block, Table, Text, table_of
from ggprune.report.units import estimate, number, size
from ggprune.report.written import PrunedModel
from ggprune.report.written import blocks as written_blocks


@dataclass(frozen=True)
class HealedModel:
    """A pruned model that was repaired."""

    model: Annotated[PrunedModel, INLINE]
    healing: Annotated[Healing, "what was done, and what it gained"]
    lora: Annotated[AdapterFile | None, Key(optional=True), "with --lora"] = None


@dataclass(frozen=True, kw_only=True)
class HealPlan:
    """What is fitted of one model, and what it takes; --dry-run."""

    model: Annotated[PrunedModel, INLINE]
    layers: Annotated[tuple[PlannedLayer, ...], "from the one in front of the first cut on"]
    n_fitted: Annotated[int, "tokens of the text that matrices are fitted to"]
    widest: Annotated[int, "inputs of the widest matrix"]
    memory_bytes: Annotated[int, "needed above the models"]
    disk_bytes: Annotated[int, "needed beside the output meanwhile"]


@dataclass(frozen=True)
class PlannedLayer:
    """One layer of the original."""

    layer: int
    refit: Annotated[tuple[str, ...], "matrices that are fitted"]
    left: Annotated[tuple[Left, ...], "matrices that are not, and why"]


def blocks(result: HealedModel | HealPlan) -> tuple[Block, ...]:
    """The file, the matrices, what came of it."""
    if isinstance(result, HealPlan):
        return (*written_blocks(result.model), _planned(result), Text(tuple(_needs(result))))
    adapter = tuple(_adapter(result))
    return (
        *healing_blocks(result.healing), *written_blocks(result.model),
        *((Text(adapter),) if adapter else ()),
    )  # fmt: skip


def healing_blocks(healing: Healing) -> tuple[Block, ...]:
    """The matrices, what was left alone, what was gained."""
    return (_matrices(healing), Text((*_gain(healing), *_left(healing.left), *_took(healing))))


def _matrices(healing: Healing) -> Table:
    return table_of(
        healing.refitted,
        ("layer", lambda item: item.layer), ("matrix", lambda item: short(item.tensor)),
        ("type", lambda item: item.type), ("ridge", lambda item: f"{item.ridge:g}"),
        ("error before", lambda item: number(item.error_before)),
        ("after", lambda item: number(item.error)), left=(1, 2),
        spare=("type", "ridge", "error before"),
    )  # fmt: skip


def short(tensor: str) -> str:
    """`blk.3.ffn_down.weight` -> `ffn_down`."""
    return tensor.split(".", 2)[-1].removesuffix(".weight")


def _gain(healing: Healing) -> Iterator[str]:
    before, after, base = healing.before, healing.after, healing.base_ppl
    ratio = after.kld.value / before.kld.value if before.kld.value > 0 else 1.0
    yield f"KLD      {estimate(before.kld)} -> {estimate(after.kld)}  ({ratio:.2f}x)"
    yield (
        f"PPL      {estimate(before.ppl)} -> {estimate(after.ppl)}  "
        f"(the original's: {estimate(base)})"
    )


def _adapter(result: HealedModel) -> Iterator[str]:
    """What is lost against the merged model, and that it is slower."""
    adapter, file = result.healing.adapter, result.lora
    if adapter is None or file is None:
        return
    yield (
        f"adapter  KLD {estimate(adapter.kld)} (merged {number(result.healing.after.kld.value)}), "
        f"rank {adapter.rank}, {size(file.size_bytes)}: {file.path}"
    )
    yield (
        "note     the adapter is for the pruned model that is not healed, as ggprune prune writes "
        "it; it costs decode speed (one report: 330 -> 193 t/s), the healed model does not"
    )
    if not adapter.kld.value < result.healing.before.kld.value:
        yield "note     with the adapter the model is no better than without: a higher --rank"


def _left(left: Iterable[Left]) -> Iterator[str]:
    """Reasons, with the numbers of matrices; those with figures in them are one reason."""
    for reason, n in Counter(item.reason.split(":")[0] for item in left).items():
        yield f"left     {n} matri{'x' if n == 1 else 'ces'}: {reason}"


def _took(healing: Healing) -> Iterator[str]:
    what = f"{len(healing.refitted)} matrices" if len(healing.refitted) != 1 else "1 matrix"
    yield (
        f"heal     {what} fitted to {healing.n_fitted} tokens of {healing.text.source} in "
        f"{healing.time_s:.0f} s"
    )
    disk = f", {size(healing.stored_bytes)} on the disk" if healing.stored_bytes else ""
    yield f"peak     {size(healing.peak_bytes)} of memory{disk}"


def _planned(plan: HealPlan) -> Table:
    rows: list[tuple[PlannedLayer, str, str]] = []
    for layer in plan.layers:
        rows += [(layer, short(name), "is fitted") for name in layer.refit]
        rows += [(layer, short(item.tensor), f"stays: {item.reason}") for item in layer.left]
    return table_of(
        rows, ("layer", lambda row: row[0].layer), ("matrix", lambda row: row[1]),
        ("", lambda row: row[2]), left=(1, 2),
    )  # fmt: skip


def _needs(plan: HealPlan) -> Iterator[str]:
    yield f"text     {plan.n_fitted} tokens to fit matrices of up to {plan.widest} inputs"
    if plan.n_fitted < GOOD_ROWS_PER_INPUT * plan.widest:
        yield (
            f"note     {GOOD_ROWS_PER_INPUT * plan.widest} tokens would be better: more text, -f "
            "or --self-text"
        )
    yield f"memory   {size(plan.memory_bytes)} above the models"
    if plan.disk_bytes:
        yield f"disk     {size(plan.disk_bytes)} beside the output until it is done"


def planned_layers(
    sites: Sequence[tuple[int, str]], left: Sequence[Left]
) -> tuple[PlannedLayer, ...]:
    """By layer."""
    numbers = sorted({layer for layer, _ in sites} | {item.layer for item in left})
    return tuple(
        PlannedLayer(
            n,
            tuple(name for layer, name in sites if layer == n),
            tuple(item for item in left if item.layer == n),
        )
        for n in numbers
    )
