"""Sensitivity of layers, similarity of runs, loss against speed, as pictures; bars made of text.

A picture needs matplotlib: `pip install ggprune[plot]`. It is loaded when a picture is written.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ggprune.errors import MissingExtraError, UsageError
from ggprune.files.outputs import write_bytes
from ggprune.files.printable import printable
from ggprune.model.unit import Unit
from ggprune.report.blocks import Figure
from ggprune.report.units import dropped_cell
from ggprune.scoring.choice import Choice
from ggprune.scoring.ranking import Ranking

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from ggprune.training.options import Run

LOG_RATIO = 30.0  # values that spread wider than this are drawn on a logarithmic scale
SUFFIXES = (".png", ".svg", ".pdf")
TITLE_CHARS = 100
# Okabe-Ito: distinct in all kinds of colour blindness.
BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "#555555"

LEFT_OUT = {
    Unit.LAYER: "layer left out", Unit.ATTN: "layer whose attention is left out",
    Unit.FFN: "layer whose FFN is left out",
}  # fmt: skip


def is_log_scale(values: Sequence[float]) -> bool:
    positive = [v for v in values if v > 0]
    return bool(positive) and max(positive) > LOG_RATIO * min(positive)


def bars(values: Sequence[float], width: int = 16) -> list[str]:
    """A horizontal bar for each value, the longest for the largest, in eighths of a character.

    On a logarithmic scale the smallest value still gets a bar that can be seen.
    """
    positive = [v for v in values if v > 0] or [1.0]
    high, floor = max(positive), min(positive) / 2
    is_log = is_log_scale(values)
    shown = []
    for value in values:
        length = 0.0
        if value > 0:
            length = math.log(value / floor) / math.log(high / floor) if is_log else value / high
        eighths = round(8 * width * length)
        shown.append("█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip())
    return shown


def check_plot(path: Path) -> None:
    """Raises UsageError or MissingExtraError if a plot could not be written in the end."""
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: a plot is written as {', '.join(SUFFIXES)}")
    if find_spec("matplotlib") is None:
        raise MissingExtraError("plots need matplotlib: pip install 'ggprune[plot]'")


def write_figure(figure: Figure, path: Path, *, force: bool = False) -> None:
    """Draw into a file of the format that the suffix names; it appears when it is complete.

    Raises OutputError if it cannot be written, and what `check_plot` raises.
    """
    check_plot(path)
    write_bytes(path, draw(figure, path.suffix.lower()[1:]), force=force)


def draw(figure: Figure, format_name: str) -> bytes:
    """The picture as `png`, `svg` or `pdf`."""
    from matplotlib.figure import Figure as Canvas

    heights = [height for _, height in figure.panels]
    canvas = Canvas(figsize=(figure.width, sum(heights)), layout="constrained")
    axes = canvas.subplots(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    for (draw_panel, _), place in zip(figure.panels, axes, strict=True):
        draw_panel(place)
    picture = io.BytesIO()
    canvas.savefig(picture, format=format_name, dpi=150)
    return picture.getvalue()


def ranking_figure(ranking: Ranking) -> Figure:
    """Loss without each layer, similarity of windows, and loss against speed of a chosen set."""
    panels = [(partial(_draw_sensitivity, ranking=ranking), 3.2)]
    if ranking.windows.size > 4:
        panels.append((partial(_draw_windows, ranking=ranking), 5))
    if ranking.chosen is not None:
        panels.append((partial(_draw_front, choice=ranking.chosen), 3.6))
    width = max(6.0, 0.28 * len(ranking.layers))
    return Figure("What the model loses without each layer", width, tuple(panels))


def choice_figure(choice: Choice) -> Figure:
    """What each number of layers costs and gives."""
    panel = (partial(_draw_front, choice=choice), 3.8)
    return Figure("What each number of layers costs and gives", 6.0, (panel,))


def _draw_front(axes: Axes, choice: Choice) -> None:
    """Loss against predicted speed, a point for every number of layers; simpler choices beside."""
    points = choice.front[1:]  # the whole model loses nothing: not on a logarithmic scale
    losses = [point.kld.value for point in points]
    axes.errorbar(
        [point.speedup for point in points], losses, yerr=[point.kld.se for point in points],
        fmt="o-", color=BLUE, ecolor=GREY, capsize=2, label=choice.strategy.value, zorder=3,
    )  # fmt: skip
    for point in points:
        axes.annotate(
            f"-{dropped_cell(point.drop)}", (point.speedup, point.kld.value),
            xytext=(5, -11), textcoords="offset points", size=8,
        )  # fmt: skip
    for other, marker in zip(choice.others, ("s", "^"), strict=False):
        point = other.point
        axes.plot(
            point.speedup, point.kld.value, marker, color=ORANGE, fillstyle="none", markersize=10,
            label=f"{other.strategy.value} -{dropped_cell(point.drop)}",
        )  # fmt: skip
    if is_log_scale(losses):
        axes.set_yscale("log")
    axes.margins(x=0.08, y=0.15)
    xlabel = "speed-up of generating, predicted from the bytes read per token"
    axes.set(xlabel=xlabel, ylabel="KL divergence (nats per token)")
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _draw_sensitivity(axes: Axes, ranking: Ranking) -> None:
    layers = [score.layer for score in ranking.layers]
    values = [score.kld.value for score in ranking.layers]
    errors = [score.kld.se for score in ranking.layers]
    axes.bar(layers, values, color=BLUE, width=0.72)
    axes.errorbar(layers, values, yerr=errors, fmt="none", ecolor=GREY, capsize=2, linewidth=1)
    if is_log_scale(values):
        axes.set_yscale("log")
    axes.set_xticks(layers[:: max(1, len(layers) // 40)])
    axes.set(xlabel=LEFT_OUT[ranking.unit], ylabel="KL divergence (nats per token)")
    title = f"{Path(ranking.model.path).name} on {ranking.calibration.source}"
    axes.set_title(printable(title, TITLE_CHARS), size=10, parse_math=False)  # $ is in names, too
    axes.spines[["top", "right"]].set_visible(False)


def _draw_windows(axes: Axes, ranking: Ranking) -> None:
    """Angular distance across runs of layers; dark is similar: that run does little.

    Row n: runs of n layers; column: where they begin (as in Gromov et al., figure 4).
    """
    n_layer = len(ranking.windows) - 1
    rows = np.full((n_layer - 1, n_layer), np.nan)
    for length in range(1, n_layer):
        rows[length - 1, : n_layer - length + 1] = np.diagonal(ranking.windows, length)
    image = axes.imshow(
        rows, origin="lower", aspect="auto", cmap="cividis",
        extent=(-0.5, n_layer - 0.5, 0.5, n_layer - 0.5),
    )  # fmt: skip
    axes.set(xlabel="first layer of the run", ylabel="layers in the run")
    axes.set_xticks(range(0, n_layer, max(1, n_layer // 40)))
    axes.set_yticks(range(1, n_layer, max(1, n_layer // 20)))
    axes.figure.colorbar(image, ax=axes, label="angular distance (0: same direction, 1: opposite)")


def training_figure(runs: Sequence[Run]) -> Figure:
    """Loss of the steps, and divergence on rows set aside, by tokens."""
    panels = ((partial(_draw_losses, runs), 2.6), (partial(_draw_divergences, runs), 2.6))
    return Figure("training", 7.0, panels)


def _draw_losses(runs: Sequence[Run], axes: Axes) -> None:
    for run in runs:
        points = [(p.n_token, p.loss) for p in run.points if p.loss is not None]
        axes.plot([p[0] for p in points], [p[1] for p in points], label=f"seed {run.seed}")
    axes.set_ylabel("loss of a token")
    axes.legend(frameon=False)


def _draw_divergences(runs: Sequence[Run], axes: Axes) -> None:
    for run in runs:
        axes.plot([p.n_token for p in run.points], [p.kld for p in run.points])
        axes.plot([run.best.n_token], [run.best.kld], "o", color=GREY)
    axes.set_ylabel("KLD on rows set aside, nats")
    axes.set_xlabel("tokens trained on")
