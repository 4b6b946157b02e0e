"""On every architecture: exact, or refused before writing. Never silently wrong.

Random-weight models of 12 layers, longer texts than their sliding windows; the file without layers
must compute bit for bit what leaving the layers out in memory predicts. `make test-archs` prints
the table, with llama-quantize's column beside it if that is on PATH.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.arch import architecture_of, legal_drop, nearest_legal, removal_metadata
from ggprune.errors import ArchitectureError
from ggprune.model import Model, open_model
from ggprune.model.metadata import Value
from ggprune.runtime.taps import ablation_taps
from ggprune.surgery import layout, make_plan
from tests.conftest import FIXTURES
from tests.helpers import logits_of, pruned_copy, random_tokens
from tests.random_models import make_random_model

N_TOKEN = 192
METADATA = sorted((FIXTURES / "arch").glob("*.gguf"))
# One early layer, two apart, a run, a period of four, the last, the first, a scattered set.
SETS = ((3,), (3, 6), (4, 5, 6), (4, 5, 6, 7), (11,), (0,), (1, 2, 5, 11))
REFUSED = {"baichuan", "glm5-next", "hrm_text", "minicpm3", "nanbeige", "qwen4exp"}


def accepted(model: Model) -> bool:
    try:
        architecture_of(model)
    except ArchitectureError:
        return False
    return True


def test_the_architectures_that_are_refused_are_known() -> None:
    assert {p.stem for p in METADATA if not accepted(open_model(p))} == REFUSED
    assert len(METADATA) == 65


@pytest.mark.parametrize(
    "metadata", [p for p in METADATA if p.stem not in REFUSED], ids=lambda path: path.stem
)
def test_exact_or_refused(metadata: Path, tmp_path: Path) -> None:
    model = open_model(make_random_model(metadata, tmp_path / "in.gguf"))
    arch, tokens = architecture_of(model), random_tokens(128, N_TOKEN)
    base = logits_of(model.path, tokens, N_TOKEN // 2)
    n_exact = 0
    for drop in SETS:
        if not legal_drop(model, drop):
            with pytest.raises(ArchitectureError, match=r"not exact for .*llama\.cpp src/models"):
                make_plan(model, drop)
            assert all(legal_drop(model, near) for near in nearest_legal(model, drop))
            continue
        predicted = logits_of(model.path, tokens, N_TOKEN // 2, ablation_taps(arch, drop))
        out = tmp_path / f"{'-'.join(map(str, drop))}.gguf"
        written = logits_of(pruned_copy(model, drop, out).path, tokens, N_TOKEN // 2)
        assert np.array_equal(predicted, written), drop
        assert not np.array_equal(base, written), drop
        out.unlink()
        n_exact += drop != (11,)  # the last layer alone is trivial
    assert n_exact >= 1


@pytest.mark.parametrize("name", ["gemma3", "cohere2moe", "olmo2", "mellum", "granite_swa"])
def test_a_pattern_that_is_not_shifted_would_be_noticed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is strong enough: with the window pattern left as it was, logits differ."""
    model = open_model(make_random_model(FIXTURES / "arch" / f"{name}.gguf", tmp_path / "in.gguf"))
    key = f"{model.arch}.attention.sliding_window_pattern"
    right = removal_metadata

    def stale(model: Model, keep: tuple[int, ...]) -> dict[str, Value]:
        return {k: v for k, v in right(model, keep).items() if k != key}

    tokens = random_tokens(128, N_TOKEN)
    taps = ablation_taps(architecture_of(model), (3,))
    predicted = logits_of(model.path, tokens, N_TOKEN // 2, taps)
    monkeypatch.setattr(layout, "removal_metadata", stale)
    wrong = pruned_copy(model, (3,), tmp_path / "wrong.gguf")
    assert not np.array_equal(predicted, logits_of(wrong.path, tokens, N_TOKEN // 2))
