from __future__ import annotations

from pathlib import Path

import pytest

from ggprune.arch.footprint import footprints_of
from ggprune.errors import ArchitectureError, UsageError
from ggprune.metrics.estimates import Estimate
from ggprune.model.model import Model, open_model
from ggprune.scoring.target import Goal, Limits, Target, parse_amount, sizes_to_try
from tests.hostile.models import made


@pytest.mark.parametrize(
    ("text", "amount"),
    [("4.2G", 4_200_000_000), ("4.2GB", 4_200_000_000), ("1GiB", 1 << 30), ("900M", 900_000_000),
     ("512k", 512_000), ("1234", 1234), ("0.5 KiB", 512)],
)  # fmt: skip
def test_amounts(text: str, amount: int) -> None:
    assert parse_amount(text, Goal.SIZE) == amount


def test_a_b_is_a_byte_or_a_billion() -> None:
    assert parse_amount("6.5B", Goal.PARAMS) == 6_500_000_000
    assert parse_amount("500B", Goal.SIZE) == 500


@pytest.mark.parametrize(
    "text", ["", "G", "-1G", "4X", "0", "1e9", "4 G B", "9" * 400, f"{'9' * 400}G", "2000000T"]
)
def test_wrong_amounts(text: str) -> None:
    with pytest.raises(UsageError, match="--target-size"):
        parse_amount(text, Goal.SIZE)


def test_numbers_of_layers(tiny: Model) -> None:
    assert Target(Goal.LAYERS, 3).n_drop(tiny) == 3
    assert Target(Goal.PERCENT, 25).n_drop(tiny) == 2  # 2.25 of 9
    assert Target(Goal.PERCENT, 50).n_drop(tiny) == 5  # 4.5
    assert Target(Goal.PERCENT, 1).n_drop(tiny) == 1
    assert Target(Goal.SPEEDUP, 1.2).n_drop(tiny) is None
    for target in (Target(Goal.LAYERS, 9), Target(Goal.PERCENT, 99)):
        with pytest.raises(UsageError, match="1 to 8 can be dropped"):
            target.n_drop(tiny)


def test_a_model_that_can_lose_no_layer_is_named(tmp_path: Path) -> None:
    model = open_model(made("all layers but one MTP", tmp_path))
    with pytest.raises(ArchitectureError, match=r"MTP\.gguf: has 1 layers that are not MTP blocks"):
        Target(Goal.LAYERS, 1).n_drop(model)


def test_fewest_first(tiny: Model) -> None:
    footprints = footprints_of(tiny)
    layer = tiny.size_bytes - footprints.without((4,)).size_bytes
    assert sizes_to_try(tiny, Target(Goal.SIZE, tiny.size_bytes - layer), 8) == range(1, 9)
    assert sizes_to_try(tiny, Target(Goal.SIZE, tiny.size_bytes - layer - 1), 8) == range(2, 9)
    assert sizes_to_try(tiny, None, 5) == range(1, 6)
    assert sizes_to_try(tiny, Target(Goal.LAYERS, 4), 8) == range(4, 5)
    with pytest.raises(UsageError, match="not reached with 2 of 9"):
        sizes_to_try(tiny, Target(Goal.SPEEDUP, 5), 2)


def test_limits() -> None:
    kld, ratio = Estimate(0.2, 0.01, 100), Estimate(1.3, 0.01, 100)
    assert not Limits()
    assert Limits(kld=0.3, ppl_ratio=1.4).exceeded(kld, ratio) is None
    assert Limits(kld=0.1).exceeded(kld, ratio) == "KLD 0.2, more than --max-kld 0.1"
    assert "1.3x the PPL" in str(Limits(ppl_ratio=1.2).exceeded(kld, ratio))
