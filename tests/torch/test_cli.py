"""Training as a user runs it: from GGUF to GGUF, what it says, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from ggprune.metrics.chunks import make_chunks
from ggprune.metrics.text import read_text
from ggprune.model.model import open_model
from ggprune.runtime.adapters import Adapter
from ggprune.runtime.session import LlamaModel, Session
from tests.cli.test_cli import ggprune, succeed
from tests.conftest import CALIBRATION, TINY
from tests.helpers import ONE_GRAPH, without_progress

DROP = ("--prune-layers", "2,3,5")
SHORT = ("-f", CALIBRATION, "--train", "--tokens", "8k", "--lr", "2e-3", "-t", "1")
ONLY = (*DROP, *SHORT, "--no-refit")


def test_trained_and_written(tmp_path: Path) -> None:
    out, log, curves = (tmp_path / name for name in ("out.gguf", "log.jsonl", "curves.png"))
    text = succeed("heal", *DROP, *SHORT, "--chunks", "24", TINY, out, "--log", log,
                   "--curves", curves)  # fmt: skip
    assert "| seed | step | tokens |" in text and "best |" in text
    assert "matrices fitted to" in text and "proved against llama.cpp" in text
    assert curves.read_bytes().startswith(b"\x89PNG")
    steps = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["step"] for line in steps if "grad_norm" in line] == [1, 2, 3, 4]
    model = open_model(out)
    assert model.text("ggprune.heal.train.method") == "kd, lora 16"
    after = model.fields.number("ggprune.heal.train.kld.after")
    assert after < model.fields.number("ggprune.heal.train.kld.before")
    assert model.fields.integers("ggprune.dropped_layers") == (2, 3, 5)
    untouched = {t.name for t in model.tensors if "norm" in t.name or "embd" in t.name}
    base = open_model(TINY)
    for name in untouched - {n for n in untouched if n.startswith("blk.")}:
        own, other = model.by_name[name], base.by_name[name]
        pair = [np.fromfile(t.path, np.uint8, t.size_bytes, offset=t.offset) for t in (own, other)]
        assert np.array_equal(pair[0], pair[1])


def test_the_adapter_is_what_was_merged(tmp_path: Path) -> None:
    """llama.cpp with the adapter on the pruned file computes what the merged file does."""
    out, adapter, pruned = (tmp_path / name for name in ("out.gguf", "lora.gguf", "pruned.gguf"))
    text = succeed("heal", *ONLY, TINY, out, "--lora", "4", "--lora-out", adapter)
    assert f"{adapter}, for the model as it was before training" in text
    succeed(*DROP, TINY, pruned)
    with LlamaModel(pruned, ONE_GRAPH) as model, Adapter(model, adapter) as lora:
        chunk = make_chunks(read_text(CALIBRATION), model.tokenize, 64).tokens[:1]
        rows = []
        for applied in (False, True):
            with Session(model, 64, compute=ONE_GRAPH) as session:
                if applied:
                    lora.apply(session)
                rows.append(session.chunk_logits(chunk, 64)[0].copy())
    with LlamaModel(out, ONE_GRAPH) as model, Session(model, 64, compute=ONE_GRAPH) as session:
        merged = session.chunk_logits(chunk, 64)[0].copy()
    moved = np.abs(merged - rows[0]).mean()
    assert moved > 0 and np.abs(merged - rows[1]).mean() < 0.05 * moved


def test_nothing_learned_is_the_pruned_file(tmp_path: Path) -> None:
    out, pruned = tmp_path / "out.gguf", tmp_path / "pruned.gguf"
    refused = ggprune("heal", *ONLY, TINY, out, "--lr", "0")
    assert refused.returncode == 1 and not out.exists()
    assert "the KL divergence on rows set aside did not become smaller" in refused.stderr
    succeed("heal", *ONLY, TINY, out, "--lr", "0", "--force")
    succeed(*DROP, TINY, pruned)
    assert out.read_bytes() == pruned.read_bytes()


def test_a_pruned_file_and_a_type(tmp_path: Path) -> None:
    pruned, out = tmp_path / "pruned.gguf", tmp_path / "out.gguf"
    succeed(*DROP, TINY, pruned)
    document = json.loads(
        succeed("heal", *SHORT, "--no-refit", "--base", TINY, pruned, out, "--type", "Q4_K_M",
                "--full", "--lr", "2e-4", "--json")
    )  # fmt: skip
    training = document["training"]
    assert training["after"]["kld"]["value"] < training["before"]["kld"]["value"]
    assert open_model(out).by_name["blk.0.attn_q.weight"].type.name == "Q4_K"


def test_conversations_are_trained_on(tmp_path: Path) -> None:
    """A broken line is named; the model has no template, which is said."""
    path, out = tmp_path / "talk.jsonl", tmp_path / "out.gguf"
    talk = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    path.write_text(json.dumps(talk) + "\n" + "{")
    train = ("heal", *DROP, "--no-refit", "--train", "-t", "1", TINY, out)
    assert_line(ggprune(*train, "-f", path), "talk.jsonl:2: is not JSON", 1)
    path.write_text(json.dumps(talk) + "\n")
    assert_line(ggprune(*train, "-f", path), "no chat template", 1)
    path.write_text("".join(json.dumps({"text": f"some words {n} " * 90}) + "\n" for n in range(9)))
    text = succeed(*train, "-f", path, "-c", "64", "--batch", "128", "--tokens", "1k")
    assert "1 set aside" in text or "set aside" in text


def assert_line(process: object, said: str, code: int) -> None:
    stderr, returncode = process.stderr, process.returncode  # type: ignore[attr-defined]
    assert returncode == code, stderr
    assert said in stderr, stderr
    lines = [line for line in without_progress(stderr).splitlines() if line.strip()]
    assert len(lines) == 1 and lines[0].startswith("ggprune: error: "), stderr


WRONG = [
    (("--loss", "mse"), "--loss mse: one of kd, ce, kd+ce", 2),
    (("--lora", "adapter.gguf"), "with --train it is a rank", 2),
    (("--lora", "8", "--full"), "--lora or --full, not both", 2),
    (("--recipe", "secret"), "--recipe secret: one of modelopt", 2),
    (("--batch", "100"), "--batch 100 tokens a step hold no row of 512", 2),
    (("--tokens", "many"), "--tokens many: write a number", 2),
    (("--tokens", "1k", "--epochs", "2"), "--tokens or --epochs, not both", 2),
    (("--device", "tpu"), "--device tpu: one of auto, cpu, cuda, mps", 2),
    (("--rank", "8", "--lora", "8"), "--rank does not go with --train", 2),
    (("--answers-only",), "has no answers, which --answers-only trains on", 1),
    (("-c", "8192", "--batch", "8192"), "at least one of each is needed", 1),
    (("--curves", "curves.txt"), "a plot is written as", 2),
    (("--full", "--lora-out", "x.gguf"), "--full has none", 2),
    (("--lora-out", "x.gguf"), "heal it first", 2),
]


@pytest.mark.parametrize(("wrong", "said", "code"), WRONG)
def test_mistakes_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: tuple[str, ...], said: str, code: int
) -> None:
    monkeypatch.chdir(tmp_path)
    args = [arg for arg in SHORT if not (arg in ("--tokens", "8k") and "--epochs" in wrong)]
    args = args if "--epochs" not in wrong else [*args, "--tokens", "1k"]
    args = args if said == "heal it first" else [*args, "--no-refit"]
    assert_line(ggprune("heal", *DROP, *args, TINY, "out.gguf", *wrong), said, code)
    assert not (tmp_path / "out.gguf").exists()


def test_options_of_training_without_it(tmp_path: Path) -> None:
    process = ggprune("heal", *DROP, "-f", CALIBRATION, TINY, tmp_path / "out.gguf", "--lr", "1e-4")
    assert_line(process, "--lr is about training: add --train", 2)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    process = ggprune("heal", *ONLY, TINY, tmp_path / "out.gguf", "--device", "cuda")
    assert_line(process, "torch sees no such device", 1)


def test_an_architecture_that_transformers_does_not_read(tmp_path: Path) -> None:
    """Read by llama.cpp alone; said before anything is fitted."""
    from tests.arch.families import FAMILIES

    family = next(f for f in FAMILIES if f.arch == "starcoder")
    model = family.make(tmp_path)
    process = ggprune("heal", "--prune-layers", "3", *SHORT, model.path, tmp_path / "out.gguf")
    assert_line(process, "transformers does not read GGUF files of starcoder", 1)


def test_too_little_memory_is_said_before_loading(tmp_path: Path) -> None:
    process = ggprune(
        "heal", *DROP, "--train", "--no-refit", "-f", CALIBRATION, TINY, tmp_path / "out.gguf",
        "-c", "4096", "--batch", "4096000", "--micro-batch", "1000",
    )  # fmt: skip
    assert_line(process, "GiB of memory on cpu", 1)


def test_a_run_goes_on_only_with_the_same_settings(tmp_path: Path) -> None:
    """A folder of checkpoints belongs to one training, and to the same model."""
    folder, out = tmp_path / "checkpoints", tmp_path / "out.gguf"
    refused = ggprune("heal", *ONLY, TINY, out, "--checkpoints", folder, "--lr", "0")
    (folder / "log.jsonl").touch()
    assert refused.returncode == 1 and (folder / "finished-0.pt").exists()
    other = ggprune("heal", *ONLY, TINY, out, "--checkpoints", folder, "--seed", "3", "--lr", "0")
    assert_line(other, "holds a training with other settings: seed was 0, not 3", 2)
    again = succeed("heal", *ONLY, TINY, out, "--checkpoints", folder, "--lr", "0", "--force")
    assert "KLD " in again and not list(folder.glob("*.pt"))
    assert (folder / "log.jsonl").exists()  # what is not ours stays
    tmp_path.joinpath("mine").mkdir()
    tmp_path.joinpath("mine", "thesis.txt").write_text("keep")
    mine = ggprune("heal", *ONLY, TINY, out, "--checkpoints", tmp_path / "mine", "--force")
    assert_line(mine, "holds no training, and is not empty", 2)


def test_a_launcher_of_several_processes(tmp_path: Path) -> None:
    """As `accelerate launch` starts them; the same run as that of one process."""
    outs = [tmp_path / name for name in ("alone.gguf", "launched.gguf")]
    args = [*map(str, ONLY), "--device", "cpu", str(TINY)]
    succeed("heal", *args, outs[0])
    launcher = ("-m", "accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1",
                "--mixed_precision", "no", "--dynamo_backend", "no", "--cpu")  # fmt: skip
    command = [sys.executable, *launcher, "-m", "ggprune", "heal", *args, str(outs[1])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("written  ") == 1  # the first one speaks for both
    klds = [open_model(out).fields.number("ggprune.heal.train.kld.after") for out in outs]
    assert klds[0] == pytest.approx(klds[1], rel=1e-3)


def test_killed_and_called_again(tmp_path: Path) -> None:
    """A signal that nothing can catch: the file is that of a run that was left alone."""
    whole, parts, log = (tmp_path / name for name in ("whole.gguf", "parts.gguf", "log.jsonl"))
    args = (*ONLY, "--tokens", "24k", "--micro-batch", "1", TINY)
    succeed("heal", *args, whole)
    command = [sys.executable, "-m", "ggprune", "heal", *map(str, args), str(parts)]
    process = subprocess.Popen([*command, "--log", str(log)], stderr=subprocess.DEVNULL)
    while not (log.exists() and '"step": 5,' in log.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not parts.exists() and not list(tmp_path.glob(".*"))
    begun = log.read_text().splitlines()[:6]
    succeed("heal", *args, parts, "--log", log)  # the same command again
    lines = log.read_text().splitlines()
    assert lines[:6] == begun  # it went on
    steps = [json.loads(line)["step"] for line in lines if "grad_norm" in line]
    assert steps == list(range(1, 13))
    assert whole.read_bytes() == parts.read_bytes()
