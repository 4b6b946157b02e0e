"""Healing as a user runs it: the commands, what they say, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggprune.model.model import open_model
from tests.cli.test_cli import ggprune, succeed
from tests.conftest import CALIBRATION, EVALUATION, TINY

FEW = ("-f", CALIBRATION, "--chunks", "12", "-t", "1")
DROP = ("--prune-layers", "2,3,5")


def test_heal_says_what_it_did_and_gained(tmp_path: Path) -> None:
    out = tmp_path / "healed.gguf"
    text = succeed("heal", *DROP, *FEW, TINY, out)
    assert "| layer | matrix      | type | ridge | error before |  after |" in text
    assert "left     1 matrix: nothing has been cut in front of it" in text
    assert "fitted to 5632 tokens of" in text
    assert "layers   9 -> 6" in text
    assert str(out.stat().st_size) in text
    refused = ggprune("heal", *DROP, *FEW, TINY, out)
    assert refused.returncode == 1
    assert "exists already; use --force" in refused.stderr
    document = json.loads(succeed("heal", *DROP, *FEW, TINY, out, "--force", "--json"))
    healing = document["healing"]
    assert healing["after"]["kld"]["value"] < healing["before"]["kld"]["value"]
    assert document["plan"]["drop"] == [2, 3, 5]
    assert {item["tensor"] for item in healing["refitted"]} > {"blk.4.ffn_down.weight"}


def test_a_dry_run_lists_matrices_with_reasons_and_needs(tmp_path: Path) -> None:
    out = tmp_path / "healed.gguf"
    text = succeed("heal", *DROP, *FEW, TINY, out, "--dry-run", "--refit", "ffn")
    assert "|     1 | attn_output | stays: nothing has been cut in front of it |" in text
    assert "|     4 | attn_output | stays: --refit ffn " in text
    assert "|     8 | ffn_down    | is fitted " in text
    assert "text     5632 tokens to fit matrices of up to 256 inputs" in text
    assert "MiB above the models" in text
    assert "would be" in text
    assert not out.exists()


def test_prune_heals_and_a_pruned_file_is_healed(tmp_path: Path) -> None:
    """By way of a file, by prune and by heal: the same bytes."""
    pruned, way, prune = (tmp_path / name for name in ("pruned.gguf", "way.gguf", "prune.gguf"))
    succeed(*DROP, TINY, pruned)
    succeed("heal", pruned, way, "--base", TINY, "-f", CALIBRATION, "-t", "1")
    text = succeed("prune", *DROP, "--heal", "-f", CALIBRATION, "-t", "1", TINY, prune)
    assert "KLD " in text
    assert way.read_bytes() == prune.read_bytes()
    assert pruned.stat().st_size <= way.stat().st_size


def test_a_type_is_fitted_through_or_made_last(tmp_path: Path) -> None:
    through, last = tmp_path / "through.gguf", tmp_path / "last.gguf"
    succeed("heal", *DROP, *FEW, TINY, through, "--type", "Q4_K_M")
    succeed("heal", *DROP, *FEW, TINY, last, "--type", "Q4_K_M", "--quantize-last")
    a, b = open_model(through), open_model(last)
    assert {t.name: t.type for t in a.tensors} == {t.name: t.type for t in b.tensors}
    assert a.fields.number("ggprune.heal.kld.after") != b.fields.number("ggprune.heal.kld.after")


def test_auto_shows_the_result_before_and_after_healing(tmp_path: Path) -> None:
    out, report = tmp_path / "out.gguf", tmp_path / "report.md"
    args = ("--drop", "2", "--heal", "-f", CALIBRATION, "--eval-file", EVALUATION, "--chunks", "4",
            "-p", "32", "-n", "8", "-r", "1", "-t", "1", "--report", report)  # fmt: skip
    document = json.loads(succeed("auto", TINY, out, *args, "--json"))
    names = [row["name"] for row in document["rows"]]
    assert names[-2:] == ["2 layers pruned", "2 layers pruned, healed"]
    before, after = (row["kld"]["value"] for row in document["rows"][-2:])
    assert after < before
    assert document["rows"][-1]["size_bytes"] == out.stat().st_size
    assert "## Healing" in report.read_text()


def test_a_set_is_chosen_by_what_it_costs_healed(tmp_path: Path) -> None:
    scores = tmp_path / "scores.json"
    text = succeed(
        "rank", TINY, "-f", CALIBRATION, "--chunks", "4", "--drop", "3", "--strategy", "healed",
        "-t", "1", "-o", scores,
    )  # fmt: skip
    assert "| healed" in text
    chosen = json.loads(scores.read_text())["chosen"]
    after = [trial["kld_after"]["value"] for trial in chosen["trials"]]
    assert len(after) >= 3
    assert after == sorted(after)
    assert chosen["drop"] == chosen["trials"][0]["drop"]
    assert all(t["kld_after"]["value"] < t["kld_before"]["value"] for t in chosen["trials"])
    assert f"chosen by healed: {chosen['drop'][0]}" in text
    out = tmp_path / "out.gguf"
    succeed("--scores", scores, TINY, out)
    assert open_model(out).fields.integers("ggprune.dropped_layers") == tuple(chosen["drop"])


MISTAKES = {
    "no layers": ((TINY,), 2, "say which layers: one of --prune-layers"),
    "layers twice": ((TINY, "--base", TINY, *DROP), 2, "are those that the pruned file names"),
    "not pruned": ((TINY, "--base", TINY), 1, "was not pruned by ggprune"),
    "layer 99": ((TINY, "--prune-layers", "99"), 2, "there is no layer 99"),
    "ridge": ((TINY, *DROP, "--ridge", "much"), 2, "write a number above 0, or auto"),
    "negative ridge": ((TINY, *DROP, "--ridge", "-1"), 2, "write a number above 0, or auto"),
    "refit": ((TINY, *DROP, "--refit", "all"), 2, "one of both, attn, ffn"),
    "type": ((TINY, *DROP, "--heal-type", "Q4_K_M"), 2, "is not a type of tensors"),
    "last": ((TINY, *DROP, "--quantize-last"), 2, "add --type"),
    "no text": ((TINY, *DROP, "-f", "missing.txt"), 1, "missing.txt"),
    "no model": (("missing.gguf", *DROP), 1, "missing.gguf: cannot be opened"),
    "rank alone": ((TINY, *DROP, "--rank", "8"), 2, "--lora"),
}  # fmt: skip


@pytest.mark.parametrize(("args", "code", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(
    args: tuple[object, ...], code: int, words: str, tmp_path: Path
) -> None:
    first, *rest = args
    done = ggprune("heal", first, tmp_path / "out.gguf", *rest, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (code, "")
    assert words in done.stderr
    assert done.stderr.startswith("ggprune: error: ")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_texts_for_healing_need_healing(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    done = ggprune("prune", *DROP, "-f", CALIBRATION, TINY, out)
    assert (done.returncode, "add --heal" in done.stderr) == (2, True)
    done = ggprune("auto", TINY, out, "--drop", "1", "--heal-file", CALIBRATION)
    assert (done.returncode, "add --heal" in done.stderr) == (2, True)


def test_a_folder_of_texts_is_one_text(tmp_path: Path) -> None:
    folder = tmp_path / "texts"
    folder.mkdir()
    whole = CALIBRATION.read_text()
    (folder / "a.txt").write_text(whole[:30000])
    (folder / "b.txt").write_text(whole[30000:])
    (folder / "c.md").write_text("not read")
    out = tmp_path / "out.gguf"
    text = succeed("heal", *DROP, "-f", folder, "-t", "1", TINY, out)
    assert f"{folder / 'a.txt'} and 1 more" in text
