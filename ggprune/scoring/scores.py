"""A ranking that was written to a file, read back: what another command needs of it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ggprune.arch import n_trunk
from ggprune.errors import DataError
from ggprune.metrics.estimates import Float64
from ggprune.metrics.text import Text, read_text, shipped_text
from ggprune.model import Model
from ggprune.scoring.ranking import Metric, OrderBy, parse_metric


@dataclass(frozen=True)
class Scores:
    """A file written by `ggprune rank -o`."""

    path: Path
    data: dict[str, Any]

    @property
    def model_path(self) -> Path:
        return Path(self.data["model"]["path"])

    @property
    def by(self) -> OrderBy:
        return parse_metric(self.data["metric"])

    @property
    def order(self) -> tuple[int, ...]:
        """Least important first."""
        return tuple(self.data["order"])

    @property
    def chosen(self) -> tuple[int, ...] | None:
        """The set of layers, if one was chosen."""
        chosen = self.data.get("chosen")
        return tuple(chosen["drop"]) if chosen is not None else None

    @property
    def windows(self) -> Float64 | None:
        """As `Ranking.windows`, if the ranking follows them."""
        if self.by.metric is not Metric.ANGULAR:
            return None
        return np.array(self.data["windows"], np.float64)

    @property
    def n_ctx(self) -> int:
        return int(self.data["calibration"]["n_ctx"])

    @property
    def n_chunk(self) -> int:
        """Chunks that the ranking might have read, more than it did if a race ended early."""
        return int(self.data["calibration"]["n_chunk_limit"])

    def text(self, path: Path | None = None) -> Text:
        """The text the ranking was made with, from `path` if it is elsewhere now.

        Raises DataError if it cannot be read or is another text by now.
        """
        source, sha256 = (self.data["calibration"][key] for key in ("source", "sha256"))
        text = _read(source) if path is None else read_text(path)
        if text.sha256 != sha256:
            raise DataError(f"{text.source}: not the text that {self.path} was made with (-f)")
        return text


def _read(source: str) -> Text:
    package, _, name = source.partition("/")
    return shipped_text(name) if package == "ggprune" else read_text(Path(source))


def read_scores(path: Path) -> Scores:
    """Raises DataError if the file is not a ranking of layers."""
    try:
        scores = Scores(path, json.loads(path.read_text("utf-8")))
        _check(scores)
    except OSError as e:
        raise DataError(f"{path}: cannot be read: {e.strerror}") from e
    except (ValueError, TypeError, KeyError, AttributeError) as e:
        raise DataError(f"{path}: not a ranking made by ggprune rank") from e
    if scores.data.get("unit", "layer") != "layer":
        raise DataError(f"{path}: scores {scores.data['unit']} modules, not layers")
    return scores


def _check(scores: Scores) -> None:
    """Touches all that is read later. Raises what Python does for wrong types and missing keys."""
    numbers = [*scores.order, *(scores.chosen or ()), scores.n_ctx, scores.n_chunk]
    if not all(type(n) is int for n in numbers) or len(set(scores.order)) != len(scores.order):
        raise ValueError
    calibration, model = scores.data["calibration"], scores.data["model"]
    texts = (calibration["source"], calibration["sha256"], model["path"], model["fingerprint"])
    if not all(isinstance(text, str) for text in (*texts, scores.data["metric"])):
        raise TypeError
    if scores.windows is not None and scores.windows.ndim != 2:
        raise ValueError


def check_scores(scores: Scores, model: Model) -> None:
    """Raises DataError if the ranking is not of this model."""
    if scores.data["model"]["fingerprint"] != model.fingerprint:
        raise DataError(f"{scores.path}: ranks another model than {model.path}")
    if not {*scores.order, *(scores.chosen or ())} <= set(range(n_trunk(model))):
        raise DataError(f"{scores.path}: names layers that {model.path} does not have")
