from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from ggprune.errors import DataError
from ggprune.model.imatrix import Imatrix, LegacyEntry, read_imatrix
from ggprune.model.model import Model, open_model
from ggprune.scoring.activations import LayerActivations, activation_statistics
from tests.gguf_files import FakeTensor, build, kv_u32, llama_kvs

Sums = Mapping[str, tuple[Sequence[float], Sequence[float]]]  # name -> sums, counts

SHAPES = {"attn_q": (2, 3), "ffn_up": (2, 4), "ffn_down": (4, 2)}


def model_of(
    folder: Path, n_layer: int, shapes: Mapping[str, tuple[int, ...]], *, n_mtp: int = 0
) -> Model:
    path = folder / "model.gguf"
    tensors = [
        FakeTensor(f"blk.{i}.{part}.weight", bytes(4 * math.prod(shape)), shape)
        for i in range(n_layer)
        for part, shape in shapes.items()
    ]
    path.write_bytes(
        build([*llama_kvs(n_layer), kv_u32("llama.nextn_predict_layers", n_mtp)], tensors)
    )
    return open_model(path)


def gguf_imatrix(folder: Path, entries: Sums) -> Imatrix:
    path, tensors = folder / "imatrix.gguf", []
    for name, (sums, counts) in entries.items():
        for suffix, values in ((".in_sum2", sums), (".counts", counts)):
            data = struct.pack(f"<{len(values)}f", *values)
            shape = (len(values) // len(counts), len(counts))
            tensors.append(FakeTensor(f"blk.{name}.weight{suffix}", data, shape))
    path.write_bytes(build([], tensors))
    return read_imatrix(path)


def legacy_imatrix(folder: Path, entries: Sums) -> Imatrix:
    path = folder / "imatrix.dat"
    raw = struct.pack("<i", len(entries))
    for name, (sums, counts) in entries.items():
        values = np.array(sums, np.float32)
        raw += LegacyEntry(f"blk.{name}.weight", int(counts[0]), values).to_bytes()
    path.write_bytes(raw)
    return read_imatrix(path)


TWO_LAYERS: Sums = {
    "0.ffn_up": ((30, 40), (10,)),
    "0.ffn_down": ((10, 0, 0, 0), (10,)),
    "1.ffn_up": ((80, 60), (20,)),
    "1.ffn_down": ((0, 20, 0, 0), (20,)),
}


@pytest.mark.parametrize("make", [gguf_imatrix, legacy_imatrix])
def test_a_case_computed_by_hand(tmp_path: Path, make: Callable[[Path, Sums], Imatrix]) -> None:
    """Weights 2 and 4; energies 7 and 1 in both layers; cosines 0.96 and 0."""
    imatrix = make(tmp_path, TWO_LAYERS)
    first, second = activation_statistics(imatrix, model_of(tmp_path, 2, SHAPES))
    assert [first.energy, second.energy] == pytest.approx([(2 * 7 + 4 * 1) / 6] * 2)
    assert first.cosine is None
    assert second.cosine == pytest.approx(2 * 0.96 / 6)


def test_a_matrix_without_its_like_in_the_layer_before_has_no_say(tmp_path: Path) -> None:
    entries = {name: e for name, e in TWO_LAYERS.items() if name != "0.ffn_down"}
    entries["2.attn_q"] = ((1, 1), (1,))
    entries["3.attn_q"] = ((0, 0), (1,))
    found = activation_statistics(gguf_imatrix(tmp_path, entries), model_of(tmp_path, 4, SHAPES))
    assert found[1].cosine == pytest.approx(0.96)
    assert [found[n].cosine for n in (0, 2, 3)] == [None] * 3  # the last has no direction
    assert [found[n].energy for n in (2, 3)] == [2, 0]


def test_another_layers_matrix_of_another_size_is_not_its_like(tmp_path: Path) -> None:
    path = tmp_path / "uneven.gguf"
    names = {"blk.0.ffn_down.weight": (4, 2), "blk.1.ffn_down.weight": (2, 2)}
    tensors = [FakeTensor(name, bytes(4 * math.prod(s)), s) for name, s in names.items()]
    path.write_bytes(build(llama_kvs(2), tensors))
    imatrix = gguf_imatrix(
        tmp_path, {"0.ffn_down": ((1, 2, 3, 4), (1,)), "1.ffn_down": ((5, 6), (1,))}
    )
    found = activation_statistics(imatrix, open_model(path))
    assert found == (LayerActivations(10, None), LayerActivations(11, None))


def test_experts_that_were_never_chosen_are_left_out(tmp_path: Path) -> None:
    """Three experts of two inputs, one without tokens, beside a dense matrix of two inputs."""
    shapes = {"ffn_up_exps": (2, 4, 3), "ffn_gate_inp": (2, 3)}
    imatrix = gguf_imatrix(
        tmp_path,
        {
            "0.ffn_up_exps": ((2, 4, 0, 0, 9, 3), (2, 0, 3)),
            "0.ffn_gate_inp": ((5, 5), (5,)),
            "1.ffn_up_exps": ((2, 4, 0, 0, 9, 3), (4, 0, 6)),
            "1.ffn_gate_inp": ((0, 5), (5,)),
        },
    )
    first, second = activation_statistics(imatrix, model_of(tmp_path, 2, shapes))
    assert first.energy == pytest.approx((4 * (1 + 2 + 3 + 1) + 2 * 2) / 6)
    assert second.energy == pytest.approx((4 * 3.5 + 2 * 1) / 6)
    assert second.cosine == pytest.approx((4 * 1 + 2 * math.sqrt(0.5)) / 6)


def test_blocks_behind_the_trunk_are_left_out(tmp_path: Path) -> None:
    model = model_of(tmp_path, 2, SHAPES, n_mtp=1)
    found = activation_statistics(gguf_imatrix(tmp_path, TWO_LAYERS), model)
    assert len(found) == 1


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (
            {"0.ffn_up": ((1, 2, 3), (1,))},
            "blk.0.ffn_up.weight has 3 values and 1 counts",
        ),
        ({"0.ffn_up": ((1, np.nan), (1,))}, "blk.0.ffn_up.weight.in_sum2 has nan among its values"),
        ({"0.ffn_x": ((1, 2), (1,))}, "no entry is of a matrix in the layers of"),
        ({"0.ffn_up": ((1, 2), (0,))}, "no entry is of a matrix in the layers of"),
        ({"0.ffn_up": ((1, 2), (1,))}, "layer 1 has matrices, but no entry for any of them"),
        ({"2.ffn_up": ((1, 2), (1,))}, "of another model, .*ggprune remap"),
    ],
)
def test_an_imatrix_that_does_not_fit_is_an_error(
    tmp_path: Path, entries: Sums, message: str
) -> None:
    with pytest.raises(DataError, match=message):
        activation_statistics(gguf_imatrix(tmp_path, entries), model_of(tmp_path, 2, SHAPES))


def test_counts_follow_renamed_entries(tmp_path: Path) -> None:
    imatrix = gguf_imatrix(tmp_path, TWO_LAYERS)
    renamed = imatrix.renamed({"blk.1.ffn_up.weight": "blk.0.ffn_up.weight"})
    assert {name: x.tolist() for name, x in renamed.counts.items()} == {
        "blk.0.ffn_up.weight": [20.0]
    }
