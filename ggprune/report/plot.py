"""The sensitivity of every layer as a picture. Needs matplotlib: `pip install ggprune[plot]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ggprune.errors import DataError, MissingExtraError, UsageError
from ggprune.report.table import is_log_scale
from ggprune.scoring import Ranking

SUFFIXES = (".png", ".svg", ".pdf")
BLUE, GREY = "#0072B2", "#555555"  # Okabe-Ito: distinct in all kinds of colour blindness


def check_plot(path: Path) -> None:
    """Raises UsageError or MissingExtraError if a plot could not be written in the end."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a plot is written as {', '.join(SUFFIXES)}")
    try:
        import matplotlib  # noqa: F401
    except ImportError as e:
        raise MissingExtraError("plots need matplotlib: pip install 'ggprune[plot]'") from e


def plot_ranking(ranking: Ranking, path: Path) -> None:
    """KL divergence without each layer, with standard errors, and the similarity of all windows.

    The format follows the suffix. Raises MissingExtraError without matplotlib, DataError if the
    file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    width = max(6.0, 0.28 * len(ranking.layers))
    figure = Figure(figsize=(width, 8.2), layout="constrained")
    bars, heat = figure.subplots(2, 1, height_ratios=(3.2, 5))
    _draw_sensitivity(bars, ranking)
    _draw_windows(heat, ranking)
    try:
        figure.savefig(path, dpi=150)
    except OSError as e:
        raise DataError(f"{path}: cannot be written: {e.strerror}") from e


def _draw_sensitivity(axes: Any, ranking: Ranking) -> None:
    layers = [score.layer for score in ranking.layers]
    values = [score.kld.value for score in ranking.layers]
    errors = [score.kld.se for score in ranking.layers]
    axes.bar(layers, values, color=BLUE, width=0.72)
    axes.errorbar(layers, values, yerr=errors, fmt="none", ecolor=GREY, capsize=2, linewidth=1)
    if is_log_scale(values):
        axes.set_yscale("log")
    axes.set_xticks(layers[:: max(1, len(layers) // 40)])
    axes.set_xlabel("layer left out")
    axes.set_ylabel("KL divergence (nats per token)")
    axes.set_title(
        f"{Path(ranking.model['path']).name} on {ranking.calibration['source']}", size=10
    )
    axes.spines[["top", "right"]].set_visible(False)


def _draw_windows(axes: Any, ranking: Ranking) -> None:
    """Angular distance across runs of layers; dark is similar: that run does little.

    Row n: runs of n layers; column: where they begin (as in Gromov et al., figure 4).
    """
    n_layer = len(ranking.layers)
    if n_layer == 1:
        axes.set_visible(False)
        return
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
