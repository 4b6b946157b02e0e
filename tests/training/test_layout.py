"""Where a parameter lies in the file, found by its values."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from ggprune.metrics.estimates import Float32
from ggprune.model.gguf import Tensor
from ggprune.model.model import Model, open_model
from ggprune.training.layout import Layout, Parameter, find_layouts
from tests.conftest import FIXTURES

SHAPES = {"q": (8, 6), "k": (8, 6), "wide": (10, 6), "norm": (6,), "same_a": (4, 6)}


@pytest.fixture
def values() -> dict[str, Float32]:
    rng = np.random.default_rng(0)
    return {
        f"blk.{n}.{name}.weight": rng.normal(size=shape).astype(np.float32)
        for n in range(3) for name, shape in SHAPES.items()
    }  # fmt: skip


def model_of(values: dict[str, Float32]) -> tuple[Model, Callable[[Tensor], Float32]]:
    """A model that has just these tensors."""
    tiny = open_model(FIXTURES / "tiny.gguf")
    donor = tiny.tensors[0]
    tensors = tuple(
        Tensor(name=name, type=donor.type, shape=array.shape[::-1], path=Path(), offset=0,
               size_bytes=array.nbytes)
        for name, array in values.items()
    )  # fmt: skip
    fake = object.__new__(Model)
    object.__setattr__(fake, "tensors", tensors)
    return fake, lambda tensor: values[tensor.name]


def found(
    values: dict[str, Float32], name: str, change: Callable[[Float32], Float32]
) -> Layout | None:
    model, read = model_of(values)
    parameters = []
    for n in range(3):
        array = change(values[f"blk.{n}.{name}.weight"])
        parameters.append(Parameter("layers.{}.x", n, array.shape, partial(np.asarray, array)))
    return find_layouts(parameters, model, read)["layers.{}.x"]


ORDER = np.array([3, 1, 0, 2, 7, 5, 4, 6])


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("q", lambda a: a),
        ("q", lambda a: a[ORDER]),
        ("wide", lambda a: a.T),
        ("norm", lambda a: a - 1),
        ("wide", lambda a: (a * 1.002).astype(np.float32)),  # as rounding to bf16 does
    ],
)
def test_layouts_are_found_and_undone(
    values: dict[str, Float32], name: str, change: Callable[[Float32], Float32]
) -> None:
    layout = found(values, name, change)
    assert layout is not None and layout.name(2) == f"blk.2.{name}.weight"
    own = values[f"blk.1.{name}.weight"]
    assert np.allclose(layout.to_torch(own), change(own), rtol=1e-2)
    assert np.allclose(layout.to_gguf(layout.to_torch(own)), own, atol=1e-6)


def test_other_values_are_found_nowhere(values: dict[str, Float32]) -> None:
    assert found(values, "q", lambda a: a * 1.1) is None
    assert found(values, "q", lambda a: np.concatenate([a, a])) is None


def test_two_tensors_with_the_same_values_are_none(values: dict[str, Float32]) -> None:
    for n in range(3):
        values[f"blk.{n}.k.weight"] = values[f"blk.{n}.q.weight"]
    assert found(values, "q", lambda a: a) is None


def test_one_layer_that_is_otherwise_settles_it(values: dict[str, Float32]) -> None:
    for n in (0, 1):  # two layers of zeros look alike
        values[f"blk.{n}.k.weight"] = np.zeros_like(values[f"blk.{n}.k.weight"])
        values[f"blk.{n}.q.weight"] = np.zeros_like(values[f"blk.{n}.q.weight"])
    layout = found(values, "q", lambda a: a[ORDER])
    assert layout is not None and layout.rows is not None
    own = values["blk.2.q.weight"]
    assert np.array_equal(layout.to_torch(own), own[ORDER])


def test_adapters_follow_the_order_of_rows(values: dict[str, Float32]) -> None:
    layout = found(values, "q", lambda a: a[ORDER])
    assert layout is not None
    rng = np.random.default_rng(1)
    b, a = rng.normal(size=(8, 2)).astype(np.float32), rng.normal(size=(2, 6)).astype(np.float32)
    own = values["blk.0.q.weight"]
    whole = layout.to_gguf(layout.to_torch(own) + b @ a)
    assert np.allclose(whole, own + layout.ordered(b) @ a, atol=1e-6)
