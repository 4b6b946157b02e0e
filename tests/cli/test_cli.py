"""The command line in real processes, as a user runs it."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import struct
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from ggprune.files.documents import to_text
from ggprune.files.system import link_or_symlink
from ggprune.model.cut import parse_cut
from ggprune.model.model import Model, open_model
from ggprune.quantize.options import QuantizeOptions
from ggprune.quantize.quantizer import quantize
from ggprune.surgery.plan import make_plan
from tests.conftest import CALIBRATION, EVALUATION, TINY
from tests.gguf_files import FakeTensor, build, kv_str, kv_u32, layer_tensors, llama_kvs
from tests.helpers import without_progress
from tests.split import split
from tests.systems import file_limits, process_groups

COMMANDS = (
    "prune",
    "rank",
    "choose",
    "auto",
    "heal",
    "inspect",
    "quantize",
    "eval",
    "bench",
    "remap",
    "synth",
)


def ggprune(*args: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "ggprune", *map(str, args)],
        cwd=cwd, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip


def succeed(*args: object, cwd: Path | None = None) -> str:
    done = ggprune(*args, cwd=cwd)
    assert (done.returncode, without_progress(done.stderr)) == (0, ""), done.stderr
    return done.stdout


def test_prune_without_naming_the_command(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    text = succeed("--prune-layers", "2,4-5", TINY, out)
    assert "layers   9 -> 6" in text
    assert str(out.stat().st_size) in text
    assert open_model(out).metadata["ggprune.dropped_layers"].decode() == [2, 4, 5]
    again = tmp_path / "again.gguf"
    succeed(TINY, again, "--keep-layers", "0-1,3,6--1")
    assert again.read_bytes() == out.read_bytes()
    named = tmp_path / "named.gguf"
    succeed("prune", TINY, named, "--prune-layers=-5,-4,2", "--no-verify")
    assert named.read_bytes() == out.read_bytes()


def test_a_plan_can_be_saved_and_carried_out(tmp_path: Path) -> None:
    plan, out = tmp_path / "plan.json", tmp_path / "out.gguf"
    args = ("--prune-layers", "-1", TINY, out, "--dry-run", "--save-plan", plan, "--json")
    document = json.loads(succeed(*args))
    assert document["plan"]["drop"] == [8]
    assert not out.exists()
    done = json.loads(succeed("--plan", plan, TINY, out, "--json"))
    assert done["out"]["size_bytes"] == document["out"]["size_bytes"] == out.stat().st_size
    assert done["out"]["written"]


def test_prune_and_requantize_in_one_call(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    announced = succeed("--prune-layers", "3", TINY, out, "--type", "q4_k_m", "--dry-run")
    assert not out.exists()
    written = succeed("--prune-layers", "3", TINY, out, "--type", "q4_k_m")
    told = [line for line in written.splitlines() if not line.startswith("KV cache")]
    assert announced.splitlines()[:-1] == told[:-1]
    types = {t.type.name for layer in open_model(out).layers for t in layer}
    assert types == {"F32", "Q4_K", "Q6_K"}


def test_an_attention_alone(tmp_path: Path) -> None:
    """What storing it as another architecture costs is said before; what the cache saves, after."""
    out = tmp_path / "out.gguf"
    done = ggprune("--prune-layers", "3a", TINY, out)
    assert done.returncode == 0
    assert done.stderr.startswith("ggprune: note: stored as architecture deci")
    assert "KV cache 2.25 MiB -> 2.00 MiB (-11.1 %) for 512 tokens" in done.stdout
    document = json.loads(ggprune("--prune-layers", "3a", TINY, out, "--force", "--json").stdout)
    assert document["out"]["arch"] == "deci"
    assert document["plan"]["keep"][3] == "3f"
    assert document["cache"] == {"n_ctx": 512, "before_bytes": 9 << 18, "after_bytes": 8 << 18}


def test_a_split_model_is_read_from_any_shard(tmp_path: Path) -> None:
    shards = split(TINY, tmp_path, 2)
    out = tmp_path / "out.gguf"
    succeed("--prune-layers", "1", shards[1], out)
    assert open_model(out).n_layer == 8


def test_inspect(tmp_path: Path, tiny: Model) -> None:
    text = succeed("inspect", TINY)
    assert re.search(r"architecture +llama", text)
    assert len(re.findall(r"^\| +\d+ \| attention \+ FFN", text, re.MULTILINE)) == 9
    assert json.loads(succeed("inspect", TINY, "--json"))["model"]["fingerprint"] is None
    document = json.loads(succeed("inspect", TINY, "--fingerprint", "--json"))
    assert document["model"]["fingerprint"] == tiny.fingerprint
    assert document["model"]["n_param"] == 3_805_952
    assert len(document["layers"]) == 9
    parts = [*document["layers"], document["outside"]]
    assert sum(part["n_param"] for part in parts) == 3_805_952


def test_inspect_and_help_load_no_shared_library() -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from ggprune.cli.app import app\n"
        "try:\n"
        "    app(sys.argv[1:])\n"
        "finally:\n"
        "    assert not [m for m in sys.modules if m.startswith('llama_cpp')]\n"
        "    maps = Path('/proc/self/maps')\n"
        "    assert not maps.exists() or 'libllama' not in maps.read_text()\n"
    )
    for args in (["--help"], ["inspect", str(TINY)], ["inspect", str(TINY), "--json"]):
        subprocess.run([sys.executable, "-c", script, *args], check=True, capture_output=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_teaches(command: str) -> None:
    text = succeed(command, "--help")
    assert "Example: ggprune" in " ".join(text.split())


def test_without_a_command_there_is_help_and_no_error() -> None:
    done = ggprune()
    assert (done.returncode, done.stderr) == (2, "")
    assert "Make GGUF models shallower" in done.stdout
    said = ggprune("bench", TINY, "-o", "xml").stderr
    assert "'-o' / '--output': 'xml' is not one of" in said


def test_rank(tmp_path: Path) -> None:
    scores, plot = tmp_path / "scores.json", tmp_path / "scores.svg"
    args = ("-f", CALIBRATION, "-c", "128", "--chunks", "4", "-o", scores, "--plot", plot)
    table = succeed("rank", TINY, *args)
    rows = [line for line in table.splitlines() if re.match(r"\| +\d", line)]
    document = json.loads(scores.read_text())
    assert [int(row.split("|")[1]) for row in rows] == document["order"]
    assert "█" in rows[-1]
    assert "<svg" in plot.read_text()
    out = succeed("rank", TINY, "-f", CALIBRATION, "-c", "128", "--chunks", "4", "--json")
    again = json.loads(out)
    assert again.pop("effort")["n_pass"] == 0  # all of it was in the cache
    assert document.pop("effort")["n_cached"] == 0
    assert again == document


def test_a_ranking_says_what_to_drop(tmp_path: Path) -> None:
    scores, out = tmp_path / "scores.json", tmp_path / "out.gguf"
    succeed("rank", TINY, "-f", CALIBRATION, "-c", "128", "--chunks", "4", "-o", scores)
    order = json.loads(scores.read_text())["order"]
    succeed("--scores", scores, "--drop", "2", TINY, out)
    assert open_model(out).metadata["ggprune.dropped_layers"].decode() == sorted(order[:2])
    done = ggprune("rank", TINY, "-f", CALIBRATION, "-o", scores)
    assert (done.returncode, "--force" in done.stderr) == (1, True)


def test_any_shard_can_be_evaluated(tmp_path: Path) -> None:
    shards = split(TINY, tmp_path, 2)
    args = ("-f", EVALUATION, "-c", "64", "--chunks", "2")
    assert succeed("eval", shards[1], *args) == succeed("eval", TINY, *args)


def test_the_library_works_in_a_script_without_a_guard(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from pathlib import Path\n"
        "import ggprune\n"
        "print('once')\n"
        f"model = ggprune.open_model({str(TINY)!r})\n"
        "plan = ggprune.make_plan(model, (2,))\n"
        f"out = Path({str(tmp_path / 'out.gguf')!r})\n"
        "ggprune.write(ggprune.Job(model=model, plan=plan, out=out))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "once\n", "")
    assert open_model(tmp_path / "out.gguf").n_layer == 8


def test_rank_with_the_text_that_ships() -> None:
    document = json.loads(succeed("rank", TINY, "-c", "64", "--chunks", "2", "--json"))
    assert document["calibration"]["source"] == "ggprune/calibration.txt"


def test_quantize_eval_and_bench(tmp_path: Path) -> None:
    out = tmp_path / "q8.gguf"
    size = str(json.loads(succeed("quantize", TINY, out, "Q8_0", "--dry-run", "--json"))["out"])
    assert not out.exists()
    succeed("quantize", TINY, out, "Q8_0")
    assert str(out.stat().st_size) in size
    args = ("-f", EVALUATION, "--chunks", "2", "-c", "256")
    assert re.fullmatch(
        r"Final estimate: PPL = \d\.\d{4} \+/- 0\.\d{5}\n", succeed("eval", out, *args)
    )
    text = succeed("eval", out, "--base", TINY, *args)
    assert "====== KL divergence statistics ======" in text
    document = json.loads(succeed("eval", out, "--base", TINY, *args, "--json"))
    assert 0 < document["divergence"]["kld"]["mean"]["value"] < 0.01
    table = succeed("bench", TINY, out, "-p", "16", "-n", "2", "-r", "1")
    assert len(table.split("\n\n")[0].splitlines()) == 6
    document = json.loads(succeed("bench", out, "-p", "0", "-n", "2", "-r", "2", "--json"))
    assert len(document["models"][0]["tests"][0]["samples_ts"]) == 2


FAST = ("-c", "128", "-p", "8", "-n", "2", "-r", "1")


@pytest.mark.parametrize("suffix", ["json", "md"])
def test_auto_does_the_whole_job(tmp_path: Path, suffix: str) -> None:
    out, report = tmp_path / "out.gguf", tmp_path / f"report.{suffix}"
    args = ("--drop", "2", "-f", CALIBRATION, "--eval-file", EVALUATION, "--chunks", "4", *FAST)
    quantize = ("--type", "Q4_K_M", "--generate")
    text = succeed("auto", TINY, out, *args, *quantize, "--report", report)
    names = re.findall(r"^\| ([a-zA-Z0-9].*?) +\|", text.split("How the layers")[0], re.MULTILINE)
    assert names[:3] == ["model", "base", "Q4_K_M, nothing pruned"]
    assert names[-1] == "Q4_K_M, 2 layers pruned"
    assert "KLD" in text
    assert "At no more bytes" in text
    result = open_model(out)
    assert result.n_layer == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.gguf", f"report.{suffix}"]
    if suffix == "json":
        document = json.loads(report.read_text())
        rows = document["rows"]
        assert rows[-1]["size_bytes"] == out.stat().st_size
        assert rows[-2]["size_bytes"] <= rows[-1]["size_bytes"]
        assert rows[0]["kld"] is None
        assert document["plan"]["drop"] == document["ranking"]["chosen"]["drop"]
        written = [one["model"]["path"] for one in document["health"]]
        assert written == [row["name"] for row in rows[1:]]
        ratio, rival = document["verdict"]["speedup"], rows[-2]["tg"]
        products = zip(rows[-1]["tg"]["samples_ts"], rival["samples_ts"], strict=True)
        logs = [math.log(ours / theirs) for ours, theirs in products]
        assert document["verdict"]["rival"] == rows[-2]["name"]
        assert ratio["value"] == pytest.approx(math.exp(sum(logs) / len(logs)))
        assert rows[0]["speedup"] is None
        assert rows[-1]["predicted_speedup"] > 1
    else:
        assert text.strip().splitlines()[3] in report.read_text()
        assert "Q4_K_M, 2 layers pruned (64 tokens, cut off):" in report.read_text()


def test_auto_says_what_is_ahead_and_how_far_it_is(tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text(3 * EVALUATION.read_text())
    texts = ("-f", CALIBRATION, "--eval-file", text)
    fast = ("--chunks", "2", "-p", "0", "-n", "2", "-r", "1", "-t", "1", "--json")
    args = ("auto", TINY, tmp_path / "out.gguf", "--drop", "1", *texts, *fast)
    done = ggprune(*args)
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    lines = [line.removeprefix("ggprune: ") for line in done.stderr.splitlines()]
    assert re.fullmatch(
        r"auto: a chunk of 512 tokens takes [\d.e-]+ s, so ranking on 2 of them takes .+ at most, "
        r"and evaluating 3 models on 64 about .+", lines[0],
    )  # fmt: skip
    assert re.fullmatch(
        rf"note: {re.escape(str(text))}: 64 of its (\d+) chunks are evaluated on; --eval-chunks -1 "
        r"takes all of them, about .+", lines[1],
    )  # fmt: skip
    stages = [line for line in lines[2:] if "% after" not in line and "done after" not in line]
    assert stages == [
        "rank: 9 layers on at most 2 chunks of 512 tokens",
        "choose: --drop 1 by search, on at most 2 chunks a set",
        f"write: out.gguf, without layers {parse_cut(document['plan']['drop'])}",
        "compare: writing what is not pruned, to stand beside the result",
        "evaluate: 3 models on 64 chunks of 512 tokens",
        "benchmark: models: 3, tests: 1, repetitions: at least 1",
    ]
    judged = document["evaluation"]
    assert (judged["n_chunk"], judged["n_chunk_whole"]) == (64, 107)
    few = json.loads(succeed(*args, "--eval-chunks", "3", "--force"))["evaluation"]
    assert (few["n_chunk"], few["n_chunk_whole"]) == (3, 107)
    text.write_text(EVALUATION.read_text())
    asked = ggprune(*args, "--eval-chunks", "1000", "--force")
    judged = json.loads(asked.stdout)["evaluation"]
    assert judged["n_chunk"] == judged["n_chunk_whole"] == 35
    said = f"ggprune: note: {text}: gives 35 chunks, not 1000: all of them are read\n"
    assert without_progress(asked.stderr) == said


def test_auto_without_a_type_finds_the_rival_of_its_size(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    args = ("--drop", "1", "-f", CALIBRATION, "--eval-file", EVALUATION, "--chunks", "2", *FAST)
    rows = json.loads(succeed("auto", TINY, out, *args, "--json"))["rows"]
    assert [row["name"] for row in rows] == ["base", "Q8_0, nothing pruned", "1 layer pruned"]


def wrong_inputs(tmp: Path) -> dict[str, tuple[tuple[object, ...], int, str]]:
    """name -> (arguments, exit code, what the line must say). Files are made in `tmp`."""
    out = tmp / "out.gguf"
    damaged, v1, text, refused = (
        tmp / n for n in ("cut.gguf", "v1.gguf", "t.gguf", "refused.gguf")
    )
    damaged.write_bytes(TINY.read_bytes()[:50_000])
    v1.write_bytes(build([], version=1))
    text.write_text("this is no model")
    kvs = [kv_str("general.architecture", "kimi-k3"), kv_u32("kimi-k3.block_count", 2)]
    refused.write_bytes(build(kvs, layer_tensors(2)))
    empty, short, latin = tmp / "empty.txt", tmp / "short.txt", tmp / "latin.txt"
    empty.write_text("")
    short.write_text("too short")
    latin.write_bytes(b"caf\xe9 " * 1000)
    taken, plan, alias = tmp / "taken.gguf", tmp / "plan.json", tmp / "alias.gguf"
    taken.write_text("mine")
    plan.write_text(to_text(make_plan(open_model(TINY), (1,))).replace("llama", "x")[:40])
    link_or_symlink(alias, TINY)
    quantized, other = tmp / "q4.gguf", tmp / "other.dat"
    quantize(TINY, quantized, QuantizeOptions("Q4_K_M"))
    other.write_bytes(struct.pack("<ii3siif", 1, 3, b"foo", 1, 1, 1.0))
    fake = tmp / "fake.gguf"
    fake.write_bytes(build(llama_kvs(2), layer_tensors(2)))
    p = "--prune-layers"
    return {
        "no such file": ((p, "1", tmp / "none.gguf", out), 1, "No such file"),
        "not a GGUF": ((p, "1", text, out), 1, "not a GGUF"),
        "damaged": ((p, "1", damaged, out), 1, "truncated"),
        "version 1": (("inspect", v1), 1, "version 1"),
        "a folder": (("inspect", tmp), 1, "a folder"),
        "layer out of range": ((p, "9", TINY, out), 2, "there is no layer 9"),
        "layer not a number": ((p, "two", TINY, out), 2, "'two' is not a layer number"),
        "layer twice": ((p, "1,1", TINY, out), 2, "named twice"),
        "backwards": ((p, "5-3", TINY, out), 2, "backwards"),
        "all layers": ((p, "0-8", TINY, out), 2, "at least one must stay"),
        "no layers": (("prune", TINY, out), 2, "say which layers"),
        "two choices": ((p, "1", "--keep-layers", "2", TINY, out), 2, "say which layers"),
        "broken plan": (("--plan", plan, TINY, out), 1, "not a ggprune plan"),
        "unknown architecture": ((p, "1", refused, out), 1, "kimi-k3 cannot be removed yet"),
        "no such metric": (("rank", TINY, "--metric", "luck"), 2, "one of kld, ppl"),
        "no such way": (("rank", TINY, "--drop", "1", "--strategy", "luck"), 2, "one of oneshot"),
        "drops all": (("rank", TINY, "--drop", "9"), 2, "the model has 9 layers"),
        "output exists": ((p, "1", TINY, taken), 1, "--force"),
        "output is the input": ((p, "1", TINY, TINY, "--force"), 1, "is the input itself"),
        "output links to it": ((p, "1", TINY, alias, "--force"), 1, "is the input itself"),
        "no such folder": ((p, "1", TINY, tmp / "no" / "out.gguf"), 1, "there is no folder"),
        "unknown type": ((p, "1", TINY, out, "--type", "Q9"), 2, "not a quantization type"),
        "imatrix alone": ((p, "1", TINY, out, "--imatrix", text), 2, "add --type"),
        "no imatrix": (
            (p, "1", TINY, out, "--type", "Q8_0", "--imatrix", text), 1, "not an importance",
        ),
        "needs an imatrix": (("quantize", TINY, out, "IQ1_S"), 1, "--imatrix"),
        "not loadable": ((p, "1", fake, out), 1, "llama.cpp cannot load it"),
        "no scores": (("--scores", plan, TINY, out), 1, "not a ranking"),
        "drop of nothing": (("prune", "--drop", "2", TINY, out), 2, "say which layers"),
        "drop without scores": ((p, "1", "--drop", "2", TINY, out), 2, "goes with --scores"),
        "no target": (("auto", TINY, out), 2, "say how many layers are to go"),
        "two targets": (
            ("auto", TINY, out, "--drop", "1", "--drop-percent", "5"), 2, "not both",
        ),
        "no size": (("auto", TINY, out, "--target-size", "big"), 2, "write a number like 4.2G"),
        "too small a size": (
            ("auto", TINY, out, "--target-size", "1k", "--type", "Q8_0"), 2,
            "not reached as Q8_0, whatever is dropped",
        ),
        "no such unit": (("rank", TINY, "--unit", "head"), 2, "one of layer, attn, ffn"),
        "no other architecture": ((p, "3a", "--rehost", "never", TINY, out), 1, "--rehost never"),
        "rehost by another name": ((p, "3a", "--rehost", "no", TINY, out), 2, "auto or never"),
        "a matrix that is not fitted": (
            ("prune", "--replace", "3a=linear", TINY, out), 2, "must be fitted: add --heal",
        ),
        "a matrix for a layer": (
            ("heal", "--replace", "3a", TINY, out), 2, "write attentions as 20a=linear",
        ),
        "units of units": (
            ("rank", TINY, "--unit", "ffn", "--drop", "1", "--strategy", "units"), 2,
            "--strategy units: of layers, not of --unit ffn",
        ),
        "metric without its file": (("rank", TINY, "--metric", "imatrix"), 2, "--imatrix FILE"),
        "choose from nothing": (("choose", plan, "--drop", "1"), 1, "not a ranking"),
        "plan over the model": (
            (p, "1", TINY, out, "--save-plan", TINY, "--force"), 1, "is the input itself",
        ),
        "plan over the result": (
            (p, "1", TINY, out, "--save-plan", out), 1, "named as an output twice",
        ),
        "scores over the text": (
            ("rank", TINY, "-f", latin, "-o", latin, "--force"), 1, "is the input itself",
        ),
        "output is a device": ((p, "1", TINY, os.devnull, "--force"), 1, "not a regular file"),
        "endless name": ((p, "1", TINY, tmp / ("x" * 300)), 1, "cannot be written"),
        "endless number": ((p, "9" * 5000, TINY, out), 2, "is not a layer number"),
        "too many threads": (("bench", TINY, "-t", "100000"), 2, "--threads"),
        "quantized already": (
            (p, "1", quantized, out, "--type", "Q8_0"), 1, "--allow-requantize",
        ),
        "no chunk to judge on": (
            ("auto", TINY, out, "--drop", "1", "--eval-chunks", "0"), 2, "write 1 or more, or -1",
        ),
        "text too short to judge": (
            ("auto", TINY, out, "--drop", "1", "--eval-file", short), 1, "at least 1024 are needed",
        ),
        "imatrix of another model": (
            ("quantize", TINY, out, "Q4_K_M", "--imatrix", other), 1, "no entry for any tensor",
        ),
        "unknown option": (("--prune-layer", "1", TINY, out), 2, "No such option"),
        "unknown command": (("prun", TINY, out), 2, "Did you mean 'prune'?"),
        "missing argument": (("rank",), 2, "Missing argument 'IN.gguf'"),
        "context not a number": (("rank", TINY, "-c", "many"), 2, "valid integer"),
        "no text": (("rank", TINY, "-f", tmp / "none.txt"), 1, "No such file"),
        "empty text": (("rank", TINY, "-f", empty), 1, "the text is empty"),
        "short text": (("rank", TINY, "-f", short), 1, "at least 1024 are needed"),
        "not UTF-8": (("rank", TINY, "-f", latin), 1, "not a UTF-8 text"),
        "plot of another kind": (("rank", TINY, "--plot", tmp / "x.txt"), 2, ".png, .svg"),
        "drop too many": (("auto", TINY, out, "--drop", "9"), 2, "1 to 8 can be dropped"),
        "judged by itself": (
            ("auto", TINY, out, "--drop", "1", "-f", EVALUATION, "--eval-file", EVALUATION), 2,
            "different texts",
        ),
        "report of another kind": (
            ("auto", TINY, out, "--drop", "1", "--report", tmp / "r.txt"), 2, ".html, .json, .md",
        ),
        "nothing to measure": (("bench", TINY, "-p", "0", "-n", "0"), 2, "nothing to measure"),
    }  # fmt: skip


def test_a_chosen_set_is_carried_out(tmp_path: Path) -> None:
    scores, out = tmp_path / "scores.json", tmp_path / "out.gguf"
    args = ("-f", CALIBRATION, "-c", "128", "--chunks", "6", "-o", scores)
    shown = succeed("rank", TINY, *args, "--drop", "2", "--strategy", "greedy", "--protect", "2")
    chosen = json.loads(scores.read_text())["chosen"]
    assert chosen["strategy"] == "greedy"
    assert 2 not in chosen["drop"]
    assert "chosen by greedy" in shown
    done = json.loads(succeed("--scores", scores, TINY, out, "--json"))
    assert done["plan"]["drop"] == chosen["drop"]


def test_a_ranking_is_chosen_from_again(tmp_path: Path) -> None:
    scores, again = tmp_path / "scores.json", tmp_path / "again.json"
    text, model = tmp_path / "text.txt", tmp_path / "model.gguf"
    text.write_bytes(CALIBRATION.read_bytes())
    model.write_bytes(TINY.read_bytes())
    succeed("rank", model, "-f", text, "-c", "128", "--chunks", "6", "-o", scores)
    done = ggprune("prune", "--scores", scores, model, tmp_path / "out.gguf")
    assert (done.returncode, "has no chosen set" in done.stderr) == (2, True)
    plot = tmp_path / "front.svg"
    args = ("--target-speedup", "1.2", "-o", again, "--plot", plot)
    shown = succeed("choose", scores, *args)
    assert "oneshot would be" in shown
    chosen = json.loads(again.read_text())["chosen"]
    assert chosen["predicted_speedup"] >= 1.2
    assert [p["n_drop"] for p in chosen["front"]] == list(range(len(chosen["drop"]) + 1))
    assert json.loads(again.read_text())["layers"] == json.loads(scores.read_text())["layers"]
    how = ("--target-speedup", "1.2", "--json")
    same, more = (
        json.loads(succeed("choose", scores, *how, "--chunks", n))["chosen"] for n in (6, 12)
    )
    assert chosen["kld"] == same["kld"] != more["kld"]  # on the ranking's chunks
    assert b"speed-up" in plot.read_bytes()
    done = ggprune("choose", scores)
    assert "say how many layers are to go" in done.stderr
    text.rename(tmp_path / "moved.txt")
    assert "cannot be read" in ggprune("choose", scores, "--drop", "1").stderr
    succeed("choose", scores, "--drop", "1", "-f", tmp_path / "moved.txt")
    model.rename(tmp_path / "moved.gguf")
    assert "error" in ggprune("choose", scores, "--drop", "1").stderr


def test_auto_shows_what_every_number_of_layers_gives(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    args = ("--drop", "3", "-f", CALIBRATION, "--eval-file", EVALUATION, "--chunks", "4", *FAST)
    document = json.loads(succeed("auto", TINY, out, *args, "--measure-front", "--json"))
    front = document["front"]
    assert [row["n_drop"] for row in front] == [0, 1, 2, 3]
    assert all(row["tg"]["avg_ts"] > 0 for row in front)
    assert front[0]["measured_speedup"] is None
    assert all(row["measured_speedup"]["n"] >= 5 for row in front[1:])
    assert front[3]["drop"] == document["plan"]["drop"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.gguf"]


def test_a_size_is_that_of_the_requantized_file(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    texts = ("-f", CALIBRATION, "--eval-file", EVALUATION, "--chunks", "4", *FAST)
    args = ("--target-size", "1.9M", "--type", "Q4_K_M", "--strategy", "oneshot")
    shown = succeed("auto", TINY, out, *args, *texts)
    assert out.stat().st_size <= 1_900_000
    assert f"--target-size 1900000: reached, {out.stat().st_size} bytes" in shown
    assert "dropped layers" in shown


def test_shards_mtp_and_companions(tmp_path: Path) -> None:
    out, plan = tmp_path / "out.gguf", tmp_path / "plan.json"
    args = ("--prune-layers", "1,3", TINY, out, "--split-max-size", "2M")
    planned = succeed(*args, "--dry-run")
    assert "would be" in planned
    assert not list(tmp_path.iterdir())
    done = json.loads(succeed(*args, "--save-plan", plan, "--json"))
    assert [Path(p).name for p in done["out"]["paths"]] == [
        f"out-{i + 1:05}-of-00004.gguf" for i in range(4)
    ]
    assert done["notes"] == []
    lora, remapped = tmp_path / "lora.gguf", tmp_path / "remapped.gguf"
    kvs = [kv_str("general.architecture", "llama"), kv_str("adapter.type", "lora")]
    tensor = FakeTensor("blk.2.attn_q.weight.lora_a", bytes(32))
    lora.write_bytes(build(kvs, [tensor]))
    assert "LoRA: 1 of 1 tensors" in succeed("remap", plan, lora, remapped)
    assert open_model(remapped).tensors[0].name == "blk.1.attn_q.weight.lora_a"


def test_wrong_inputs_give_one_line_and_leave_nothing(tmp_path: Path) -> None:
    cases = wrong_inputs(tmp_path)
    assert len(cases) >= 20
    before = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    tiny_before = TINY.read_bytes()
    with ThreadPoolExecutor(2) as pool:  # they start, and end
        results = list(pool.map(lambda case: ggprune(*case[0]), cases.values()))
    for (name, (_, code, reason)), done in zip(cases.items(), results, strict=True):
        assert done.returncode == code, (name, done.stderr)
        assert done.stdout == "", name
        assert done.stderr.startswith("ggprune: error: "), (name, done.stderr)
        assert done.stderr.count("\n") == 1, (name, done.stderr)
        assert reason in done.stderr, (name, done.stderr)
        assert "/proc/" not in done.stderr, (name, done.stderr)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == before
    assert TINY.read_bytes() == tiny_before


def test_force_replaces_the_output(tmp_path: Path) -> None:
    out = tmp_path / "out.gguf"
    out.write_text("old")
    succeed("--prune-layers", "1", TINY, out, "--force")
    assert open_model(out).n_layer == 8


@process_groups
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_and_leaves_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, sign: signal.Signals
) -> None:
    text = tmp_path_factory.mktemp("long") / "long.txt"
    text.write_text(CALIBRATION.read_text() * 50)  # ranking takes minutes
    script = (  # a shell has its background jobs ignore Ctrl-C, and so would the tests there
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from ggprune.cli import main\n"
        "main()\n"
    )
    args: list[str | Path] = ["auto", TINY, tmp_path / "out.gguf", "--drop", "1", "-f", text]
    child = subprocess.Popen(
        [sys.executable, "-c", script, *args],
        stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    time.sleep(3)
    assert child.poll() is None
    os.killpg(child.pid, sign) if sign == signal.SIGINT else child.send_signal(sign)
    stdout, stderr = child.communicate(timeout=30)
    assert child.returncode == 130
    said = "ggprune: error: interrupted; no partial file is left\n"
    assert stderr.endswith(said)
    assert without_progress(stderr) == said
    assert stdout == ""
    assert list(tmp_path.iterdir()) == []


@file_limits
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))\n"
        "from ggprune.cli import main\n"
        "sys.argv[0] = 'ggprune'\n"
        "main()\n"
    )
    args = ("--prune-layers", "1", str(TINY), str(tmp_path / "out.gguf"))
    done = subprocess.run(
        [sys.executable, "-c", script, *args], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert re.fullmatch(r"ggprune: error: .*cannot be written.*\n", done.stderr), done.stderr
    assert list(tmp_path.iterdir()) == []
