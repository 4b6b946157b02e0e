"""Standard streams as they come: closed, in another encoding, a pipe; names that are no UTF-8."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ggprune.files.documents import to_text
from ggprune.files.outputs import write_text
from ggprune.model.model import Model
from tests.cli.test_cli import ggprune
from tests.conftest import EVALUATION, FIXTURES, TINY
from tests.gguf_files import build, kv_str, kv_u32, layer_tensors
from tests.helpers import without_progress
from tests.quantize.test_quantizer import legacy_imatrix
from tests.systems import any_name
from tests.systems import shell as bash

FAST = ("-c", "64", "--chunks", "2", "-t", "1")


def shell(line: str, *args: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`"$@"` in the line is the command."""
    command = ["bash", "-c", line, "bash", sys.executable, "-m", "ggprune", *map(str, args)]
    return subprocess.run(
        command, env=os.environ | environment, capture_output=True, timeout=300, check=False
    )


@any_name
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_json_is_valid_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    named = tmp_path / "Mod\u00e8l \U0001f600 \udce9.gguf"
    shutil.copy(TINY, named)
    done = shell('"$@"', "inspect", named, "--json", PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout.decode(encoding))["model"]["path"] == str(named)
    args = ("bench", named, "-p", "2", "-n", "0", "-r", "1", "-t", "1", "-o", "jsonl")
    done = shell('"$@"', *args, PYTHONIOENCODING=encoding)
    assert json.loads(done.stdout.decode(encoding))["model_filename"] == str(named)


@any_name
def test_results_about_names_that_are_no_utf_8_are_written(tmp_path: Path) -> None:
    named = tmp_path / "caf\udce9.gguf"
    shutil.copy(TINY, named)
    report, page, scores = (tmp_path / name for name in ("r.json", "r.md", "scores.json"))
    for path in (report, page):
        done = ggprune("eval", named, *FAST, "--report", path)
        assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert json.loads(report.read_bytes())["model"]["path"] == str(named)
    assert page.read_text("utf-8").startswith("# caf\\xe9.gguf\n")
    done = ggprune("rank", named, *FAST, "-o", scores, "--plot", tmp_path / "s.png")
    assert (done.returncode, without_progress(done.stderr)) == (0, "")
    assert ggprune("choose", scores, "--drop", "1", "-t", "1").returncode == 0


@bash
def test_a_closed_stderr_is_none_of_our_business(tmp_path: Path) -> None:
    quantized, pruned = tmp_path / "q.gguf", tmp_path / "p.gguf"
    for args in (
        ("eval", TINY, *FAST), ("bench", TINY, "-p", "2", "-n", "2", "-r", "1", "-t", "1"),
        ("quantize", TINY, quantized, "Q8_0"), ("prune", "--prune-layers", "1", TINY, pruned),
    ):  # fmt: skip
        done = shell('exec "$@" 2>&- <&-', *args)
        assert done.returncode == 0, args
        assert done.stdout
    assert quantized.exists()
    assert pruned.exists()
    done = shell('exec "$@" 2>&-', "inspect", tmp_path)
    assert (done.returncode, done.stdout) == (1, b"")


@any_name
def test_nothing_in_a_file_steers_the_terminal_or_forges_a_line(tmp_path: Path) -> None:
    evil = tmp_path / "evil\x1b]0;owned\x07\n.gguf"
    name = "good\nfingerprint   0000\x1b[2J\u202e" + 100_000 * "\x9b"
    kvs = [kv_str("general.architecture", "llama"), kv_str("general.name", name)]
    evil.write_bytes(build([*kvs, kv_u32("llama.block_count", 2)], layer_tensors(2)))
    shown = ggprune("inspect", evil).stdout
    assert len(shown) < 5000
    assert sum(line.startswith("fingerprint ") for line in shown.splitlines()) == 1
    evil.write_bytes(build([kv_str("general.architecture", name)], layer_tensors(2)))
    failed = ggprune("inspect", evil).stderr
    assert failed.startswith("ggprune: error: ")
    assert failed.count("\n") == 1
    assert len(failed) < 1100
    for text in (shown, failed):
        assert not set(text) & {"\x1b", "\x07", "\x9b", "\u202e"}


def test_without_a_home_folder_the_work_is_done(tmp_path: Path) -> None:
    script = (  # as for a user id that the system does not know
        "import pathlib, sys\n"
        "def home(): raise RuntimeError('Could not determine home directory.')\n"
        "pathlib.Path.home = staticmethod(home)\n"
        "from ggprune.cli.app import main\n"
        "sys.argv[0] = 'ggprune'\n"
        "main()\n"
    )
    args = ["rank", str(TINY), *FAST, "--json"]
    environment = {k: v for k, v in os.environ.items() if k != "XDG_CACHE_HOME"}
    done = subprocess.run(
        [sys.executable, "-c", script, *args],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["order"]) == 9
    said = without_progress(done.stderr)
    assert said.startswith("ggprune: note: no home folder")
    assert said.count("\n") == 1


def test_all_chunks_where_more_are_asked_for() -> None:
    done = ggprune("eval", TINY, "-c", "256", "--chunks", "1000", "-t", "1", "--json")
    n_chunk = json.loads(done.stdout)["text"]["n_chunk"]
    assert without_progress(done.stderr) == (
        f"ggprune: note: ggprune/evaluation.txt: gives {n_chunk} chunks, not 1000: all of them "
        "are read\n"
    )
    assert n_chunk > 10


@bash
@pytest.mark.parametrize("given", ["<(cat {})", "- < {}", "/dev/stdin < {}"])
def test_texts_come_out_of_pipes(tmp_path: Path, given: str) -> None:
    hellaswag = FIXTURES / "tasks" / "hellaswag.txt"
    args = ("eval", TINY, "-t", "1", "--json")
    cases: tuple[tuple[str, Path, tuple[str, ...]], ...] = (
        ("--hellaswag", hellaswag, ("--hellaswag-tasks", "5")),
        ("-f", EVALUATION, ("-c", "64", "--chunks", "2")),
    )
    base = tmp_path / "base.kld"
    assert ggprune("eval", TINY, *FAST, "--save-logits", base).returncode == 0
    for option, path, more in (*cases, ("--kl-divergence-base", base, ())):
        piped = shell(f'"$@" {option} {given.format(path)}', *args, *more)
        assert piped.returncode == 0, piped.stderr
        plain = json.loads(ggprune(*args, *more, option, path).stdout)
        document = json.loads(piped.stdout)
        assert "/proc" not in str(document)
        for each in (plain, document):
            each.pop("source", None)
            each.get("text", {}).pop("source", None)
        assert document == plain


def test_a_document_is_written_whatever_is_in_it(tmp_path: Path) -> None:
    write_text(tmp_path / "d.json", to_text({"name": "\udce9\u00e9"}), force=False)
    assert (tmp_path / "d.json").read_bytes() == '{\n  "name": "\\udce9\u00e9"\n}\n'.encode()


@bash
def test_companions_come_out_of_pipes_too(tmp_path: Path, tiny: Model) -> None:
    matrix, plan, out = tmp_path / "i.dat", tmp_path / "plan.json", tmp_path / "out.dat"
    legacy_imatrix(matrix, tiny)
    args = ("quantize", TINY, tmp_path / "q.gguf", "IQ4_XS", "--dry-run", "--json")
    piped = shell(f'"$@" --imatrix <(cat {matrix})', *args)
    assert piped.returncode == 0, piped.stderr
    assert json.loads(piped.stdout)["out"] == json.loads(
        ggprune(*args, "--imatrix", matrix).stdout
    )["out"]  # fmt: skip
    saved = ("--prune-layers", "1", TINY, tmp_path / "p.gguf", "--dry-run", "--save-plan", plan)
    assert ggprune(*saved).returncode == 0
    done = shell(f'"$@" <(cat {matrix}) {out}', "remap", plan)
    assert done.returncode == 0, done.stderr
    assert ggprune("remap", plan, matrix, tmp_path / "same.dat").returncode == 0
    assert out.read_bytes() == (tmp_path / "same.dat").read_bytes()
