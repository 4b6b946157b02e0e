"""scores.json as it is read: what it says can be used, or it is one line of an error."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError
from ggprune.files.documents import to_text
from ggprune.metrics.text import CALIBRATION, read_text, shipped_text
from ggprune.model.model import Model
from ggprune.scoring.ranking import (
    Metric,
    OrderBy,
    Ranking,
    check_ranking,
    ranked_text,
    read_ranking,
)
from tests.scoring.ranked import made_ranking


@pytest.fixture
def ranking(tiny: Model) -> Ranking:
    return made_ranking(tiny.fingerprint, 9)


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ('"value": 0.1', '"value": 1e999'),
        ('"value": 0.1', '"value": NaN'),
        ('"value": 0.1', '"value": -Infinity'),
        ('"value": 0.1', '"value": ' + "9" * 400),
        ('"value": 0.1', '"value": ' + "9" * 5000),
        ('"n_ctx": 512', '"n_ctx": 5e999'),
        ('"arch": "llama"', '"arch": "\\ud800"'),
        ('"arch": "llama"', '"arch": ' + "[" * 200_000),
        ('"windows": [', '"windows": 3.0, "x": ['),
    ],
)
def test_values_that_no_ranking_has_are_one_error(
    ranking: Ranking, tmp_path: Path, place: str, text: str
) -> None:
    path, right = tmp_path / "scores.json", to_text(ranking)
    path.write_text(right)
    assert read_ranking(path).order == ranking.order
    assert place in right
    path.write_text(right.replace(place, text, 1))
    with pytest.raises(DataError, match=r"scores\.json: not a ranking made by ggprune rank"):
        read_ranking(path)


def test_distances_of_another_number_of_layers_are_refused(
    ranking: Ranking, tiny: Model, tmp_path: Path
) -> None:
    """A choice by angular distances looks them up by the layers' numbers."""
    angular, path = replace(ranking, by=OrderBy(Metric.ANGULAR)), tmp_path / "scores.json"
    check_ranking(path, angular, tiny)
    odd = np.full((10, 10), 0.25)
    odd[2, 3] = np.nan
    for windows in (np.zeros((0, 0)), np.zeros((9, 9)), odd):
        with pytest.raises(DataError, match="windows are not the angular distances of 9 layers"):
            check_ranking(path, replace(angular, windows=windows), tiny)


def test_a_text_in_a_folder_called_ggprune_is_that_text(
    ranking: Ranking, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`ggprune/calibration.txt` is the shipped text only where it is that text."""
    monkeypatch.chdir(tmp_path)
    folder = Path("ggprune")
    folder.mkdir()
    path = tmp_path / "scores.json"
    assert ranked_text(path, ranking) == shipped_text(CALIBRATION)
    for name in ("own.txt", CALIBRATION):
        (folder / name).write_text("my own text")
        own = read_text(folder / name)
        info = replace(ranking.calibration, source=own.source, sha256=own.sha256)
        assert own.source == f"ggprune/{name}"
        assert ranked_text(path, replace(ranking, calibration=info)) == own


@pytest.mark.parametrize("source", ["ggprune/../../x", "ggprune/\0", "\0", "ggprune/none.txt"])
def test_a_text_that_is_not_there_is_one_error(
    ranking: Ranking, tmp_path: Path, source: str
) -> None:
    document = json.loads(to_text(ranking))
    document["calibration"] |= {"source": source}
    path = tmp_path / "scores.json"
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match="cannot be read"):
        ranked_text(path, read_ranking(path))
