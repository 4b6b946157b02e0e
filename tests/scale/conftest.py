"""What one process measures: all others must say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from ggprune.model.model import open_model
from ggprune.pipeline.job import Job, write
from ggprune.quantize.options import QuantizeOptions
from ggprune.scoring.ranking import Ranking
from tests.conftest import TINY
from tests.scale import jobs
from tests.scale.site import numbers_of


@pytest.fixture(scope="session")
def quantized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("quantized") / "tiny-Q4_K_M.gguf"
    write(Job(model=open_model(TINY), out=out, quantize=QuantizeOptions(type="Q4_K_M")))
    return out


@pytest.fixture(scope="session")
def ranked() -> Ranking:
    return jobs.all_layers(None)


@pytest.fixture(scope="session")
def alone(ranked: Ranking, quantized: Path) -> dict[str, Any]:
    """Numbers of every job."""
    return {
        "rank": numbers_of(ranked),
        "race": numbers_of(jobs.race(None)),
        "choose": numbers_of(jobs.choose(ranked, None)),
        "eval": numbers_of(jobs.evaluate(quantized, None)),
    }
