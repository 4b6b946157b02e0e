"""What was found out about the layers of a model: scores, their order, a chosen set; reading it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from pathlib import Path
from typing import Annotated, cast

import numpy as np

from ggprune.arch.hparams import n_trunk
from ggprune.errors import DataError, UsageError
from ggprune.files.documents import Key, decode, decode_fields, parse_json, written
from ggprune.files.reading import TextErrors, read_bytes
from ggprune.metrics.chunks import TextInfo
from ggprune.metrics.estimates import Estimate, Float64
from ggprune.metrics.text import CALIBRATION, EVALUATION, Text, read_text, shipped_text
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.runtime.workers import KindInfo, WorkerInfo
from ggprune.scoring.activations import LayerActivations
from ggprune.scoring.choice import Choice
from ggprune.scoring.rows import Effort

WINDOW_DIGITS = 6  # of the angular distances in a document
# Shortened LLaMA (Kim et al. 2024): the "+" variants leave the first four and last two layers.
PLUS_FIRST, PLUS_LAST = 4, 2


class Metric(str, Enum):
    """What a layer is ranked by; lower is less important, except for same_top_p.

    The first four are measured without the layer, the others say something of the whole model.
    """

    KLD = "kld"
    PPL = "ppl"
    SAME_TOP_P = "same_top_p"
    RMS_DELTA_P = "rms_delta_p"
    BI = "bi"
    ANGULAR = "angular"
    RELATIVE_MAGNITUDE = "relative_magnitude"
    MAGNITUDE = "magnitude"  # of the weights
    TAYLOR = "taylor"  # of the weights, times the loss's gradient
    IMATRIX = "imatrix"  # energy of what enters the weights


@dataclass(frozen=True)
class OrderBy:
    """What the order of a ranking follows."""

    metric: Metric = Metric.KLD
    plus: bool = False  # the first and the last layers come last

    def __str__(self) -> str:
        return self.metric.value + "+" * self.plus

    def protected(self, n_layer: int) -> tuple[int, ...]:
        """Of `n_layer` layers that compute: MTP blocks behind them do not count."""
        if not self.plus:
            return ()
        return tuple(n for n in range(n_layer) if n < PLUS_FIRST or n >= n_layer - PLUS_LAST)


BY_KLD = OrderBy()


def parse_metric(name: str) -> OrderBy:
    """`kld`, or `kld+` with the first and the last layers protected.

    Raises UsageError for an unknown name.
    """
    try:
        return OrderBy(Metric(name.removesuffix("+")), name.endswith("+"))
    except ValueError as e:
        names = ", ".join(m.value for m in Metric)
        raise UsageError(f"--metric {name}: one of {names}, or one of them with a +") from e


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """Which model was ranked."""

    path: str
    fingerprint: str
    arch: str
    n_layer: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class CalibrationInfo(TextInfo):
    """Which text a model was ranked on."""

    n_chunk_limit: Annotated[int, "chunks that could be read; a race may end before"]


@dataclass(frozen=True, kw_only=True)
class LayerScore:
    """The model without one layer. Higher ppl, kld and bi, lower same_top_p: worth more."""

    layer: int
    ppl: Annotated[Estimate, "perplexity without the layer"]
    kld: Annotated[Estimate, "KL divergence of the model without the layer, nats"]
    same_top_p: Annotated[Estimate, "share of tokens where the same one stays most likely"]
    rms_delta_p: Annotated[Estimate, "of the probability of the token that came"]
    bi: Annotated[Estimate, "1 - mean cos(x_l, x_{l+1}) (ShortGPT), of the whole model"]
    relative_magnitude: Annotated[Estimate, "norm of change by output, of the whole model"]
    angular: Annotated[Estimate, "arccos(cos(x_l, x_{l+1})) / pi, of the whole model"]
    kld_99: Annotated[float, "99 % of the tokens have less"]
    magnitude: Annotated[float | None, "of its weights, with --metric magnitude"] = None
    taylor: Annotated[float | None, "first-order loss of its weights, with --metric taylor"] = None
    activations: Annotated[
        LayerActivations | None, Key(name="imatrix"), "what an importance matrix says of it"
    ] = None
    removable: Annotated[bool, "can a file without this layer alone be written?"] = True

    @property
    @written("n_token", before="removable")
    def n_token(self) -> Annotated[int, "that the scores without it rest on"]:
        return self.kld.n

    @classmethod
    def from_json(cls, document: object) -> LayerScore:
        """With the number of tokens where the layer was left out: no estimate tells it itself."""
        score = decode_fields(cls, document)
        n = cast("dict[str, int]", document)["n_token"]
        names = ("ppl", "kld", "same_top_p", "rms_delta_p")
        return replace(score, **{name: replace(getattr(score, name), n=n) for name in names})

    def value(self, metric: Metric) -> float:
        """The importance by a metric: higher is worth more. Raises DataError if it is missing."""
        if metric is Metric.MAGNITUDE and self.magnitude is not None:
            return self.magnitude
        if metric is Metric.TAYLOR and self.taylor is not None:
            return self.taylor
        if metric is Metric.IMATRIX and self.activations is not None:
            return self.activations.energy
        measured: object = getattr(self, metric.value, None)
        if not isinstance(measured, Estimate):
            raise DataError(f"--metric {metric.value}: not measured in this ranking")
        return -measured.value if metric is Metric.SAME_TOP_P else measured.value


def _read_windows(rows: object) -> Float64:
    grid = np.array(decode(tuple[tuple[float, ...], ...], rows), np.float64)
    return grid if grid.size else np.zeros((0, 0))


def _rounded(windows: Float64) -> list[list[float]]:
    return [[round(float(x), WINDOW_DIGITS) for x in row] for row in windows]


@dataclass(frozen=True, kw_only=True)
class Ranking:
    """Scores of all layers of one model on one text, and all that is needed to repeat them.

    With a `unit` other than layers, of their attention or FFN; `layers` has those that have one.
    """

    model: ModelInfo
    calibration: CalibrationInfo
    base_ppl: Annotated[Estimate, Key(name="base.ppl")]
    by: Annotated[OrderBy, Key(name="metric", write=str, read=parse_metric),
        "what the layers are ordered by, as --metric has it"] = BY_KLD  # fmt: skip
    unit: Annotated[Unit, "what was left out of each layer"] = Unit.LAYER
    layers: tuple[LayerScore, ...]
    order: Annotated[tuple[int, ...], "least important first, by the metric"]
    undecided: Annotated[tuple[tuple[int, int], ...],
        "pairs of layers that the text does not tell apart at the border of --decide",
    ] = ()  # fmt: skip
    windows: Annotated[
        Float64,
        Key(write=_rounded, read=_read_windows),
        "row l, column m: angular distance over layers l to m-1",
    ] = field(default_factory=lambda: np.zeros((0, 0)), compare=False)
    effort: Effort = field(default_factory=Effort, compare=False)
    workers: Annotated[tuple[WorkerInfo, ...] | None, Key(optional=True),
        "with --workers or --scheduler: who measured"] = None  # fmt: skip
    kinds: Annotated[tuple[KindInfo, ...] | None, Key(optional=True),
        "with --mixed: which chunks were computed by what; every comparison is within one of them",
    ] = None  # fmt: skip
    chosen: Annotated[Choice | None, "a set of layers, where one was asked for"] = None
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def run_distances(self) -> Float64 | None:
        """The windows, if they are what the ranking follows."""
        return self.windows if self.by.metric is Metric.ANGULAR else None


def order_of(
    scores: Iterable[LayerScore], metric: Metric, protected: Sequence[int] = ()
) -> tuple[int, ...]:
    """Layers by the metric, least important first; protected ones come last."""
    last = set(protected)
    by_metric = sorted(scores, key=lambda s: (s.layer in last, s.value(metric), s.layer))
    return tuple(score.layer for score in by_metric)


def describe_model(model: Model) -> ModelInfo:
    return ModelInfo(
        path=str(model.path), fingerprint=model.fingerprint, arch=model.arch,
        n_layer=model.n_layer, size_bytes=model.size_bytes,
    )  # fmt: skip


def read_ranking(path: Path) -> Ranking:
    """A file written by `ggprune rank -o`. Raises DataError if it is not a ranking of layers.

    UsageError if its metric is not known.
    """
    data = read_bytes(path)
    try:
        ranking = decode(Ranking, parse_json(data.decode("utf-8"), "surrogateescape"))
    except ValueError as e:
        cause: BaseException | None = e
        while cause is not None:
            if isinstance(cause, UsageError):  # it says what is known in place of a metric
                raise cause from cause.__cause__
            cause = cause.__cause__
        raise DataError(f"{path}: not a ranking made by ggprune rank") from e
    if len(set(ranking.order)) != len(ranking.order):
        raise DataError(f"{path}: not a ranking made by ggprune rank")
    return ranking


def check_ranking(path: Path, ranking: Ranking, model: Model) -> None:
    """Raises DataError if the ranking in this file is not of the model."""
    if ranking.model.fingerprint != model.fingerprint:
        raise DataError(f"{path}: ranks another model than {model.path}")
    chosen = ranking.chosen.drop.layers if ranking.chosen is not None else ()
    if not {*ranking.order, *chosen} <= set(range(n_trunk(model))):
        raise DataError(f"{path}: names layers that {model.path} does not have")
    distances, n_place = ranking.run_distances, n_trunk(model) + 1
    if distances is not None and not (
        distances.shape == (n_place, n_place) and np.isfinite(distances).all()
    ):
        raise DataError(f"{path}: windows are not the angular distances of {n_place - 1} layers")


def ranked_text(
    path: Path, ranking: Ranking, moved_to: Path | None = None,
    errors: TextErrors = TextErrors.STRICT,
) -> Text:  # fmt: skip
    """The text that the ranking in this file was made with.

    Raises DataError if it cannot be read or is another text by now.
    """
    source, sha256 = ranking.calibration.source, ranking.calibration.sha256
    for name in (CALIBRATION, EVALUATION) if moved_to is None else ():
        shipped = shipped_text(name)  # a file may be called as one of them is
        if (source, sha256) == (shipped.source, shipped.sha256):
            return shipped
    try:
        text = read_text(moved_to or Path(source), errors)
    except DataError as e:
        raise DataError(f"{e}; {path} was made with this text: -f says where it is now") from e
    if text.sha256 != sha256:
        raise DataError(f"{text.source}: not the text that {path} was made with (-f)")
    return text
