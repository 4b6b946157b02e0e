"""Chunks in memory, of which as many are kept as there is room for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ggprune.files.documents import to_text
from ggprune.metrics.text import read_text
from ggprune.model.cut import Cut
from ggprune.model.model import Model
from ggprune.report.blocks import Text
from ggprune.report.ranking import blocks
from ggprune.runtime.compute import Compute
from ggprune.runtime.workers import KindInfo, WorkerInfo
from ggprune.scoring.measure import MeasuredRows, MeasureOptions
from ggprune.scoring.ranking import Ranking, read_ranking
from tests.conftest import CALIBRATION
from tests.scoring.ranked import ranked


@pytest.mark.parametrize(("keep_bytes", "n_pass"), [(0, 3 * 2 + 3 * 2), (1 << 30, 3 + 3 * 2)])
def test_a_chunk_that_is_kept_is_not_computed_again(
    tiny: Model, keep_bytes: int, n_pass: int
) -> None:
    options = MeasureOptions(
        n_ctx=64, n_chunk=3, compute=Compute(n_threads=1), keep_bytes=keep_bytes
    )
    cuts = [Cut.of((2,)), Cut.of((2, 5))]
    with MeasuredRows(tiny, read_text(CALIBRATION), options) as source:
        first = [next(source.rows(i, cuts[:1])).kld for i in range(3)]
        second = [next(source.rows(i, cuts[1:])).kld for i in range(3)]
        assert source.effort.n_pass == n_pass
    with MeasuredRows(tiny, read_text(CALIBRATION), options) as source:
        for i in range(3):
            rows = list(source.rows(i, cuts))
            assert np.array_equal(rows[0].kld, first[i])
            assert np.array_equal(rows[1].kld, second[i])


def test_who_measured_is_written_and_told(tiny: Model, tmp_path: Path) -> None:
    from dataclasses import replace

    workers = tuple(
        WorkerInfo(host=host, device="H100", backend="CUDA", build="0c1e570", bits="ab",
                   n_pass=3, n_chunk=1, load_s=0.5)
        for host in ("a", "a", "b")
    )  # fmt: skip
    kinds = (
        KindInfo(device="CUDA (H100)", bits="ab", chunks="0-63", kld=0.0),
        KindInfo(device="CUDA (A100)", bits="cd", chunks="64-127", kld=3e-4),
    )
    plain: Ranking = ranked(tiny, read_text(CALIBRATION), n_ctx=64, n_chunk=2)
    ranking = replace(plain, workers=workers, kinds=kinds)
    file = tmp_path / "scores.json"
    file.write_text(to_text(ranking))
    again = read_ranking(file)
    assert (again.workers, again.kinds) == (workers, kinds)
    document = json.loads(to_text(plain))
    assert "workers" not in document
    assert "n_wasted" not in document["effort"]
    told = [line for block in blocks(ranking) if isinstance(block, Text) for line in block.lines]
    assert "Measured by 2 x H100 (CUDA) of a, H100 (CUDA) of b." in told
    assert (
        "Chunks 0-63 on CUDA (H100), 64-127 on CUDA (A100); they differ by a KLD of 0.0003; every "
        "comparison is within one of them." in told
    )
