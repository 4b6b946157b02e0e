"""Pictures: drawn when they are written, and there only when they are complete."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ggprune.errors import MissingExtraError, OutputError, UsageError
from ggprune.metrics.text import read_text
from ggprune.model.model import Model
from ggprune.report.blocks import Figure, terminal
from ggprune.report.plot import check_plot, draw, ranking_figure, write_figure
from ggprune.report.ranking import blocks
from tests.conftest import CALIBRATION
from tests.scoring.ranked import ranked

MAGIC = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}
EMPTY = Figure("nothing", 2.0, ((lambda axes: axes.plot([0, 1]), 1.0),))


def test_plots(tiny: Model, tmp_path: Path) -> None:
    ranking = ranked(tiny, read_text(CALIBRATION), n_ctx=32, n_chunk=2)
    figure = ranking_figure(ranking)
    assert [height for _, height in figure.panels] == [3.2, 5]  # no set was chosen
    for suffix, magic in MAGIC.items():
        path = tmp_path / f"plot.{suffix}"
        write_figure(figure, path)
        assert path.read_bytes().startswith(magic)
    odd = replace(ranking.model, path="caf\udce9 $_$ \x1b\n.gguf")
    odd_figure = ranking_figure(replace(ranking, model=odd))
    assert b"caf\\xe9 $_$ \\x1b\\n.gguf on " in draw(odd_figure, "svg")
    *texts, picture = blocks(ranking)
    assert isinstance(picture, Figure)
    assert terminal(blocks(ranking)) == terminal(texts)


@pytest.mark.parametrize("format_name", MAGIC)
def test_formats(format_name: str) -> None:
    assert draw(EMPTY, format_name).startswith(MAGIC[format_name])


def test_the_suffix_may_be_in_capitals(tmp_path: Path) -> None:
    write_figure(EMPTY, tmp_path / "plot.PNG")
    assert (tmp_path / "plot.PNG").read_bytes().startswith(MAGIC["png"])


def test_a_plot_does_not_replace_a_file_unasked(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already; use --force"):
        write_figure(EMPTY, path)
    assert path.read_bytes() == b"precious"
    write_figure(EMPTY, path, force=True)
    assert path.read_bytes().startswith(MAGIC["png"])


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="there is no folder"):
        write_figure(EMPTY, tmp_path / "missing" / "plot.png")


def test_a_drawing_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail(_: object) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_figure(Figure("broken", 2.0, ((fail, 1.0),)), tmp_path / "plot.png")
    assert list(tmp_path.iterdir()) == []


def test_other_kinds_of_pictures() -> None:
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf"):
        check_plot(Path("plot.jpg"))


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'ggprune\[plot\]'"):
        write_figure(EMPTY, tmp_path / "plot.png")
