"""A header alone is described, however deep the model says it is."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ggprune.errors import FormatError
from ggprune.model.model import open_model
from ggprune.report.blocks import terminal
from ggprune.report.model import blocks, describe
from tests.gguf_files import build, layer_tensors, llama_kvs


def test_a_file_of_3000_layers_is_described_in_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "deep.gguf"
    path.write_bytes(build(llama_kvs(3000), layer_tensors(3000)))
    start = time.process_time()
    described = describe(open_model(path))
    shown = terminal(blocks(described))
    assert time.process_time() - start < 5  # 10 s and more, where every layer looked at all others
    assert described.refused == "has 3000 layers, llama.cpp computes at most 512"
    assert len(described.layers) == 3000
    assert "2999" in shown


@pytest.mark.parametrize("n_layer", [512, 2**31 - 1])
def test_a_file_of_192_bytes_has_no_layers(tmp_path: Path, n_layer: int) -> None:
    path = tmp_path / "lying.gguf"
    path.write_bytes(build(llama_kvs(n_layer)))
    assert path.stat().st_size < 192
    start = time.process_time()
    with pytest.raises(FormatError, match=f"block_count = {n_layer}, but there are 0 tensors"):
        describe(open_model(path))
    assert time.process_time() - start < 5
