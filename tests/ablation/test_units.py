"""Attention and FFN, told apart in the graph of many architectures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ggprune.ablation.ablator import Ablator
from ggprune.ablation.taps import ablation_taps
from ggprune.ablation.units import Parts, parse_unit, parts_of
from ggprune.arch.architecture import architecture_of
from ggprune.errors import ArchitectureError, UsageError
from ggprune.model.model import Model
from ggprune.model.unit import Unit
from ggprune.runtime.session import LlamaModel, Session
from tests.arch.families import FAMILIES
from tests.helpers import ONE_GRAPH, logits_of, random_tokens

N_TOKEN, N_OUTPUT = 64, 32
# What the place between them is called, and the first layer that has one.
MIDDLES = {
    "llama": ("ffn_inp-", 0), "gemma2": ("sa_out-", 0), "phi3": ("node_", 0),
    "qwen3moe": ("ffn_inp-", 0), "gemma4": ("attn_out-", 1), "qwen3next": ("attn_residual-", 0),
    "rwkv7": ("ffn_inp-", 1), "deepseek2": ("ffn_inp-", 0), "lfm2": ("node_", 0),
}  # fmt: skip
UNDIVIDED = ("falcon", "mamba2", "nemotron_h", "gemma3n", "cohere2")


def make(name: str, folder: Path) -> Model:
    return next(f for f in FAMILIES if f.name == name).make(folder)


@pytest.mark.parametrize("name", MIDDLES)
def test_the_same_bits_for_part_of_the_work(name: str, tmp_path: Path) -> None:
    model = make(name, tmp_path)
    arch, tokens = architecture_of(model), random_tokens(128, N_TOKEN)
    middle, first = MIDDLES[name]
    with (
        LlamaModel(model.path, ONE_GRAPH) as loaded,
        Session(loaded, N_TOKEN, compute=ONE_GRAPH, tapped=True) as session,
    ):
        for unit in (Unit.ATTN, Unit.FFN):
            parts = parts_of(arch, unit, session, tokens[0], N_OUTPUT)
            assert list(parts.number) == list(range(first, arch.n_trunk))
            assert all(m.startswith(middle) for m in middle_names(parts, unit))
            ablator = Ablator(session, parts.places)
            _, stream = ablator.record(tokens[0], N_OUTPUT)
            for layers in ((first + 1,), (5,), (arch.n_trunk - 1,), (first + 1, 4, 5)):
                drop = [parts.number[n] for n in layers]
                found = ablator.without(tokens[0], N_OUTPUT, drop, stream).copy()
                session.tap(ablation_taps(parts.places, drop))
                assert np.array_equal(found, session.chunk_logits(tokens, N_OUTPUT)[0]), layers
            assert ablator.share_prefix


def middle_names(parts: Parts, unit: Unit) -> list[str]:
    offset = 1 if unit is Unit.ATTN else 0
    return [parts.places[part + offset][0][0] for part in parts.number.values()]


@pytest.mark.parametrize("name", UNDIVIDED)
def test_layers_that_are_one_piece(name: str, tmp_path: Path) -> None:
    """Attention and FFN side by side, or only one of them, or mixed with something else."""
    model = make(name, tmp_path)
    with (
        LlamaModel(model.path, ONE_GRAPH) as loaded,
        Session(loaded, N_TOKEN, compute=ONE_GRAPH, tapped=True) as session,
        pytest.raises(ArchitectureError, match="attention and then an FFN"),
    ):
        parts_of(architecture_of(model), Unit.FFN, session, random_tokens(128, N_TOKEN)[0], 1)


@pytest.mark.parametrize("name", ["tiny", "phi3", "gemma2", "qwen3moe", "lfm2"])
@pytest.mark.parametrize(("unit", "matrix"), [(Unit.ATTN, "attn_output"), (Unit.FFN, "ffn_down")])
def test_a_module_left_out_is_one_whose_last_matrix_is_zero(
    tiny: Model, tmp_path: Path, name: str, unit: Unit, matrix: str
) -> None:
    """In a file of its own, in unmodified llama.cpp: the same logits, bit for bit."""
    model = tiny if name == "tiny" else make(name, tmp_path)
    zero, layer = with_zeros(model, matrix, tmp_path / "zero.gguf")
    tokens = random_tokens(128, N_TOKEN)
    with (
        LlamaModel(model.path, ONE_GRAPH) as loaded,
        Session(loaded, N_TOKEN, compute=ONE_GRAPH, tapped=True) as session,
    ):
        parts = parts_of(architecture_of(model), unit, session, tokens[0], N_OUTPUT)
        ablator = Ablator(session, parts.places)
        base, stream = ablator.record(tokens[0], N_OUTPUT)
        base = base.copy()
        found = ablator.without(tokens[0], N_OUTPUT, (parts.number[layer],), stream).copy()
    assert not np.array_equal(found, base)
    assert np.array_equal(found, logits_of(zero, tokens, N_OUTPUT))


def with_zeros(model: Model, matrix: str, out: Path) -> tuple[Path, int]:
    """The model with a matrix of one of its middle layers set to zero, and that layer."""
    names = [f"blk.{n}.{matrix}{kind}.weight" for n in (3, 4, 5) for kind in ("", "_exps")]
    tensor = next(model.by_name[name] for name in names if name in model.by_name)
    data = bytearray(model.path.read_bytes())
    data[tensor.offset : tensor.offset + tensor.size_bytes] = bytes(tensor.size_bytes)
    out.write_bytes(data)
    layer = model.layer_of(tensor.name)
    assert layer is not None
    return out, layer


def test_units_have_names() -> None:
    assert parse_unit("attn") is Unit.ATTN
    with pytest.raises(UsageError, match="one of layer, attn, ffn"):
        parse_unit("head")
    with pytest.raises(UsageError, match="one of layer, attn, ffn"):
        parse_unit("experts")
