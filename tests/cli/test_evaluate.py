"""`ggprune eval` beyond one model's perplexity."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ggprune.model import Model
from tests.cli.test_cli import ggprune, succeed
from tests.conftest import EVALUATION, FIXTURES, TINY
from tests.helpers import pruned_copy

TASKS = FIXTURES / "tasks"
TEXT = ("-f", EVALUATION, "--chunks", "2", "-t", "1")


@pytest.fixture(scope="module")
def pruned(tiny: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pruned_copy(tiny, (1, 2), tmp_path_factory.mktemp("pruned") / "pruned.gguf").path


def test_several_models_share_a_base(pruned: Path) -> None:
    table = succeed("eval", TINY, pruned, "--base", TINY, *TEXT)
    assert table.count("\n") == 4
    assert "KLD" in table
    document = json.loads(succeed("eval", TINY, pruned, "--base", TINY, *TEXT, "--json"))
    first, second = document["models"]
    assert first["divergence"]["kld"]["mean"]["value"] == 0
    assert second["divergence"]["kld"]["mean"]["value"] > 0


def test_logits_are_saved_and_compared_with(pruned: Path, tmp_path: Path) -> None:
    base = tmp_path / "base.kld"
    plain = succeed("eval", TINY, *TEXT)
    assert succeed("eval", TINY, *TEXT, "--save-logits", base) == plain
    text = succeed("eval", pruned, "--kl-divergence-base", base, "-t", "1")
    assert "====== KL divergence statistics ======" in text
    again = ggprune("eval", TINY, *TEXT, "--save-logits", base)
    assert (again.returncode, again.stdout) == (1, "")
    assert "exists already" in again.stderr
    succeed("eval", pruned, *TEXT, "--save-logits", base, "--force")
    assert list(tmp_path.iterdir()) == [base]


def test_a_sliding_window() -> None:
    text = succeed(
        "eval", TINY, "-f", EVALUATION, "--chunks", "2", "--ppl-stride", "64", "-c", 128, "-t", 1
    )
    assert text.startswith("Final estimate: PPL = ")


def test_choice_tasks(pruned: Path) -> None:
    args = ("--hellaswag", TASKS / "hellaswag.txt", "--hellaswag-tasks", "10", "-t", "1")
    table = succeed("eval", pruned, "--base", TINY, *args)
    assert table.splitlines()[2].startswith(f"| {TINY} ")
    assert "guessing %" in table
    document = json.loads(
        succeed("eval", TINY, "--winogrande", TASKS / "winogrande.csv", "--winogrande-tasks", "5",
                "--json", "-t", "1")
    )  # fmt: skip
    assert (document["benchmark"], document["n_task"]) == ("winogrande", 5)
    assert len(document["answers"]) == 5
    args = (
        "--multiple-choice",
        TASKS / "multiple-choice.bin",
        "--multiple-choice-tasks",
        "5",
        "-t",
        "1",
    )
    assert "| multiple-choice" in succeed("eval", TINY, *args)


def test_generation(pruned: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("3 x 4 =\\t12\nSpell cat:\n")
    args = ("--generate", "--prompts", prompts, "-n", "8", "--base", TINY, "-t", "1")
    text = succeed("eval", pruned, *args)
    assert "> 3 x 4 =\n  base: 12" in text
    document = json.loads(succeed("eval", pruned, *args, "--json"))
    assert document["n_expected"] == 1
    assert [sample["prompt"] for sample in document["samples"]] == ["3 x 4 =", "Spell cat:"]
    assert "repetition" in document["base"]


@pytest.mark.parametrize(
    ("args", "code", "message"),
    [
        (("--generate", "--ppl-stride", "8"), 2, "--generate or --ppl-stride, not both"),
        (("--hellaswag-tasks", "8"), 2, "belongs to --hellaswag"),
        (("--hellaswag", EVALUATION), 1, "6 for every task"),
        (("--kl-divergence-base", EVALUATION), 1, "does not begin with _logits_"),
        (("--kl-divergence-base", TINY, "-f", EVALUATION), 2, "no -f, no --base"),
        (("--save-logits", TINY, "--force"), 1, "is the input itself"),
        ((TINY, "--save-logits", "x.kld"), 2, "of one model"),
        (("--multiple-choice", "missing"), 1, "cannot be read"),
    ],
)
def test_errors_are_one_line(args: tuple[object, ...], code: int, message: str) -> None:
    done = ggprune("eval", TINY, *args)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert message in done.stderr
