"""A refit is nearer to the original than the best closed form that others have."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import ArchitectureError
from ggprune.healing.matrix import read_stored
from ggprune.metrics.text import read_text
from ggprune.model.gguf import Tensor
from ggprune.model.model import Model, open_model
from tests.conftest import CALIBRATION, EVALUATION
from tests.helpers import ONE_GRAPH

BENCHMARKS = Path(__file__).parent.parent.parent / "benchmarks"
DROP = (2, 3, 5)


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """They import each other by their bare names."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


def test_refit_beats_replaceme(tiny: Model, tmp_path: Path) -> None:
    from heal import Case, kld_of, measure, peers, refit, unhealed

    case = Case(
        base=tiny, drop=DROP, text=read_text(CALIBRATION), evaluation=read_text(EVALUATION),
        compute=ONE_GRAPH,
    )  # fmt: skip
    (peer,) = peers(case, None, tmp_path)
    ours = refit(case, None, tmp_path)
    assert ours.n_fitted == peer.n_fitted
    nothing, theirs, healed = map(kld_of, measure(case, [unhealed(case, tmp_path), peer, ours]))
    assert theirs < nothing
    assert healed < theirs
    assert healed <= 0.5 * nothing


def test_replaceme_changes_the_matrices_in_front_of_the_cuts(tiny: Model, tmp_path: Path) -> None:
    from replaceme import Task, replace_cuts

    task = Task(
        base=tiny, drop=DROP, text=read_text(CALIBRATION), compute=ONE_GRAPH, n_chunk=8,
        ridges=(0.01,),
    )  # fmt: skip
    done, (own, other) = replace_cuts(task, [None, "Q8_0"], tmp_path / "out.gguf")
    assert [v.ridge for v in done.variants] == [0.01, 0.01]
    found, quantized = open_model(own), open_model(other)
    kept = {0: 0, 1: 1, 4: 2, 6: 3, 7: 4, 8: 5}
    for old, new in kept.items():
        name = f"blk.{old}.ffn_down.weight"
        before, after = tiny.by_name[name], found.by_name[f"blk.{new}.ffn_down.weight"]
        assert (_bytes(before) != _bytes(after)) == (old in (1, 4))
        stored = quantized.by_name[after.name]
        assert stored.type.name == ("Q8_0" if old in (1, 4) else before.type.name)
        merged = read_stored(after).matrix
        assert np.allclose(read_stored(stored).matrix, merged, atol=np.abs(merged).max() / 64)


def test_replaceme_needs_a_layer_in_front(tiny: Model, tmp_path: Path) -> None:
    from replaceme import Task, replace_cuts

    task = Task(base=tiny, drop=(0,), text=read_text(CALIBRATION), compute=ONE_GRAPH, n_chunk=8)
    with pytest.raises(ArchitectureError, match="no layer in front"):
        replace_cuts(task, [None], tmp_path / "out.gguf")


def _bytes(tensor: Tensor) -> bytes:
    return np.fromfile(tensor.path, np.uint8, tensor.size_bytes, offset=tensor.offset).tobytes()
