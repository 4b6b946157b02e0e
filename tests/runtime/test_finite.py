"""A model with a value that is not finite is named, and so is the value."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import LlamaError, NonFiniteError
from ggprune.evaluation.perplexity import evaluate
from ggprune.metrics.text import read_text
from ggprune.model.model import Model, open_model
from ggprune.runtime.compute import Compute
from ggprune.runtime.finite import naming
from tests.conftest import CALIBRATION, TINY
from tests.gguf_files import FakeTensor, build, kv, kv_str
from tests.scoring.ranked import ranked

ONE = Compute(n_threads=1)


@pytest.fixture
def spoiled(tmp_path: Path, tiny: Model) -> Path:
    """The trained model with one weight of layer 4 that is not a number."""
    tensor = tiny.by_name["blk.4.ffn_up.weight"]
    data = bytearray(TINY.read_bytes())
    data[tensor.offset + 200 : tensor.offset + 202] = struct.pack("<H", 0x7E00)  # F16
    path = tmp_path / "spoiled.gguf"
    path.write_bytes(data)
    return path


def test_the_model_and_the_tensor_are_named(spoiled: Path) -> None:
    text = read_text(CALIBRATION)
    jobs: tuple[Callable[[], object], ...] = (
        lambda: evaluate([TINY, spoiled], text, n_ctx=64, n_chunk=2, compute=ONE),
        lambda: evaluate([TINY], text, base=spoiled, n_ctx=64, n_chunk=2, compute=ONE),
        lambda: ranked(open_model(spoiled), text, n_ctx=64, n_chunk=2),
    )
    for job in jobs:
        with pytest.raises(LlamaError) as error:
            job()
        assert str(error.value) == (
            f"{spoiled}: its logits are not finite (NaN or infinity); blk.4.ffn_up.weight "
            "(layer 4) has weights that are not finite"
        )


def test_what_can_be_told_is_told(tmp_path: Path) -> None:
    path, arch = tmp_path / "m.gguf", kv_str("general.architecture", "llama")
    sound = FakeTensor("token_embd.weight", np.ones(8, "<f4").tobytes())
    whole = FakeTensor("numbers", bytes(32), type=26)  # I32
    for kvs, tensors, reason in (
        ([arch], [sound, whole], "all its weights are finite"),
        ([arch], [sound, FakeTensor("x", struct.pack("<8f", *7 * [0.0], np.inf))],
         "x has weights that are not finite"),
        ([arch, kv("llama.rope.freq_base", 6, struct.pack("<f", np.nan))], [sound],
         "llama.rope.freq_base is nan"),
        ([], [sound], "all its weights are finite"),
    ):  # fmt: skip
        path.write_bytes(build(kvs, tensors))
        with pytest.raises(NonFiniteError) as error, naming(path, " without layers 3"):
            raise NonFiniteError("odd")
        assert str(error.value) == f"{path} without layers 3: odd; {reason}"
    path.write_bytes(b"")
    with pytest.raises(NonFiniteError, match="odd; its weights cannot be looked at"), naming(path):
        raise NonFiniteError("odd")
