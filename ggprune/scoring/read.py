"""A ranking that was written to a file, read back and held against the model and text at hand."""

from __future__ import annotations

import json
from pathlib import Path

from ggprune.arch import n_trunk
from ggprune.errors import DataError, UsageError
from ggprune.files.documents import decode
from ggprune.files.reading import read_bytes
from ggprune.metrics.text import Text, read_text, shipped_text
from ggprune.model import Model
from ggprune.model.cut import Unit
from ggprune.scoring.ranking import Ranking


def read_ranking(path: Path) -> Ranking:
    """A file written by `ggprune rank -o`. Raises DataError if it is not a ranking of layers.

    UsageError if its metric is not known.
    """
    data = read_bytes(path)
    try:
        ranking = decode(Ranking, json.loads(data.decode("utf-8")))
    except (ValueError, RecursionError) as e:
        _reraise_usage_error(e)
        raise DataError(f"{path}: not a ranking made by ggprune rank") from e
    if len(set(ranking.order)) != len(ranking.order):
        raise DataError(f"{path}: not a ranking made by ggprune rank")
    if ranking.unit is not Unit.LAYER:
        raise DataError(f"{path}: scores {ranking.unit.value} modules, not layers")
    return ranking


def _reraise_usage_error(error: BaseException | None) -> None:
    """The one behind an error, if there is one: it says what is known in place of a metric."""
    while error is not None:
        if isinstance(error, UsageError):
            raise error
        error = error.__cause__


def check_ranking(path: Path, ranking: Ranking, model: Model) -> None:
    """Raises DataError if the ranking in this file is not of the model."""
    if ranking.model.fingerprint != model.fingerprint:
        raise DataError(f"{path}: ranks another model than {model.path}")
    chosen = ranking.chosen.drop.layers if ranking.chosen is not None else ()
    if not {*ranking.order, *chosen} <= set(range(n_trunk(model))):
        raise DataError(f"{path}: names layers that {model.path} does not have")


def ranked_text(path: Path, ranking: Ranking, moved_to: Path | None = None) -> Text:
    """The text that the ranking in this file was made with.

    Raises DataError if it cannot be read or is another text by now.
    """
    calibration = ranking.calibration
    text = _read_text(calibration.source) if moved_to is None else read_text(moved_to)
    if text.sha256 != calibration.sha256:
        raise DataError(f"{text.source}: not the text that {path} was made with (-f)")
    return text


def _read_text(source: str) -> Text:
    package, _, name = source.partition("/")
    return shipped_text(name) if package == "ggprune" else read_text(Path(source))
