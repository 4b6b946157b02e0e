"""The main job with what pip has installed, in a folder that knows nothing of the checkout."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from ggprune.cli.app import COMMANDS
from ggprune.version import __version__
from tests.wheel.conftest import ROOT, Installed

ONE_THREAD = ("-t", "1")  # a machine that is busy with other things is no reason to wait
LIBRARY = """
from pathlib import Path
import ggprune

model = ggprune.open_model("tiny.gguf")
options = ggprune.RankOptions(
    measuring=ggprune.MeasureOptions(n_chunk=2, compute=ggprune.Compute(n_threads=1)),
    request=ggprune.DropRequest(ggprune.Target(ggprune.Goal.LAYERS, 1)),
)
ranking = ggprune.rank(model, ggprune.shipped_text("calibration.txt"), options)
plan = ggprune.make_plan(model, ranking.chosen.drop)
ggprune.write(ggprune.Job(model=model, plan=plan, out=Path("by-library.gguf")))
print(ggprune.open_model("by-library.gguf").n_layer)
"""


def test_it_is_not_the_checkout(installed: Installed) -> None:
    code = "import ggprune, sys; print(ggprune.__file__); print(*sys.path, sep='\\n')"
    file, *path = installed.python("-I", "-c", code).stdout.splitlines()
    assert Path(file).is_relative_to(installed.venv)
    assert not [entry for entry in path if Path(entry).is_relative_to(ROOT)]
    for name in ("tests", "benchmarks", "docs", "setup", "matplotlib", "lm_eval", "torch"):
        assert installed.python("-c", f"import {name}").stderr.endswith(f"named '{name}'\n")


def test_its_requirements_fit_together(installed: Installed) -> None:
    done = installed.python("-m", "pip", "check")
    assert (done.returncode, done.stdout) == (0, "No broken requirements found.\n")


def test_every_command_explains_itself(installed: Installed) -> None:
    assert installed.succeed("--version") == f"ggprune {__version__}\n"
    overview = installed.succeed("--help")
    assert all(name in overview for name in COMMANDS)
    for name in COMMANDS:
        assert "Usage" in installed.succeed(name, "--help")


def layers_of(installed: Installed, name: str) -> int:
    document = json.loads(installed.succeed("inspect", name, "--json"))
    return int(document["model"]["n_layer"])


def test_rank_prune_quantize_judge(installed: Installed) -> None:
    """Each with the texts and tables that come in the wheel, and child processes of its own."""
    run = installed.succeed
    run("rank", "tiny.gguf", "--chunks", "2", "-o", "scores.json", *ONE_THREAD)
    ranking = json.loads(run("choose", "scores.json", "--drop", "1", "--json", *ONE_THREAD))
    layers = ",".join(map(str, ranking["chosen"]["drop"]))
    run("--prune-layers", layers, "tiny.gguf", "pruned.gguf", "--save-plan", "plan.json")
    assert (layers_of(installed, "tiny.gguf"), layers_of(installed, "pruned.gguf")) == (9, 8)
    run("quantize", "pruned.gguf", "small.gguf", "Q4_K_M")
    judging = ("--base", "tiny.gguf", "--chunks", "2", *ONE_THREAD)
    assert "Same top p" in run("eval", "small.gguf", *judging)
    assert "Say it backwards" in run("eval", "small.gguf", "--generate", *ONE_THREAD)
    timing = ("-p", "16", "-n", "4", "-r", "1", *ONE_THREAD)
    assert "tg4" in run("bench", "small.gguf", "pruned.gguf", *timing)
    assert "llama-3.1-8b" in run("synth", "--list")


def test_heal(installed: Installed) -> None:
    options = ("--prune-layers", "2-3", "--chunks", "12", *ONE_THREAD)
    installed.succeed("heal", "tiny.gguf", "healed.gguf", *options)
    assert layers_of(installed, "healed.gguf") == 7


def test_auto(installed: Installed) -> None:
    """All of it, on the two texts that come in the wheel."""
    options = ("--drop", "1", "--type", "Q4_K_M", "--heal", "--chunks", "2", *ONE_THREAD)
    short = ("-p", "16", "-n", "4", "-r", "1", "--report", "report.md")
    said = installed.succeed("auto", "tiny.gguf", "auto.gguf", *options, *short)
    assert "Q4_K_M, 1 layer pruned, healed" in said
    assert "ggprune/evaluation.txt" in (installed.folder / "report.md").read_text("utf-8")
    assert layers_of(installed, "auto.gguf") == 8


def test_the_library(installed: Installed) -> None:
    done = installed.python("-c", LIBRARY)
    assert (done.returncode, done.stdout) == (0, "8\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["rank", "tiny.gguf", "--plot", "scores.png"],
         "plots need matplotlib: pip install 'ggprune[plot]'"),
        (["eval", "tiny.gguf", "--tasks", "arc_easy"],
         "tasks need lm-eval: pip install 'ggprune[tasks]'"),
        (["heal", "tiny.gguf", "x.gguf", "--prune-layers", "2", "--train", "-f", "text.txt"],
         "this needs torch, transformers, peft, accelerate: pip install 'ggprune[train]'"),
    ],
)  # fmt: skip
def test_what_an_extra_brings_is_named(
    installed: Installed, arguments: list[str], line: str
) -> None:
    (installed.folder / "text.txt").write_text("A text.\n" * 3000)
    done: subprocess.CompletedProcess[str] = installed.ggprune(*arguments)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"ggprune: error: {line}\n")
