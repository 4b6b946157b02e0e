"""The options of commands that choose layers: how many are to go, and how the set is found."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from typer import Option

from ggprune.arch.hparams import n_trunk
from ggprune.cli.completion import values_of
from ggprune.errors import UsageError
from ggprune.model.layers import parse_layers
from ggprune.model.model import Model
from ggprune.scoring.choice import Strategy, parse_strategy
from ggprune.scoring.target import OPTIONS, DropRequest, Goal, Limits, Target, parse_amount


@dataclass(frozen=True, kw_only=True)
class Search:
    """How a set of layers is found."""

    # fmt: off
    strategy: Annotated[str, Option(
        "--strategy", metavar="NAME", autocompletion=values_of(Strategy),
        help="How the set is found: oneshot, greedy, window, whole, search, units, exhaustive, or "
        "healed. search is whole, then runs that begin with an FFN and end with an attention; "
        "units also lets attentions and FFNs leave alone, as many as are worth those layers; "
        "healed heals the best sets and runs, and takes the nearest to the original, for about "
        "three passes through the text for each of up to six.")] = "search"
    protect: Annotated[str | None, Option(
        metavar="LAYERS", help="Layers that stay, whatever happens.")] = None
    # fmt: on


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What is to be reached by dropping layers; one of them, and limits to the loss."""

    # fmt: off
    drop: Annotated[int | None, Option(min=1, help="Drop so many layers ...")] = None
    drop_percent: Annotated[float | None, Option(
        min=0.1, max=99.9, help="... or this share of the layers.")] = None
    target_size: Annotated[str | None, Option(
        metavar="SIZE", help="... or until the file has at most so many bytes.")] = None
    target_params: Annotated[str | None, Option(
        metavar="N", help="... or until at most so many parameters are left.")] = None
    target_speedup: Annotated[float | None, Option(
        min=1.001, max=100,
        help="... or until tokens are generated so much faster, by the bytes read for each.",
    )] = None
    max_kld: Annotated[float | None, Option(
        min=0.0,
        help="KLD that must not be exceeded; without a number, as many layers as it allows.",
    )] = None
    max_ppl_ratio: Annotated[float | None, Option(
        min=1.0, help="The same for the ratio of perplexities.")] = None
    # fmt: on

    def target(self) -> Target | None:
        """Raises UsageError if there is more than one, or an amount that is none."""
        size, params = self.target_size, self.target_params
        amounts = {
            Goal.LAYERS: self.drop,
            Goal.PERCENT: self.drop_percent,
            Goal.SIZE: parse_amount(size, Goal.SIZE) if size is not None else None,
            Goal.PARAMS: parse_amount(params, Goal.PARAMS) if params is not None else None,
            Goal.SPEEDUP: self.target_speedup,
        }
        targets = [Target(goal, value) for goal, value in amounts.items() if value is not None]
        if len(targets) > 1:
            raise UsageError(f"{OPTIONS[targets[0].goal]} or {OPTIONS[targets[1].goal]}, not both")
        return targets[0] if targets else None

    def request(self, model: Model, search: Search) -> DropRequest | None:
        """The set of layers that is asked for, None if none is.

        Raises UsageError for a number that cannot be.
        """
        target, limits = self.target(), Limits(self.max_kld, self.max_ppl_ratio)
        strategy, protect = parse_strategy(search.strategy), search.protect
        protected = parse_layers(protect, n_trunk(model)) if protect is not None else ()
        if target is None and not limits:
            return None
        if target is not None:
            target.n_drop(model)  # says what is wrong with it
        return DropRequest(target, strategy, limits, tuple(protected))

    def required(self, model: Model, search: Search) -> DropRequest:
        """The same. Also raises UsageError if no set is asked for."""
        request = self.request(model, search)
        if request is None:
            raise UsageError("say how many layers are to go: --drop, --target-size, --max-kld, ...")
        return request
