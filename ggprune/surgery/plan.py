"""The decision which layers leave a model: made once, kept as JSON, carried out by `write`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated

from ggprune.arch.change import Change, Slice
from ggprune.arch.experts import EXPERT_COUNT, holds_experts
from ggprune.arch.hparams import Hparams, Illegal
from ggprune.arch.legal import nearest_legal, removal_change
from ggprune.arch.table import ArchitectureRow, architecture_table
from ggprune.errors import ArchitectureError, DataError, UsageError
from ggprune.files.documents import DocumentError, Key, decode, parse_json, written
from ggprune.files.reading import read_bytes
from ggprune.model.cut import Cut, Piece, parse_cut
from ggprune.model.model import Model
from ggprune.model.names import block_of, half_of, rename_block
from ggprune.model.newlayer import NewLayer
from ggprune.model.unit import Unit
from ggprune.progress import SILENT, Progress

PLAN_FORMAT = 2


def _read_cut(drop: object) -> Cut:
    """With layers that are named twice or do not exist: `make_plan` says what is wrong with them.

    Raises ValueError for what is no list of layers or parts of layers.
    """
    if not isinstance(drop, list):
        raise ValueError
    pieces = [p for n in drop for p in ([Piece(n)] if type(n) is int else parse_cut([n]))]
    return Cut(tuple(sorted(pieces)))


@dataclass(frozen=True, kw_only=True)
class PrunePlan:
    """What leaves which model. Numbers are 0-based layers of the original model.

    Enough to rename what belongs to the model without the model at hand: `stacks` are prefix and
    depth of its stacks of blocks, `out_arch` is the architecture that the result is stored as.
    """

    fingerprint: str
    arch: str
    n_layer: int
    cut: Annotated[Cut, Key(name="drop", read=_read_cut)]
    stacks: Annotated[
        tuple[tuple[str, int], ...], 'prefix and depth: [["", n_layer]], or [["enc.", n], ...]'
    ]
    out_arch: Annotated[str, "that the result is stored as"]
    notes: Annotated[tuple[str, ...], "what a user must know about the result"] = ()
    trust: Annotated[bool, "after --trust-uniform-layers: of an unknown architecture"] = False
    n_expert: Annotated[int, "of every MoE layer, where experts leave; else 0"] = 0

    @property
    @written("ggprune_plan", before="fingerprint")
    def form(self) -> Annotated[int, "version of this format"]:
        return PLAN_FORMAT

    @property
    def drop(self) -> tuple[int, ...]:
        """The layers that leave. Raises ArchitectureError if other parts than layers do."""
        return self.cut.whole_layers

    @property
    def keep(self) -> tuple[int, ...]:
        """The layers that stay; the i-th becomes layer i. Raises what `drop` raises."""
        return tuple(n for n in range(self.n_layer) if n not in self.drop)

    @cached_property
    def layers(self) -> tuple[NewLayer, ...]:
        """What the layers of the result are made of."""
        return self.cut.remaining(self.n_layer)

    def new_number(self, stack: str, number: int, half: Unit) -> int | None:
        """What a block of a stack is called afterwards, by one of its halves; None if that goes."""
        first = 0
        for prefix, n_block in self.stacks:
            own = [
                layer.half(half) for layer in self.layers
                if first <= layer.first < first + n_block
            ]  # fmt: skip
            if prefix == stack:
                return own.index(number + first) if number + first in own else None
            first += n_block
        return number  # blocks of something else

    def change(self, model: Model, *, rehost: bool = True) -> Change:
        """All that changes in the model. Raises what `removal_change` raises."""
        return removal_change(
            model, self.layers, experts=self.cut.experts, trust=self.trust, rehost=rehost
        )

    def expert_slice(self, name: str, shape: Sequence[int]) -> Slice | None:
        """What stays of a tensor of a layer that loses experts, or of one that belongs to such a
        tensor, as in an importance matrix; None if all of it does."""
        block, gone = block_of(name), self.cut.experts
        if block is None or block[1] not in gone:
            return None
        if not holds_experts(name, shape, self.n_expert):
            return None
        kept = tuple(n for n in range(self.n_expert) if n not in gone[block[1]])
        return Slice(len(shape) - 1, self.n_expert, kept)

    def renamed(self, name: str) -> str | None:
        """A tensor's name afterwards; None if it goes with its layer, or its half of one."""
        block = block_of(name)
        if block is None:
            return name
        row = architecture_table().architectures.get(self.arch)
        ffn = row.ffn_tensors if isinstance(row, ArchitectureRow) else ()
        number = self.new_number(*block, half_of(name, ffn) or Unit.ATTN)
        return None if number is None else rename_block(name, number)


def make_plan(
    model: Model, drop: Cut | Iterable[int], *, trust: bool = False, rehost: bool = True,
    progress: Progress = SILENT,
) -> PrunePlan:  # fmt: skip
    """A plan that can be carried out exactly; `progress` is told of bytes read for the fingerprint.

    Without `rehost`, layers keep one half alone only where the model's own architecture has such.

    Raises UsageError for impossible layers, ArchitectureError when the result would not be exact.
    """
    cut = drop if isinstance(drop, Cut) else Cut(tuple(Piece(n) for n in sorted(drop)))
    n_layer = len(model.layers)
    _check_layers(cut, n_layer)
    cut = cut.tidy
    plan = PrunePlan(
        fingerprint="", arch=model.arch, n_layer=n_layer, cut=cut,
        stacks=model.stacks, out_arch=model.arch, trust=trust,
        n_expert=Hparams(model).integer(EXPERT_COUNT) if cut.experts else 0,
    )  # fmt: skip
    if cut:
        change = _change(model, plan, rehost)
        plan = replace(plan, out_arch=change.arch or model.arch, notes=change.notes)
    return replace(plan, fingerprint=model.read_fingerprint(progress))


def _check_layers(cut: Cut, n_layer: int) -> None:
    """Raises UsageError for layers that cannot leave together whatever the model is."""
    if len(set(cut)) != len(cut) or any(not 0 <= piece.layer < n_layer for piece in cut):
        named = ", ".join(map(str, cut))
        raise UsageError(f"[{named}] are not distinct layers of 0 to {n_layer - 1}")
    both = next((n for n in cut.linear if 2 * n in cut.units), None)
    if both is not None:
        raise UsageError(f"the attention of layer {both} would leave and be replaced")
    if len(cut.units) == 2 * n_layer:
        raise UsageError(f"all {n_layer} layers would be dropped: at least one must stay")


def _change(model: Model, plan: PrunePlan, rehost: bool) -> Change:
    try:
        return plan.change(model, rehost=rehost)
    except Illegal as e:
        if plan.cut.experts:  # sets of layers nearby are no answer
            raise
        near = [str(Cut.of(d)) for d in nearest_legal(model, plan.cut.layers, trust=plan.trust)]
        hint = f"; possible nearby: {' or '.join(near)}" if near else ""
        raise ArchitectureError(f"{e}{hint}") from e


def load_plan(
    path: Path, model: Model, progress: Progress = SILENT, *, rehost: bool = True
) -> PrunePlan:
    """Read a plan and check that it was made for this model, all bytes of which may be read.

    `rehost` as in `make_plan`.

    Raises DataError if it is not a plan, or one for another model.
    """
    plan = read_plan(path)
    if plan.fingerprint != model.read_fingerprint(progress):
        raise DataError(f"{path}: made for another model than {model.path}")
    return make_plan(model, plan.cut, trust=plan.trust, rehost=rehost)


def read_plan(path: Path) -> PrunePlan:
    """Read a plan without its model.

    Raises DataError if it is not one, UsageError for layers that its model cannot have.
    """
    try:
        text = read_bytes(path).decode("utf-8")
        data = decode(dict[str, object], parse_json(text, "surrogateescape"))
        form = data["ggprune_plan"]
    except (ValueError, KeyError) as e:
        raise DataError(f"{path}: not a ggprune plan") from e
    if form != PLAN_FORMAT:
        raise DataError(f"{path}: plan format {form} is not known to this version")
    try:
        plan = decode(PrunePlan, data)
    except DocumentError as e:
        if e.place == "drop":
            raise DataError(f"{path}: 'drop' is not a list of layer numbers") from e
        raise DataError(f"{path}: not a complete ggprune plan: {e}") from e
    depths = [n for _, n in plan.stacks]
    if min(depths, default=0) < 1 or sum(depths) != plan.n_layer:
        raise DataError(f"{path}: stacks of {depths} layers do not make n_layer = {plan.n_layer}")
    _check_layers(plan.cut, plan.n_layer)
    for layer, experts in plan.cut.experts.items():
        if not (len(experts) < plan.n_expert and experts[-1] < plan.n_expert):
            raise DataError(f"{path}: layer {layer} cannot lose {len(experts)} experts of "
                            f"n_expert = {plan.n_expert}")  # fmt: skip
    return plan
