"""The options that say which layers leave, and whether the result is one file or several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from typer import Option

from ggprune.arch.hparams import mtp_blocks
from ggprune.arch.legal import first_cut
from ggprune.cli.completion import one_of
from ggprune.cli.measuring import cache_folder
from ggprune.cli.options import DropExperts, KeepSplit
from ggprune.cli.progress import READ, TerminalProgress
from ggprune.errors import UsageError
from ggprune.metrics.text import CALIBRATION, shipped_text
from ggprune.model.cut import Cut, parse_units
from ggprune.model.layers import parse_layers
from ggprune.model.model import Model
from ggprune.pipeline.job import AS_INPUT, Division
from ggprune.pipeline.rank import rank_experts
from ggprune.scoring.experts import (
    ExpertScores,
    ExpertsOptions,
    expert_cut,
    expert_routing,
    read_expert_scores,
)
from ggprune.scoring.measure import MeasureOptions
from ggprune.scoring.ranking import check_ranking, read_ranking
from ggprune.scoring.target import parse_drop
from ggprune.surgery.layout import Split
from ggprune.surgery.plan import PrunePlan, load_plan, make_plan

_SIZE = re.compile(r"[1-9][0-9]{0,8}")
REHOST = ("auto", "never")
SPLIT_UNITS = {"M": 1000**2, "G": 1000**3}  # llama-gguf-split's


@dataclass(frozen=True, kw_only=True)
class Removal:
    """Which layers leave; one way of saying it."""

    # fmt: off
    prune_layers: Annotated[str | None, Option(
        metavar="LAYERS",
        help="Layers to drop: 20,21 or 20-22 or -1 (the last one), joined by commas; 20a is an "
        "attention, 20f an FFN, 20f-21a a run from the one to the other.")] = None
    keep_layers: Annotated[str | None, Option(
        metavar="LAYERS", help="Layers to keep; drop the rest.")] = None
    plan_file: Annotated[Path | None, Option("--plan", help="Drop what a plan.json says.")] = None
    scores: Annotated[Path | None, Option(
        help="Drop what a rank or choose has chosen, or its --drop least important layers."
    )] = None
    drop: Annotated[int | None, Option(min=1, help="How many layers, with --scores.")] = None
    replace: Annotated[str | None, Option(
        "--replace", metavar="LAYERa=linear",
        help="Put a fitted matrix in the place of attentions (20a=linear,23a=linear); healed "
        "models stored as a deci only.")] = None
    rehost: Annotated[str, Option(
        "--rehost", metavar="auto|never", autocompletion=one_of(REHOST),
        help="Layers that keep an attention or an FFN alone: store the model as an architecture "
        "that llama.cpp can tell so where its own is none, or never.")] = "auto"
    drop_experts: DropExperts = None
    expert_scores: Annotated[Path | None, Option(
        "--expert-scores", show_default="a pass over the text that ships with ggprune",
        help="What ggprune experts has said of the experts, with --drop-experts.")] = None
    # fmt: on

    @property
    def is_said(self) -> bool:
        ways = (self.prune_layers, self.keep_layers, self.plan_file, self.scores, self.replace)
        return any(way is not None for way in (*ways, self.drop_experts))

    def plan(self, model: Model, *, drop_mtp: bool, trust: bool) -> PrunePlan:
        """Raises UsageError if it is said in no way, or in several."""
        ways = (self.prune_layers, self.keep_layers, self.plan_file, self.scores)
        is_said = any(ways) or drop_mtp or self.drop_experts is not None or self.replace is not None
        if sum(way is not None for way in ways) > 1 or not is_said:
            raise UsageError(
                "say which layers: one of --prune-layers, --keep-layers, --plan or --scores"
            )
        if self.rehost not in REHOST:
            raise UsageError(f"--rehost {self.rehost}: {' or '.join(REHOST)}")
        if self.expert_scores is not None and self.drop_experts is None:
            raise UsageError("--expert-scores goes with --drop-experts: how many are to leave?")
        if self.scores is None and self.drop is not None:
            raise UsageError(
                "--drop goes with --scores: which ranking is it the number of layers of?"
            )
        if self.plan_file is not None:
            if self.drop_experts is not None or self.replace is not None:
                raise UsageError(
                    "--plan says what leaves: --drop-experts and --replace do not go with it"
                )
            rehost = self.rehost == "auto"
            return _announced(
                load_plan(self.plan_file, model, TerminalProgress(READ), rehost=rehost)
            )
        cut = self.cut(model) | Cut.of(mtp_blocks(model) if drop_mtp else ())
        cut |= self._linear(model)
        if self.drop_experts is not None:
            cut |= expert_cut(model, self._experts(model), self.drop_experts, cut)
        progress = TerminalProgress(READ)
        return _announced(
            make_plan(model, cut, trust=trust, rehost=self.rehost == "auto", progress=progress)
        )

    def _linear(self, model: Model) -> Cut:
        if self.replace is None:
            return Cut()
        cut = parse_units(self.replace, model.n_layer)
        if len(cut.linear) != len(cut):
            raise UsageError(f"--replace {self.replace}: write attentions as 20a=linear")
        return cut

    def _experts(self, model: Model) -> ExpertScores:
        """Those of the file, or measured now."""
        parse_drop(self.drop_experts or "", expert_routing(model))  # before any work
        if self.expert_scores is None:
            options = ExpertsOptions(measuring=MeasureOptions(cache=cache_folder(True)))
            text = shipped_text(CALIBRATION)
            return rank_experts(model, text, options, TerminalProgress("experts", at_once=True))
        model.read_fingerprint(TerminalProgress(READ))
        return read_expert_scores(self.expert_scores, model)

    def cut(self, model: Model) -> Cut:
        if self.scores is not None:
            return _scored_cut(self.scores, model, self.drop)
        if self.prune_layers is not None:
            return parse_units(self.prune_layers, model.n_layer)
        if self.keep_layers is not None:
            kept = parse_layers(self.keep_layers, model.n_layer)
            return Cut.of(n for n in range(model.n_layer) if n not in kept)
        return Cut()


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """Whether the result is one file or several."""

    # fmt: off
    split_max_size: Annotated[str | None, Option(
        metavar="SIZE",
        help="Write shards with at most so many bytes of tensors (512M, 2G): OUT-00001-of-...",
    )] = None
    split_max_tensors: Annotated[int | None, Option(
        min=1, help="Write shards of at most N tensors.")] = None
    keep_split: KeepSplit = False
    # fmt: on

    def split(self) -> Division | None:
        """Raises UsageError for a size that is none, and if the input is to say it as well."""
        size, n_tensor = self.split_max_size, self.split_max_tensors
        if size is None and n_tensor is None:
            return AS_INPUT if self.keep_split else None
        split = Split(_size_bytes(size) if size is not None else None, n_tensor)
        if self.keep_split:
            raise UsageError(
                "--keep-split divides as the input is: leave out the other split options"
            )
        return split


def _announced(plan: PrunePlan) -> PrunePlan:
    """Before any work: what it costs to be stored as another architecture."""
    if plan.out_arch != plan.arch:
        for note in plan.notes:
            TerminalProgress().note(note)
    return plan


def _scored_cut(path: Path, model: Model, n_drop: int | None) -> Cut:
    """The chosen set, or the least important layers if it has another size."""
    ranking = read_ranking(path)
    model.read_fingerprint(TerminalProgress(READ))
    check_ranking(path, ranking, model)
    chosen = ranking.chosen.drop if ranking.chosen is not None else None
    if n_drop is None and chosen is None:
        raise UsageError(f"{path} has no chosen set of layers: add --drop N, or use ggprune choose")
    if chosen is not None and n_drop in (None, chosen.count):
        return chosen
    assert n_drop is not None
    return first_cut(model, ranking.order, n_drop, ranking.unit)


def _size_bytes(text: str) -> int:
    """`512M` or `2G`."""
    number, unit = text[:-1], text[-1:].upper()
    if unit not in SPLIT_UNITS or not _SIZE.fullmatch(number):
        raise UsageError(f"--split-max-size {text}: write a size like 512M or 2G")
    return int(number) * SPLIT_UNITS[unit]
