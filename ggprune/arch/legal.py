"""Runs an architecture's rules on sets of layers: what changes, which sets are possible.

Knows no rule by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import combinations, islice
from operator import or_
from typing import Annotated

from ggprune.arch.alone import alone_change
from ggprune.arch.architecture import architecture_of
from ggprune.arch.change import Change
from ggprune.arch.experts import Experts, experts_change
from ggprune.arch.halves import check_halves, shifted_change
from ggprune.arch.hparams import Illegal, Removal, n_trunk
from ggprune.arch.rules import Generic
from ggprune.arch.table import ArchitectureRow
from ggprune.errors import ArchitectureError
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.model.newlayer import NewLayer
from ggprune.model.unit import Unit


def removal_change(
    model: Model, layers: Sequence[NewLayer], *, experts: Experts | None = None,
    trust: bool = False, rehost: bool = True,
) -> Change:  # fmt: skip
    """Everything that changes when only these layers remain, made of the model's own.

    `experts` leave the FFNs that stay. Without `rehost` the result is not stored as another
    architecture to have layers with one half alone. Raises Illegal (an ArchitectureError) with the
    reasons if the result would not be exact, FormatError if a per-layer array does not have one
    entry per layer.
    """
    row = architecture_of(model, trust=trust).row
    try:
        return _change(model, row, layers, experts or {}, trust, rehost)
    except Illegal as e:
        raise Illegal(
            f"{model.path}: not exact for {model.arch}: {e} (llama.cpp {row.source})"
        ) from e


def _change(
    model: Model, row: ArchitectureRow, layers: Sequence[NewLayer], experts: Experts, trust: bool,
    rehost: bool,
) -> Change:  # fmt: skip
    change = _change_by(row, *_halves(model, layers, trust))
    if any(layer.missing or layer.linear for layer in layers):
        change |= alone_change(model, row, layers, change, rehost=rehost)
    if experts:
        ffn = [layer.ffn for layer in layers if layer.ffn is not None]
        change |= _experts(model, row, change, experts, ffn)
    return change


def _experts(
    model: Model, row: ArchitectureRow, change: Change, gone: Experts, ffn: Sequence[int]
) -> Change:
    """What changes as well when experts leave."""
    more = experts_change(model, row, gone, ffn)
    twice = next((name for name in more.edits if name in change.edits), None)
    if twice is not None:
        raise Illegal(f"{twice} would be both rescaled and divided")
    return more


def _halves(
    model: Model, layers: Sequence[NewLayer], trust: bool
) -> tuple[Removal, Removal | None]:
    """The layers whose attention stays, and those whose FFN stays where that must be asked apart.

    Of a layer that keeps one half, the other is taken to stay as well.
    """
    attn, ffn = tuple(layer.first for layer in layers), tuple(layer.last for layer in layers)
    apart = attn != ffn or any(layer.missing or layer.linear for layer in layers)
    return Removal(model, attn, trust), Removal(model, ffn, trust) if apart else None


def _change_by(row: ArchitectureRow, attn: Removal, ffn: Removal | None) -> Change:
    """What all rules change together. Raises Illegal with the reasons of all that object."""
    answers = list(_answers(row, attn, ffn))
    reasons = [str(answer) for answer in answers if isinstance(answer, Illegal)]
    if reasons:
        raise Illegal("; ".join(reasons))
    return reduce(or_, (answer for answer in answers if isinstance(answer, Change)))


def _answers(
    row: ArchitectureRow, attn: Removal, ffn: Removal | None
) -> Iterator[Change | Illegal]:
    """What each rule changes, or why it objects. `ffn` is None where whole layers stay."""
    if not attn.trunk:
        yield Illegal("at least one layer that is not an MTP block must stay")
        return
    try:
        if ffn is not None:
            check_halves(attn, ffn, row)
    except Illegal as e:
        yield e
        return
    for rule in (Generic(experts_by_layer=row.experts_by_layer), *row.rules):
        try:
            yield rule.change(attn) if ffn is None else shifted_change(rule, attn, ffn, row)
        except Illegal as e:
            yield e


def undivided_reason(model: Model) -> str | None:
    """Why runs of units cannot begin with an FFN; None if they can.

    Raises ArchitectureError if no layer can ever be removed.
    """
    row, every = architecture_of(model).row, tuple(range(model.n_layer))
    try:
        check_halves(Removal(model, every), Removal(model, every), row)
    except Illegal as e:
        return str(e)
    return None


@dataclass(frozen=True)
class AloneHalf:
    """Can layers do without that half alone?"""

    half: Unit
    stored_as: Annotated[str | None, "the architecture of the result; null if none of them can"]
    refused: Annotated[str | None, "why none of them can"]


def alone_half(model: Model, unit: Unit) -> AloneHalf:
    """By one of the layers behind the very first; the first few of them are tried.

    Raises ArchitectureError if no layer can ever be removed.
    """
    reason = "it has one layer"
    for layer in range(1, min(n_trunk(model), 1 + MAX_ALONE)):
        left = Cut.of((layer,), unit).remaining(model.n_layer)
        try:
            change = removal_change(model, left)
        except Illegal as e:
            reason = str(e).split(f" not exact for {model.arch}: ", 1)[-1].rpartition(" (")[0]
            continue
        return AloneHalf(unit, change.arch or model.arch, None)
    return AloneHalf(unit, None, reason)


MAX_ALONE = 8  # layers that are tried

WORDS = {Unit.LAYER: "layers", Unit.ATTN: "attentions", Unit.FFN: "FFNs"}


def no_set(model: Model, n: int, unit: Unit = Unit.LAYER) -> ArchitectureError:
    """What to say where no set of `n` layers, or of that half of them, can be removed."""
    return ArchitectureError(
        f"{model.path}: no set of {n} {WORDS[unit]} of {model.arch} can be removed exactly; "
        "ggprune inspect shows which layers can"
    )


MAX_TRIES = 20_000
MAX_NEAR = 5000  # of the sets around one that is not possible: seconds at the largest depth
MAX_RUN = 16  # longer than any period so far


def legal_drop(model: Model, drop: Sequence[int], *, trust: bool = False) -> bool:
    """Can these layers be removed together? Raises ArchitectureError if none can ever be."""
    return legal_cut(model, Cut.of(drop), trust=trust)


def legal_cut(model: Model, cut: Cut, *, trust: bool = False) -> bool:
    """Can these units be removed together? Raises ArchitectureError if no layer can ever be."""
    row, layers = architecture_of(model, trust=trust).row, cut.remaining(model.n_layer)
    if not layers:
        return False
    try:
        _change(model, row, layers, cut.tidy.experts, trust, rehost=True)
    except Illegal:
        return False
    return True


def shortest_runs(model: Model, *, trust: bool = False) -> tuple[tuple[int, ...] | None, ...]:
    """For every layer the shortest run with it that can be removed: itself, where it can go alone.

    None where no run of up to MAX_RUN layers can go.
    """
    shortest: list[tuple[int, ...] | None] = [None] * model.n_layer
    for length in range(1, min(MAX_RUN, model.n_layer - 1) + 1):
        if all(run is not None for run in shortest):
            break
        for start in range(model.n_layer - length + 1):
            run = tuple(range(start, start + length))
            without_run = [n for n in run if shortest[n] is None]
            if without_run and legal_drop(model, run, trust=trust):
                for n in without_run:
                    shortest[n] = run
    return tuple(shortest)


def nearest_legal(
    model: Model, drop: Sequence[int], n: int = 3, *, trust: bool = False
) -> tuple[tuple[int, ...], ...]:
    """Up to `n` legal sets close to `drop`: of its size if possible, else runs a little longer."""
    target = tuple(sorted(set(drop)))

    def distance(candidate: tuple[int, ...]) -> tuple[int, int]:
        differ = set(target) ^ set(candidate)
        return len(differ), abs(sum(candidate) - sum(target))

    near = sorted(set(islice(_neighbours(model, target), MAX_TRIES)), key=distance)
    legal = (c for c in near[:MAX_NEAR] if c != target and legal_drop(model, c, trust=trust))
    return tuple(islice(legal, n))


def _neighbours(model: Model, drop: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Runs of about that length, and sets that differ in one layer."""
    for length in range(max(len(drop) - MAX_RUN, 1), min(len(drop) + 8, model.n_layer)):
        for start in range(model.n_layer - length + 1):
            yield tuple(range(start, start + length))
    others = [n for n in range(model.n_layer) if n not in drop]
    for i in range(len(drop)):
        rest = drop[:i] + drop[i + 1 :]
        if rest:
            yield rest
        yield from (tuple(sorted((*rest, other))) for other in others)


def first_legal(
    model: Model, order: Sequence[int], k: int, unit: Unit = Unit.LAYER
) -> tuple[int, ...] | None:
    """The legal set of `k` layers, or of that half of them, that comes first in `order` (least
    important first).

    Sets are tried with the layers at the front of the order first; None if none of them is legal.
    MTP blocks are never chosen: they cost nothing in perplexity and are not part of it.
    """
    order = [layer for layer in order if layer < n_trunk(model)]
    tries = (
        (*rest, order[reach - 1])
        for reach in range(k, len(order) + 1)
        for rest in combinations(order[: reach - 1], k - 1)
    )
    sets = (tuple(sorted(c)) for c in islice(tries, MAX_TRIES))
    legal = (layers for layers in sets if legal_cut(model, Cut.of(layers, unit)))
    return next(legal, None)


def first_cut(model: Model, order: Sequence[int], n_drop: int, unit: Unit = Unit.LAYER) -> Cut:
    """The first layers of the order, or that half of them, or the first that can be removed
    together.

    Raises ArchitectureError if no set of that many can be removed exactly.
    """
    drop = first_legal(model, order, n_drop, unit)
    if drop is None:
        raise no_set(model, n_drop, unit)
    return Cut.of(drop, unit)
