"""`auto` with training: rows of all stages, and rounds that rank what was trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggprune.errors import UsageError
from ggprune.model.cut import Cut
from ggprune.model.model import open_model
from ggprune.pipeline.lineage import kept_layers
from ggprune.pipeline.recovery import shares
from tests.cli.test_cli import ggprune, succeed
from tests.conftest import CALIBRATION, EVALUATION, TINY
from tests.torch.test_cli import assert_line

ARGS = ("-f", CALIBRATION, "--eval-file", EVALUATION, "--chunks", "4", "-t", "1", "-p", "16",
        "-n", "4", "-r", "1")  # fmt: skip
TRAIN = ("--heal", "--train", "--tokens", "6k", "--lr", "2e-3")


def test_rounds_drop_heal_and_rank_again(tmp_path: Path) -> None:
    out, report = tmp_path / "out.gguf", tmp_path / "report.json"
    text = succeed("auto", TINY, out, "--drop", "3", "--rounds", "2", *TRAIN, *ARGS,
                   "--strategy", "oneshot", "--report", report, "--seeds", "2")  # fmt: skip
    assert "Training: KLD " in text and "tg speed-up" in text
    document = json.loads(report.read_text())
    names = [row["name"] for row in document["rows"]]
    assert names[0] == "base" and "round 1, trained" in names
    assert names[-3:] == [
        "3 layers pruned",
        "3 layers pruned, healed",
        "3 layers pruned, healed, trained",
    ]
    klds = [row["kld"]["mean"]["value"] if "mean" in (row["kld"] or {}) else row["kld"]["value"]
            for row in document["rows"][-3:]]  # fmt: skip
    assert klds[0] > klds[1] > klds[2]
    layers = [row["n_layer"] for row in document["rounds"]]
    assert layers == [9, 7, 6]
    assert [len(row["seed_ppls"]) for row in document["rounds"]] == [0, 2, 2]
    assert document["rounds"][0]["ppl_ratio"] == 1.0
    dropped = document["plan"]["drop"]
    kept = kept_layers(open_model(TINY), open_model(out))  # by way of the first round
    assert len(dropped) == 3 and kept == Cut.of(dropped).remaining(9)
    assert not list(tmp_path.glob(".ggprune*"))


def test_mistakes_are_one_line(tmp_path: Path) -> None:
    auto = ("auto", TINY, tmp_path / "out.gguf", "--drop", "2", *ARGS)
    assert_line(ggprune(*auto, "--train"), "add --heal", 2)
    assert_line(ggprune(*auto, "--rounds", "2"), "--rounds ranks what is repaired: add --heal", 2)
    assert_line(ggprune(*auto, "--lora", "8"), "add --train", 2)
    assert_line(ggprune(*auto, *TRAIN, "--rounds", "3"), "there are 2 layers to drop", 2)
    speedup = ("auto", TINY, tmp_path / "out.gguf", "--target-speedup", "1.2", *ARGS)
    assert_line(ggprune(*speedup, *TRAIN, "--rounds", "2"), "takes a number of layers", 2)


def test_shares_of_rounds() -> None:
    assert shares(5, 2) == (3, 2) and shares(4, 2) == (2, 2) and shares(3, 3) == (1, 1, 1)
    with pytest.raises(UsageError):
        shares(2, 3)
