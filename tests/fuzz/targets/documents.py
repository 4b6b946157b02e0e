"""JSON that commands write and read: plans, scores, and the codec of all documents."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from random import Random
from typing import Annotated

import numpy as np

from ggprune.cli.removal import Removal
from ggprune.errors import UsageError
from ggprune.files.documents import INLINE, LEFT_OUT, Key, encode, read_document, to_text
from ggprune.metrics.chunks import TextInfo
from ggprune.metrics.estimates import Estimate, Float64
from ggprune.model.cut import Cut
from ggprune.model.model import open_model
from ggprune.scoring.choose import search_options
from ggprune.scoring.experts import (
    ExpertLayer,
    ExpertMetric,
    ExpertScores,
    expert_cut,
    read_expert_scores,
)
from ggprune.scoring.ranking import (
    Metric,
    OrderBy,
    check_ranking,
    describe_model,
    ranked_text,
    read_ranking,
)
from ggprune.surgery.plan import load_plan, make_plan, read_plan
from ggprune.surgery.remap import remap
from tests.conftest import TINY_MOE
from tests.fuzz.case import Case, EscapeError
from tests.fuzz.mutate_json import JsonMutator
from tests.fuzz.seeds import companions, llama
from tests.fuzz.targets.companions import PLAN, PLAN_T5
from tests.fuzz.targets.shared import lasting_folder, open_parts
from tests.scoring.ranked import made_ranking

N_LAYER = 6


def as_json(value: object) -> object:
    return json.loads(to_text(value))


class PlanTarget:
    """plan.json, as `prune --plan` and `remap` read it."""

    def __init__(self) -> None:
        self.model = open_parts(llama(N_LAYER))
        self.imatrix = lasting_folder() / "imatrix.gguf"
        self.imatrix.write_bytes(companions()[0].pack())
        fitting = replace(PLAN, fingerprint=self.model.fingerprint)
        self.mutator = JsonMutator([as_json(plan) for plan in (PLAN, PLAN_T5, fitting)])

    def make(self, rng: Random) -> bytes:
        return self.mutator.make(rng)

    def run(self, data: bytes, case: Case) -> None:
        path, out = case.write("plan.json", data), case.folder / "out.gguf"
        case.attempt("prune --plan", lambda: load_plan(path, self.model))
        plan = case.attempt("read_plan", lambda: read_plan(path))
        if plan is None:
            return
        case.attempt("write it again", lambda: to_text(plan).encode("utf-8"))
        if case.attempt("remap", lambda: remap(plan, self.imatrix, out)) is not None:
            case.files.add(out)


class ScoresTarget:
    """scores.json, as `prune --scores` and `choose` read it."""

    def __init__(self) -> None:
        self.model = open_parts(llama(N_LAYER))
        ranking = made_ranking(self.model.fingerprint, N_LAYER)
        angular = replace(ranking, by=OrderBy(Metric.ANGULAR), chosen=None)
        self.mutator = JsonMutator([as_json(ranking), as_json(angular)])

    def make(self, rng: Random) -> bytes:
        return self.mutator.make(rng)

    def run(self, data: bytes, case: Case) -> None:
        path = case.write("scores.json", data)
        ranking = case.attempt("read_ranking", lambda: read_ranking(path))
        if ranking is None:
            return
        case.attempt("choose -o", lambda: to_text(replace(ranking, chosen=None)).encode("utf-8"))
        case.attempt("text", lambda: ranked_text(path, ranking))
        if not case.accepts("check_ranking", lambda: check_ranking(path, ranking, self.model)):
            return
        search = case.attempt("search", lambda: search_options(self.model, ranking, 0.95))
        windows = search.windows if search is not None else None
        if windows is not None and not np.isfinite(windows[: N_LAYER + 1, : N_LAYER + 1]).all():
            raise EscapeError("NaN or infinity among the distances of a ranking")
        n_drop = case.rng.choice((None, 1, 2, 3))
        removal = Removal(scores=path, drop=n_drop)
        case.attempt("prune --scores", lambda: removal.plan(
            self.model, drop_mtp=False, trust=False))  # fmt: skip


class ExpertScoresTarget:
    """experts.json, as `prune --expert-scores` reads it."""

    def __init__(self) -> None:
        self.model = open_model(TINY_MOE)
        n = 16
        layers = tuple(
            ExpertLayer(
                layer=layer, reap=tuple(0.1 * i for i in range(n)), frequency=(0.25,) * n,
                gate=(0.5,) * n, kld=(None,) * (n - 1) + (0.2,),
            )
            for layer in range(4)
        )  # fmt: skip
        scores = ExpertScores(
            model=describe_model(self.model),
            calibration=TextInfo(source="t", sha256="0", n_ctx=128, n_chunk=2, n_token=126),
            base_ppl=Estimate(2.5, 0.1, 126), by=ExpertMetric.REAP, n_expert=n, n_used=4,
            layers=layers,
        )  # fmt: skip
        self.mutator = JsonMutator([as_json(scores)])

    def make(self, rng: Random) -> bytes:
        return self.mutator.make(rng)

    def run(self, data: bytes, case: Case) -> None:
        path = case.write("experts.json", data)
        scores = case.attempt("read", lambda: read_expert_scores(path, self.model))
        if scores is None:
            return
        drop = case.rng.choice(("25%", "3", "12"))
        cut = case.attempt("choose", lambda: expert_cut(self.model, scores, drop, Cut()))
        if cut is not None:
            case.attempt("plan", lambda: make_plan(self.model, cut))


class Colour(Enum):
    RED = "red"
    TWO = 2


def _read_even(number: object) -> int:
    if not isinstance(number, int) or number % 2:
        raise UsageError(f"{number} is odd")
    return number


@dataclass(frozen=True)
class Inner:
    """What is among the keys of another class."""

    a: float
    b: int | None = None


@dataclass(frozen=True)
class Everything:
    """One field of every kind that documents have."""

    name: str
    path: Path
    flag: bool
    count: Annotated[int, Key(name="deep.er.count")]
    share: float
    colour: Colour
    either: int | str
    pairs: tuple[tuple[int, int], ...]
    fixed: tuple[str, float]
    listed: list[Inner]
    by_name: dict[str, Inner]
    by_number: dict[float, int]
    grid: Annotated[Float64, "rows"]
    inner: Annotated[Inner, INLINE]
    cut: Cut
    even: Annotated[int, Key(read=_read_even)] = 2
    maybe: Annotated[Inner | None, Key(optional=True)] = None
    hidden: Annotated[int, LEFT_OUT] = 7


class CodecTarget:
    """Whatever a document says, what was read is written as what it is."""

    def __init__(self) -> None:
        inner = Inner(0.5, 3)
        seed = Everything(
            name="x", path=Path("a/b"), flag=True, count=3, share=0.25, colour=Colour.RED,
            either="a", pairs=((1, 2), (3, 4)), fixed=("a", 1.5), listed=[inner],
            by_name={"k": inner}, by_number={1.5: 2}, grid=np.eye(2), inner=inner,
            cut=Cut.of((1, 2)), maybe=inner,
        )  # fmt: skip
        self.mutator = JsonMutator([as_json(seed)])

    def make(self, rng: Random) -> bytes:
        return self.mutator.make(rng)

    def run(self, data: bytes, case: Case) -> None:
        path = case.write("document.json", data)
        read = case.attempt("read", lambda: read_document(path, Everything, "everything"))
        if read is None:
            return
        written = to_text(read)
        path.write_bytes(written.encode("utf-8"))
        again = case.attempt("read again", lambda: read_document(path, Everything, "everything"))
        if again is None or encode(again) != encode(read):
            raise EscapeError("a document changes when it is written and read", written)
