"""What shells are given when they complete, by the variables with which typer's scripts ask."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from ggprune.cli.app import COMMANDS, REMOVAL_OPTIONS, app
from ggprune.cli.completion import mend_bash_words, one_of
from ggprune.pipeline.synth import known_shapes
from ggprune.quantize.options import FILE_TYPES, MADE_TYPES
from ggprune.scoring.choice import Strategy
from ggprune.scoring.ranking import Metric

SCRIPT = "import sys; sys.argv = ['ggprune']; from ggprune.cli import main; main()"
Shell: TypeAlias = Callable[[dict[str, str]], tuple[int, str]]


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    """The exit code and the answer to the variables; nothing is said on stderr."""

    def asked(variables: dict[str, str]) -> tuple[int, str]:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(SystemExit) as ended:
            app(prog_name="ggprune")
        for name in variables:
            monkeypatch.delenv(name)
        said = capsys.readouterr()
        assert said.err == ""
        assert isinstance(ended.value.code, int)
        return ended.value.code, said.out

    return asked


def bash(ask: Shell, line: str) -> list[str]:
    """As bash divides a line: at spaces, and `=` is a word."""
    words = line.replace("=", " = ").split(" ")
    words = [word for word in words[:-1] if word] + words[-1:]
    if line.endswith("="):
        words.pop()
    variables = {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    code, answer = ask({"_GGPRUNE_COMPLETE": "complete_bash", **variables})
    assert code == 0
    return answer.split()


def fish(ask: Shell, line: str, action: str = "get-args") -> tuple[int, str]:
    variables = {"_TYPER_COMPLETE_ARGS": line, "_TYPER_COMPLETE_FISH_ACTION": action}
    return ask({"_GGPRUNE_COMPLETE": "complete_fish", **variables})


def zsh(ask: Shell, line: str) -> str:
    code, answer = ask({"_GGPRUNE_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": line})
    assert code == 0
    return answer


TYPED: dict[str, list[str]] = {
    "": [*COMMANDS],
    "qu": ["quantize"],
    "heal a.gguf b.gguf --prune-layers 2 --heal-t": ["--heal-type"],
    "quantize a.gguf b.gguf ": [*FILE_TYPES],
    "quantize a.gguf Q4_K_": ["Q4_K_S", "Q4_K_M"],
    "quantize a.gguf b.gguf q5_k_": ["q5_k_s", "q5_k_m"],
    "quantize a.gguf ": [],
    "quantize a.gguf b.gguf --output-tensor-type ": [*MADE_TYPES],
    "quantize a.gguf b.gguf --tensor-type attn_v=q8": ["q8_0"],
    "quantize a.gguf b.gguf --tensor-type attn_v=": [*MADE_TYPES],
    "quantize a.gguf --tensor-type attn_v=q8_0 b.gguf ": [*FILE_TYPES],
    "prune --type=Q6": ["Q6_K"],
    "prune --type=Q6_K --errors ": ["strict", "replace"],
    "heal --heal-type q6": ["q6_k"],
    "heal --refit ": ["both", "attn", "ffn"],
    "auto --bump-interface IQ4_": ["IQ4_NL", "IQ4_XS"],
    "auto --loss k": ["kd", "kd+ce"],
    "auto --recipe short": ["shortened-lora", "shortened-cpt"],
    "auto --schedule c": ["cosine", "constant_with_warmup"],
    "heal --dtype b": ["bf16"],
    "choose --strategy ": [each.value for each in Strategy],
    "rank a.gguf --metric ": [f"{each.value}{plus}" for each in Metric for plus in ("", "+")],
    "rank --unit a": ["attn"],
    "synth --shape ": [shape.name for shape in known_shapes()],
    "synth --shape llama-3.2": ["llama-3.2-1b", "llama-3.2-3b"],
    "synth --type MX": ["MXFP4_MOE"],
    "bench -ctk f16,q8": ["f16,q8_0"],
    "bench a.gguf -fa ": ["on", "off", "auto"],
    "bench -o j": ["json", "jsonl"],
    "bench --mmap 0 --repet": ["--repetitions"],  # an option that is refused is no reason to stop
    "eval a.gguf -fa o": ["on", "off"],
    "rank a.gguf -f ": [],
    "inspect ": [],
    "--scores s.json a.gguf b.gguf --type Q8": ["Q8_0"],
    "--prune-layers 2 --tensor-type-f": ["--tensor-type-file"],
    "--k": ["--keep-layers"],
    "--vers": ["--version"],
}  # fmt: skip


@pytest.mark.parametrize("typed", TYPED)
def test_every_name_is_completed(typed: str, ask: Shell) -> None:
    assert bash(ask, f"ggprune {typed}") == TYPED[typed]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_is_completed_with_few_words(name: str, ask: Shell) -> None:
    code, answer = fish(ask, f"ggprune {name} --")
    rows = dict(line.split("\t") for line in answer.splitlines())
    assert code == 0
    shown = {"--json", "--wide"} if name != "worker" else set()  # which has no result
    assert {*shown, "--help"} <= set(rows)
    assert all(option.startswith("--") and 0 < len(text) <= 60 for option, text in rows.items())
    assert all(f'"{option}":"' in zsh(ask, f"ggprune {name} {option}") for option in [*rows][:2])


def test_other_shells_get_the_same(ask: Shell) -> None:
    assert fish(ask, "ggprune quantize a b --tensor-type x=q8") == (0, "x=q8_0\n")
    assert zsh(ask, "ggprune quantize a b --tensor-type x=q8").count('"x=q8_0"') == 1
    assert '"greedy"' in zsh(ask, "ggprune auto --strategy=g")
    assert '"inspect":"Show a model' in zsh(ask, "ggprune ins")
    assert '"--keep-layers":"Layers to keep' in zsh(ask, "ggprune --keep")
    variables = {
        "_TYPER_COMPLETE_ARGS": "ggprune synth --shape qwen2.5-0",
        "_TYPER_COMPLETE_WORD_TO_COMPLETE": "qwen2.5-0",
    }
    for shell in ("powershell", "pwsh"):
        _, answer = ask({"_GGPRUNE_COMPLETE": f"complete_{shell}", **variables})
        assert answer.startswith("qwen2.5-0.5b:::")


def test_files_are_left_to_the_shell(ask: Shell) -> None:
    """zsh's `_files`, the status that makes fish do so, and no word at all for bash."""
    for line in ("ggprune rank ", "ggprune heal -f ", "ggprune quantize in.gguf ./o"):
        assert zsh(ask, line) == "_files\n"
        assert fish(ask, line, "is-args") == (1, "")
        assert bash(ask, line) == []
    assert fish(ask, "ggprune rank --metric b", "is-args") == (0, "")


def test_options_that_need_no_command_are_completed(ask: Shell) -> None:
    found = bash(ask, "ggprune --")
    assert set(REMOVAL_OPTIONS) | {"--version", "--help", "--show-completion"} <= set(found)
    assert "--tensor-type" not in found
    assert bash(ask, "ggprune no-such-command --") == found  # and no error


def test_bash_words_are_mended() -> None:
    words = {"COMP_WORDS": "ggprune\na\n--type\n=\nQ4\n--x\ny\n=\nz", "COMP_CWORD": "8"}
    mend_bash_words(words)
    assert words == {"COMP_WORDS": "ggprune\na\n--type=Q4\n--x\nz", "COMP_CWORD": "4"}
    for untouched in ({}, {"COMP_WORDS": "a"}, {"COMP_WORDS": "a", "COMP_CWORD": "x"}):
        given = dict(untouched)
        mend_bash_words(given)
        assert given == untouched


def test_names_are_completed_in_the_case_that_is_typed() -> None:
    complete = one_of(["Q4_0", "F16"], any_case=True, listed=True)
    assert complete("") == ["Q4_0", "F16"]
    assert complete("q") == ["q4_0"]
    assert complete("Q4_0,f") == ["Q4_0,f16"]
    assert one_of(["greedy"])("G") == []


def test_completion_loads_no_library() -> None:
    script = f"""
import os, sys
leave = os._exit
os._exit = lambda code: (print("llama_cpp" in sys.modules, flush=True), leave(code))
{SCRIPT}
"""
    variables = {"COMP_WORDS": "ggprune\nauto\n--strategy\ngre", "COMP_CWORD": "3"}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True,
        env={**os.environ, "_GGPRUNE_COMPLETE": "complete_bash", **variables},
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("greedy\nFalse\n", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_itself_completes(tmp_path: Path) -> None:
    program = tmp_path / "ggprune"
    program.write_text(f"#!{sys.executable}\n{SCRIPT}\n")
    program.chmod(0o755)
    script = """
        eval "$(_GGPRUNE_COMPLETE=source_bash ggprune)"
        COMP_WORDS=(ggprune quantize a.gguf b.gguf --tensor-type attn_v = q8) COMP_CWORD=7
        _ggprune_completion ggprune && echo "${COMPREPLY[@]}"
        complete -p ggprune
    """
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, check=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
    )  # fmt: skip
    assert done.stdout == "q8_0\ncomplete -o default -F _ggprune_completion ggprune\n"
    assert done.stderr == ""


@pytest.mark.parametrize("shell", ["zsh", "fish", "powershell", "pwsh"])
def test_every_shell_has_a_script(shell: str, ask: Shell) -> None:
    code, script = ask({"_GGPRUNE_COMPLETE": f"source_{shell}"})
    assert code == 0
    assert "_GGPRUNE_COMPLETE" in script
