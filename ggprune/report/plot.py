"""Sensitivity of layers, similarity of runs, loss against speed, as pictures.

Needs matplotlib: `pip install ggprune[plot]`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ggprune.errors import DataError, MissingExtraError, UsageError
from ggprune.model.cut import Unit
from ggprune.report.table import is_log_scale
from ggprune.scoring import Choice, Ranking

SUFFIXES = (".png", ".svg", ".pdf")
# Okabe-Ito: distinct in all kinds of colour blindness.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"

LEFT_OUT = {
    Unit.LAYER: "layer left out",
    Unit.ATTN: "layer whose attention is left out",
    Unit.FFN: "layer whose FFN is left out",
}


def check_plot(path: Path) -> None:
    """Raises UsageError or MissingExtraError if a plot could not be written in the end."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a plot is written as {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise MissingExtraError("plots need matplotlib: pip install 'ggprune[plot]'") from e


def plot_ranking(ranking: Ranking, path: Path) -> None:
    """KL divergence without each layer, with standard errors, the similarity of all windows, and
    what each number of layers costs and gives if a set was chosen.

    The format follows the suffix. Raises MissingExtraError without matplotlib, DataError if the
    file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    is_chosen, has_windows = ranking.chosen is not None, ranking.windows.size > 4
    ratios = (3.2, *((5,) * has_windows), *((3.6,) * is_chosen))
    width = max(6.0, 0.28 * len(ranking.layers))
    figure = Figure(figsize=(width, sum(ratios)), layout="constrained")
    axes = list(figure.subplots(len(ratios), 1, height_ratios=ratios, squeeze=False)[:, 0])
    _draw_sensitivity(axes.pop(0), ranking)
    if has_windows:
        _draw_windows(axes.pop(0), ranking)
    if ranking.chosen is not None:
        _draw_front(axes.pop(0), ranking.chosen)
    _save(figure, path)


def plot_choice(choice: Choice, path: Path) -> None:
    """What each number of layers costs and gives. Errors as `plot_ranking`."""
    check_plot(path)
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 3.8), layout="constrained")
    _draw_front(figure.subplots(), choice)
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    try:
        figure.savefig(path, dpi=150)
    except OSError as e:
        raise DataError(f"{path}: cannot be written: {e.strerror}") from e


def _draw_front(axes: Any, choice: Choice) -> None:
    """Loss against predicted speed, a point for every number of layers; simpler choices beside."""
    points = choice.front[1:]  # the whole model loses nothing: not on a logarithmic scale
    speeds, losses = [p.speedup for p in points], [p.kld.value for p in points]
    errors = [p.kld.se for p in points]
    axes.errorbar(
        speeds, losses, yerr=errors, fmt="o-", color=BLUE, ecolor=GREY, capsize=2,
        label=choice.strategy.value, zorder=3,
    )  # fmt: skip
    for point in points:
        axes.annotate(
            f"-{len(point.drop)}", (point.speedup, point.kld.value),
            xytext=(5, -11), textcoords="offset points", size=8,
        )  # fmt: skip
    for other, marker in zip(choice.others, ("s", "^"), strict=False):
        point = other.point
        axes.plot(
            point.speedup, point.kld.value, marker, color=ORANGE, fillstyle="none", markersize=10,
            label=f"{other.strategy.value} -{len(point.drop)}",
        )  # fmt: skip
    if is_log_scale(losses):
        axes.set_yscale("log")
    axes.margins(x=0.08, y=0.15)
    axes.set_xlabel("speed-up of generating, predicted from the bytes read per token")
    axes.set_ylabel("KL divergence (nats per token)")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_sensitivity(axes: Any, ranking: Ranking) -> None:
    layers = [score.layer for score in ranking.layers]
    values = [score.kld.value for score in ranking.layers]
    errors = [score.kld.se for score in ranking.layers]
    axes.bar(layers, values, color=BLUE, width=0.72)
    axes.errorbar(layers, values, yerr=errors, fmt="none", ecolor=GREY, capsize=2, linewidth=1)
    if is_log_scale(values):
        axes.set_yscale("log")
    axes.set_xticks(layers[:: max(1, len(layers) // 40)])
    axes.set_xlabel(LEFT_OUT[ranking.unit])
    axes.set_ylabel("KL divergence (nats per token)")
    axes.set_title(f"{Path(ranking.model.path).name} on {ranking.calibration.source}", size=10)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_windows(axes: Any, ranking: Ranking) -> None:
    """Angular distance across runs of layers; dark is similar: that run does little.

    Row n: runs of n layers; column: where they begin (as in Gromov et al., figure 4).
    """
    n_layer = len(ranking.windows) - 1
    rows = np.full((n_layer - 1, n_layer), np.nan)
    for first in range(n_layer):
        for length in range(1, min(n_layer - first, n_layer - 1) + 1):
            rows[length - 1, first] = ranking.windows[first, first + length]
    image = axes.imshow(
        rows, origin="lower", aspect="auto", cmap="cividis",
        extent=(-0.5, n_layer - 0.5, 0.5, n_layer - 0.5),
    )  # fmt: skip
    axes.set_xlabel("first layer of the run")
    axes.set_ylabel("layers in the run")
    axes.set_xticks(range(0, n_layer, max(1, n_layer // 40)))
    axes.set_yticks(range(1, n_layer, max(1, n_layer // 20)))
    axes.figure.colorbar(image, ax=axes, label="angular distance (0: same direction, 1: opposite)")
