"""`ggprune experts`, and dropping experts, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggprune.model.model import open_model
from tests.cli.test_cli import ggprune, succeed
from tests.conftest import CALIBRATION, TINY, TINY_MOE
from tests.helpers import without_progress

SHORT = ("-f", CALIBRATION, "-c", "128", "--chunks", "2", "-t", "1")


def test_from_scores_to_a_file(tmp_path: Path) -> None:
    scores, out = tmp_path / "experts.json", tmp_path / "out.gguf"
    done = succeed("experts", TINY_MOE, *SHORT, "--drop-experts", "25%", "--exact", "1",
                   "-o", scores)  # fmt: skip
    assert "16 experts in each of 4 layers of llama, 4 for every token" in done
    assert "without 4 of 16 experts of every layer" in done
    document = json.loads(scores.read_text())
    assert [s["by"] for s in document["sets"]] == ["reap", "frequency", "gate"]
    assert sum(value is not None for value in document["layers"][0]["kld"]) == 1
    told = succeed("--drop-experts", "25%", "--expert-scores", scores, "--prune-layers", "2",
                   TINY_MOE, out)  # fmt: skip
    assert "drop     2 and 4 experts of each of 3 layers" in told
    model = open_model(out)
    assert model.metadata["llama.expert_count"].decode() == 12
    assert model.n_layer == 3
    dropped = [piece for piece in document["sets"][0]["drop"] if not piece.startswith("2e")]
    said = model.metadata["ggprune.dropped_units"].decode()
    assert said == ",".join(["2", *dropped])
    plan = tmp_path / "plan.json"
    succeed("prune", "--drop-experts", "4", "--expert-scores", scores, TINY_MOE,
            tmp_path / "other.gguf", "--save-plan", plan, "--dry-run")  # fmt: skip
    succeed("--plan", plan, TINY_MOE, tmp_path / "planned.gguf")
    assert open_model(tmp_path / "planned.gguf").metadata["llama.expert_count"].decode() == 12


def test_without_scores_they_are_found_first(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = succeed("prune", "--drop-experts", "8", TINY_MOE, out)
    assert "note     llama.cpp's K-quants treat models of exactly 8 experts" in done
    assert open_model(out).metadata["llama.expert_count"].decode() == 8


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("experts", TINY, *SHORT), "no experts of it can be dropped: it has no experts"),
        (("experts", TINY_MOE, *SHORT, "--by", "luck"), "--by luck: one of reap, frequency"),
        (("experts", TINY_MOE, *SHORT, "--drop-experts", "13"), "so that 1 to 12 can leave"),
        (("experts", TINY_MOE, *SHORT, "--by", "kld", "--drop-experts", "4"),
         "so that it needs --exact 16"),
        (("prune", "--drop-experts", "x", TINY_MOE, "OUT"), "--drop-experts x: write a number"),
        (("prune", "--expert-scores", "e.json", "--prune-layers", "1", TINY_MOE, "OUT"),
         "--expert-scores goes with --drop-experts"),
        (("prune", "--plan", "p.json", "--drop-experts", "4", TINY_MOE, "OUT"),
         "--drop-experts and --replace do not go with it"),
        (("prune", "--drop-experts", "4", TINY, "OUT"), "it has no experts"),
        (("prune", "--prune-layers", "1e0+1", TINY_MOE, "OUT"),
         "layer 0 would keep 16 experts and layer 1 14"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(
    tmp_path: Path, arguments: tuple[str | Path, ...], said: str
) -> None:
    out = tmp_path / "out.gguf"
    done = ggprune(*(out if argument == "OUT" else argument for argument in arguments))
    assert done.returncode in (1, 2)
    lines = without_progress(done.stderr).splitlines()
    assert len(lines) == 1 and said in lines[0], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_output_that_is_there_is_refused_before_measuring(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_bytes(b"mine")
    done = ggprune("prune", "--drop-experts", "8", TINY_MOE, out)
    assert done.returncode != 0 and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("ggprune: error: ")
    assert out.read_bytes() == b"mine"
