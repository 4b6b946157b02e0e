"""On every architecture we accept: the file without layers computes what the memory predicts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.arch import architecture_of
from ggprune.arch.architecture import supported_architectures
from ggprune.model import open_model
from ggprune.runtime.taps import ablation_taps
from tests.conftest import FIXTURES
from tests.helpers import logits_of, pruned_copy, random_tokens
from tests.random_models import make_random_model

N_TOKEN = 192
METADATA = sorted((FIXTURES / "arch").glob("*.gguf"))
SETS = ((3, 6), (0,), (11,), (1, 2, 5, 11))


def test_all_fixtures_are_of_accepted_architectures() -> None:
    assert {path.stem for path in METADATA} <= set(supported_architectures())
    assert len(METADATA) >= 30


@pytest.mark.parametrize("metadata", METADATA, ids=lambda path: path.stem)
def test_file_equals_memory(metadata: Path, tmp_path: Path) -> None:
    source = make_random_model(metadata, tmp_path / "in.gguf")
    model = open_model(source)
    arch = architecture_of(model)
    tokens = random_tokens(128, N_TOKEN)
    base = logits_of(source, tokens, N_TOKEN // 2)
    for drop in SETS:
        predicted = logits_of(source, tokens, N_TOKEN // 2, ablation_taps(arch, drop))
        pruned = pruned_copy(model, drop, tmp_path / f"{len(drop)}-{drop[0]}.gguf")
        written = logits_of(pruned.path, tokens, N_TOKEN // 2)
        assert np.array_equal(predicted, written), drop
        assert not np.array_equal(base, written), drop
