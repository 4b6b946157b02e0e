"""The sensitivity of every layer as a picture. Needs matplotlib: `pip install ggprune[plot]`."""

from __future__ import annotations

from pathlib import Path

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
    """KL divergence without each layer, with standard errors; the format follows the suffix.

    Raises MissingExtraError without matplotlib, DataError if the file cannot be written.
    """
    check_plot(path)
    from matplotlib.figure import Figure

    layers = [score.layer for score in ranking.layers]
    values = [score.kld.value for score in ranking.layers]
    errors = [score.kld.se for score in ranking.layers]
    figure = Figure(figsize=(max(6.0, 0.28 * len(layers)), 3.6), layout="constrained")
    axes = figure.add_subplot()
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
    try:
        figure.savefig(path, dpi=150)
    except OSError as e:
        raise DataError(f"{path}: cannot be written: {e.strerror}") from e
