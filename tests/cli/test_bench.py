from __future__ import annotations

import json
import re

import pytest

from tests.cli.test_cli import ggprune, succeed
from tests.conftest import TINY

FAST = ("-p", "8", "-n", "2", "-r", "2", "-t", "1")


def test_everything_at_once() -> None:
    args = ("bench", TINY, TINY, *FAST, "-d", "0,8", "-pg", "4,2", "--memory", "--roofline")
    document = json.loads(succeed(*args, "--json"))
    assert {"models", "memory", "roofline", "backends", "devices", "n_threads"} <= set(document)
    names = ["pp8", "tg2", "pp4+tg2"]
    for model in document["models"]:
        tests = [test["test"] for test in model["tests"]]
        assert tests == names + [f"{name} @ d8" for name in names]
    ratio = document["models"][1]["tests"][0]["ratio"]
    assert ratio["low"] < ratio["value"] < ratio["high"]
    assert ratio["n"] == 2
    assert [m["test"] for m in document["memory"]] == ["pp8 @ d8"] * 2
    roofs = document["roofline"]["tests"]
    assert [roof["predicted_ratio"] for roof in roofs] == [1.0] * 4
    assert all(roof["predicted_ts"] > 0 for roof in roofs)
    assert document["device_memory"][0]["total_bytes"] > 0


def test_tables_for_people() -> None:
    text = succeed("bench", TINY, *FAST, "-fa", "on,off", "--memory")
    speed, memory, machine = text.split("\n\n")
    assert len(speed.splitlines()) == 2 + 4
    assert "| flash_attn |" in speed
    assert "times the first" not in speed
    assert "peak RSS" in memory
    assert re.fullmatch(r"(\w+: .+, [\d.]+ GiB, [\d.]+ \wiB free\n)+", machine)


def test_llama_benchs_rows_alone() -> None:
    text = succeed("bench", TINY, TINY, *FAST, "-o", "jsonl", "--no-warmup")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(row["n_prompt"], row["n_gen"]) for row in rows] == [(8, 0), (0, 2)] * 2


def test_llama_benchs_command_lines() -> None:
    """Models by -m, and options that ask for what happens anyway."""
    usual = ("-mmp", "1", "-nkvo", "0", "-ncmoe", "0", "-sm", "layer", "--progress", "--poll=50")
    text = succeed("bench", "-m", f"{TINY},{TINY}", *FAST, "-m", TINY, *usual, "-o", "jsonl")
    rows = [json.loads(line) for line in text.splitlines()]
    assert [row["model_filename"] for row in rows] == [str(TINY)] * 6


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("-mmp", "0"), "there is no -mmp 0: weights are mapped always"),
        (("--mmap=0",), "there is no --mmap 0: weights are mapped"),
        (("-ncmoe", "2"), "there is no -ncmoe 2: experts"), (("-nkvo", "0,1"), "no -nkvo 0,1: the"),
        (("-sm", "row"), "CUDA_VISIBLE_DEVICES"), (("-ts", "1/1"), "CUDA_VISIBLE_DEVICES"),
        (("-ot", "exps=CPU"), "no -ot exps=CPU"), (("-v",), "no -v: llama.cpp's log"),
        (("-C", "0xff"), "taskset"), (("--poll", "0"), "no --poll 0"), (("--delay", "3"), "pauses"),
        (("--prio", "2"), "nice"), (("--numa", "isolate"), "numactl"), (("-oe", "md"), "-o prints"),
        (("-hf", "a/b"), "nothing is downloaded"), (("-ot",), "no -ot: tensors"),
    ],
)  # fmt: skip
def test_what_llama_bench_has_and_we_have_not(args: tuple[str, ...], said: str) -> None:
    done = ggprune("bench", TINY, "-p", "8", *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_model_at_all() -> None:
    assert "say which models" in ggprune("bench").stderr


def test_a_value_that_looks_like_an_option_is_a_value() -> None:
    assert "-v: cannot be read" in ggprune("rank", TINY, "-f", "-v").stderr
    assert "No such option" not in ggprune("bench", "--", "-v").stderr


def test_latency() -> None:
    args = ("-t", "1", "-npl", "1,2", "-ntg", "3", "-npp", "4", "--warmups", "0", "--runs", "2")
    document = json.loads(succeed("bench", TINY, "--latency", *args, "--json"))
    settings = [(x["n_seq"], x["n_output"]) for x in document["models"][0]["latency"]]
    assert settings == [(1, 3), (2, 3)]
    assert document["requests"] == {"n_input": 4, "n_warmup": 0, "n_run": 2}
    assert "latency s" in succeed("bench", TINY, "--latency", *args)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("-p", "1-3*1"), "this step never arrives"),
        (("-ctk", "q6_k"), "one of f16"),
        (("-pg", "5"), "PROMPT,GENERATED"),
        (("-t", "2,1000"), "--threads 1000: must be from 1 to 512"),
        (("-o", "md", "--json"), "llama-bench's rows alone"),
        (("-o", "md", "--roofline"), "llama-bench's rows alone"),
        (("--latency", "-n", "5"), "--latency goes with"),
        (("--latency", "-b", "5,6"), "takes one value of"),
        (("--latency", "-npl", "1000"), "llama.cpp has 256"),
    ],
)
def test_wrong_calls(args: tuple[str, ...], said: str) -> None:
    done = ggprune("bench", TINY, *args)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
