"""`ggprune eval` beyond one model's perplexity."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ggprune.model.model import Model
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

    report = tmp_path / "report.md"
    assert succeed("eval", pruned, *args, "-n", "40", "--report", report) != text
    lines = report.read_text("utf-8").splitlines()
    assert lines[0] == "# pruned.gguf"
    assert lines.count("base (40 tokens, cut off):") == 2  # whole texts, not their beginnings
    assert "3 x 4 =" in lines
    assert any(line.startswith("| base ") for line in lines)


def test_reports_have_what_is_printed(tmp_path: Path) -> None:
    report, document = tmp_path / "report.md", tmp_path / "report.json"
    text = succeed("eval", TINY, *TEXT, "--report", report)
    assert text.strip() in report.read_text("utf-8")
    printed = succeed("eval", TINY, *TEXT, "--report", document, "--json")
    assert document.read_text("utf-8") == printed
    again = ggprune("eval", TINY, *TEXT, "--report", report)
    assert (again.returncode, again.stdout) == (1, "")
    assert "exists already" in again.stderr


def test_lm_evals_tasks_here_and_in_its_own_command(tmp_path: Path) -> None:
    data, task = tmp_path / "table.jsonl", tmp_path / "table.yaml"
    rows = [
        {"q": f"{a} x 3 =", "c": [str(3 * a), str(3 * a + 1)], "gold": int(a == 3)}
        for a in range(2, 10)
    ]
    data.write_text("\n".join(map(json.dumps, rows)))
    task.write_text(
        f"task: table\ndataset_path: json\ndataset_kwargs: {{data_files: {{test: '{data}'}}}}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\n"
        "doc_to_choice: '{{c}}'\ndoc_to_target: gold\nmetric_list: [{metric: acc}]\n"
    )
    done = ggprune("eval", TINY, "--tasks", task, "-c", "64", "--limit", "4", "-t", "1")
    assert done.returncode == 0, done.stderr
    cells = [cell.strip() for cell in done.stdout.splitlines()[2].split("|")]
    assert cells[2:5] == ["table", "acc", "0.7500"]
    theirs = subprocess.run(
        [sys.executable, "-m", "ggprune.evaluation.harness", "run", "--model", "ggprune",
         "--model_args", f"pretrained={TINY},n_ctx=64,n_threads=1", "--tasks", str(task),
         "--limit", "4"],
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    line = next(line for line in theirs.splitlines() if line.startswith("|table"))
    assert "0.75" in [cell.strip() for cell in line.split("|")]


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
        (("--report", "x.txt"), 2, "a report is written as .html, .json, .md"),
        (("--multiple-choice", "missing"), 1, "cannot be read"),
    ],
)
def test_errors_are_one_line(args: tuple[object, ...], code: int, message: str) -> None:
    done = ggprune("eval", TINY, *args)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (code, "", 1), done.stderr
    assert message in done.stderr
